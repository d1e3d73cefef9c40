"""Generated data for the online benchmarks: feature views of one entity, and requests for them; the
same on every run.
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

from benchmarks.data import DAY, START, Progress, generator_hash, remove_merged_files
from stores.tables import CREATED, EVENT, Table, connect

KEY = "entity"
ROWS_A_COMMIT = 250_000
FIRST = datetime(2020, 1, 1, tzinfo=UTC)
BUILT = FIRST + timedelta(days=2)
_COMPLETE = "online_data.json"


@dataclass(frozen=True)
class OnlineData:
    """Views with one row per entity, in random order of arrival over a day; `features` is per view.

    Features are alternately Float64 and Int64 (up to 2^52, which doubles represent exactly). 2% of
    each view's first feature are null.
    """

    views: int
    features: int
    entities: int

    @property
    def view_names(self) -> list[str]:
        """The names in order; a service of fewer views has the first ones."""
        return [f"view_{number:02d}" for number in range(self.views)]

    def feature_names(self, view: int) -> list[str]:
        """The feature names of one view, unique among all views."""
        return [f"feature_{view * self.features + number}" for number in range(self.features)]

    def tables(self, folder: Path) -> Path:
        """The folder of the views' tables."""
        return folder / "tables"

    def make(self, folder: Path, progress: Progress) -> None:
        """Publish every view's rows into the folder, unless it already has them."""
        complete, description = (
            folder / _COMPLETE,
            json.dumps({**asdict(self), "written_by": generator_hash(__file__)}),
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
            remove_merged_files(table)
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
    """A sequence of requests, each for `rows` random entities and the features of the first `views`
    views.

    With `missing`, a third of the requested entities are unknown.
    """

    views: int
    rows: int
    requests: int
    missing: bool = False

    def keys(self, entities: int) -> np.ndarray:
        """The keys as a matrix of requests by rows."""
        asked = entities * 3 // 2 if self.missing else entities
        return np.random.default_rng([13, self.rows]).integers(0, asked, (self.requests, self.rows))


def values_hash(matrices: Iterator[np.ndarray]) -> str:
    """A shortened SHA-256 of matrices of doubles; all NaNs are equal."""
    total = hashlib.sha256()
    for matrix in matrices:
        values = np.array(matrix, np.float64, order="C")
        values[np.isnan(values)] = np.nan
        total.update(repr(values.shape).encode())
        total.update(values.tobytes())
    return total.hexdigest()[:16]
