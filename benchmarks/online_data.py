"""Made data for the online benchmarks: feature views of one entity, and the requests for them;
always the same.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.data import DAY, START, Progress, written_by
from stores.tables import CREATED, EVENT, Table, connect

KEY = "entity"
ROWS_A_COMMIT = 250_000
FIRST = datetime(2020, 1, 1, tzinfo=UTC)
BUILT = FIRST + timedelta(days=2)
_COMPLETE = "online_data.json"


@dataclass(frozen=True)
class OnlineData:
    """So many views of so many features for so many entities, one row each, in random order of
    arrival over a day.

    Features are Float64 and Int64 in turn, of full width (integers up to 2^52, so that a matrix of
    doubles holds them); of each view's first, one value in fifty is null.
    """

    views: int
    features: int
    entities: int

    @property
    def view_names(self) -> list[str]:
        """In order; a service of fewer views has the first ones."""
        return [f"view_{number:02d}" for number in range(self.views)]

    def feature_names(self, view: int) -> list[str]:
        """Those of one view; no other view has the same."""
        return [f"feature_{view * self.features + number}" for number in range(self.features)]

    def tables(self, folder: Path) -> Path:
        """Where the tables of the views are."""
        return folder / "tables"

    def make(self, folder: Path, progress: Progress) -> None:
        """Publish every view's rows into the folder, unless they are there complete."""
        complete, description = (
            folder / _COMPLETE,
            json.dumps({**asdict(self), "written_by": written_by(__file__)}),
        )
        if complete.exists() and complete.read_text() == description:
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for number, name in enumerate(self.view_names):
            table = Table.for_definition(self.tables(folder), name, "made", (KEY,))
            done = 0
            with connect(memory_limit="2GB") as connection:
                for rows, until in self._arriving(number):
                    connection.register("__rows", rows)
                    done += table.publish(connection, "FROM __rows", until)
                    progress.show(name, done, self.entities)
        complete.write_text(description)

    def _arriving(self, view: int) -> Iterator[tuple[pa.Table, datetime]]:
        random = np.random.default_rng([11, view])
        entities = random.permutation(self.entities)
        parts = np.array_split(entities, -(-self.entities // ROWS_A_COMMIT))
        length = DAY // len(parts)
        for number, keys in enumerate(parts):
            last = number == len(parts) - 1
            moments = pa.array(
                START + number * length + np.sort(random.integers(0, length, len(keys))),
                pa.timestamp("us"),
            )
            columns = {KEY: pa.array(keys, pa.int64()), EVENT: moments, CREATED: moments}
            until = BUILT if last else FIRST + timedelta(microseconds=(number + 1) * length - 1)
            yield pa.table({**columns, **self._values(view, len(keys), random)}), until

    def _values(self, view: int, rows: int, random: np.random.Generator) -> dict[str, pa.Array]:
        values = {}
        for number, name in enumerate(self.feature_names(view)):
            drawn = (
                random.integers(0, 2**52, rows) if number % 2 else random.normal(100.0, 25.0, rows)
            )
            values[name] = pa.array(drawn, mask=random.random(rows) < 0.02 if number == 0 else None)
        return values


@dataclass(frozen=True)
class Reads:
    """A sequence of requests: each so many random entities for the features of the first so many
    views.

    With `missing` a third of the entities asked for are unknown.
    """

    views: int
    rows: int
    requests: int
    missing: bool = False

    def keys(self, entities: int) -> np.ndarray:
        """Requests by rows."""
        asked = entities * 3 // 2 if self.missing else entities
        return np.random.default_rng([13, self.rows]).integers(0, asked, (self.requests, self.rows))


def values_hash(matrices: Iterator[np.ndarray]) -> str:
    """SHA-256, shortened, of matrices of doubles; every NaN is the same."""
    total = hashlib.sha256()
    for matrix in matrices:
        values = np.array(matrix, np.float64, order="C")
        values[np.isnan(values)] = np.nan
        total.update(repr(values.shape).encode())
        total.update(values.tobytes())
    return total.hexdigest()[:16]
