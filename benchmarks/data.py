"""Generated data: histories that our publisher writes in order of arrival, and a Parquet file of
entity rows; the same on every run.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import stores.tables.manifest
import stores.tables.table
from benchmarks.harness import NoData
from stores.tables import CREATED, EVENT, Table, connect

ROW = "row"
DAY = 86_400_000_000
START = 1_577_836_800_000_000  # 2020-01-01 in microseconds
MONTH = 30 * DAY
_COMPLETE = "dataset.json"


@dataclass(frozen=True)
class View:
    """The history of one feature view: each entity has a row in each step of `days / steps` days.

    `features` are names with Arrow types. Rows are published in about `commits` commits. With
    `jitter`, an event is at a random time of its step; with `scattered`, of all days. The share
    `late` of the rows becomes known up to a month after the event, the others at the event. Each
    feature has `levels` distinct values.
    """

    name: str
    key: str
    features: tuple[tuple[str, str], ...]
    entities: int
    steps: int
    days: int
    commits: int
    jitter: bool = True
    scattered: bool = False
    late: float = 0.0
    text_keys: bool = False
    levels: int = 4096

    @property
    def rows(self) -> int:
        """How many rows the history has."""
        return self.entities * self.steps


@dataclass(frozen=True)
class DataSet:
    """Histories and entity rows of a case.

    `asked`: `anytime` (random entities, 1% of them unknown, at random times), `each` (every entity
    once) or `shifted` (each event of the first view's grid, half a minute earlier and for twice the
    key, so that half of the entities are unknown).
    """

    views: tuple[View, ...]
    rows: int
    asked: Literal["anytime", "each", "shifted"] = "anytime"

    def make(self, folder: Path, progress: Progress) -> None:
        """Write all files into the folder, unless it already has them."""
        description, complete = _description(self), folder / _COMPLETE
        if complete.exists() and json.loads(complete.read_text()) == description:
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        needed = self.max_bytes()
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise NoData(
                f"{folder} has {free / 1e9:.0f} GB of free space; {self.views[0].name} needs"
                f" {needed / 1e9:.0f} GB."
            )
        for number, view in enumerate(self.views):
            _publish(view, folder / "tables", np.random.default_rng([3, number]), progress)
        pq.write_table(_entity_rows(self, np.random.default_rng(7)), folder / "entities.parquet")
        complete.write_text(json.dumps(description))

    def max_bytes(self) -> int:
        """A rough upper bound of the size of the files, without spilled data."""
        return sum(view.rows * (16 + 4 * len(view.features)) for view in self.views)


class Progress:
    """Prints the progress of data generation to standard error, in steps of 10%."""

    def __init__(self) -> None:
        self._last_line = ""

    def show(self, name: str, rows: int, of: int) -> None:
        """Report that `rows` of `of` rows are generated."""
        line = f"{name}: {rows * 10 // of * 10}% of {of:,} rows generated"
        if line != self._last_line:
            self._last_line = line
            print(line, file=sys.stderr, flush=True)


def read(folder: Path) -> DataSet:
    """The description of the data in a complete folder."""
    fields = json.loads((folder / _COMPLETE).read_text())["data"]
    views = tuple(
        View(**{**view, "features": tuple(map(tuple, view["features"]))})
        for view in fields.pop("views")
    )
    return DataSet(views, **fields)


def generator_hash(maker: str = __file__) -> str:
    """A hash of the source code of a generator and of our publisher.

    Data with another hash are generated again.
    """
    sources = [
        Path(maker),
        *(Path(str(module.__file__)) for module in (stores.tables.table, stores.tables.manifest)),
    ]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _description(data: DataSet) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(
        json.dumps({"data": asdict(data), "written_by": generator_hash()})
    )
    return described


def files(folder: Path, view: View) -> list[str]:
    """The view's Parquet files in order of arrival, for contenders that read no manifest."""
    return sorted(map(str, (folder / "tables" / view.name).rglob("*.parquet")))


def _publish(view: View, root: Path, random: np.random.Generator, progress: Progress) -> None:
    table = Table.for_definition(root, view.name, "made", (view.key,))
    done = 0
    with connect(memory_limit="4GB") as connection:
        for rows in _in_order_of_arrival(view, random):
            connection.register("__rows", rows)
            done += table.publish(connection, "FROM __rows")
            progress.show(view.name, done, view.rows)
    remove_merged_files(table)


def remove_merged_files(table: Table) -> None:
    """Delete the files of earlier commits, whose rows are also in the files that replaced them.

    The other contenders read every file of the folder.
    """
    current = {table.root / file.path for file in table.files()}
    for path in table.folder.rglob("*.parquet"):
        if path not in current:
            path.unlink()


def _in_order_of_arrival(view: View, random: np.random.Generator) -> Iterator[pa.Table]:
    waiting: pa.Table | None = None
    for rows, end in _scattered(view, random) if view.scattered else _stepwise(view, random):
        if view.late:
            created = rows[EVENT].cast(pa.int64()).to_numpy().copy()
            late = random.random(len(created)) < view.late
            created[late] += random.integers(1, MONTH, int(late.sum()))
            rows = rows.set_column(
                rows.schema.get_field_index(CREATED), CREATED, pa.array(created, pa.timestamp("us"))
            )
            rows = pa.concat_tables([waiting, rows]) if waiting is not None else rows
            known = rows[CREATED].cast(pa.int64()).to_numpy() < end
            rows, waiting = rows.filter(pa.array(known)), rows.filter(pa.array(~known))
        yield rows
    if waiting is not None:
        yield waiting


def _stepwise(view: View, random: np.random.Generator) -> Iterator[tuple[pa.Table, int]]:
    step = view.days * DAY // view.steps
    at_once = max(view.steps // view.commits, 1)
    for first in range(0, view.steps, at_once):
        steps = np.arange(first, min(first + at_once, view.steps))
        events = START + np.repeat(steps * step, view.entities)
        if view.jitter:
            events += random.integers(0, step, len(events))
        yield (
            _rows(view, np.tile(np.arange(view.entities), len(steps)), events, random),
            START + (first + len(steps)) * step,
        )


def _scattered(view: View, random: np.random.Generator) -> Iterator[tuple[pa.Table, int]]:
    events = START + random.integers(0, view.days * DAY, view.rows)
    order = np.argsort(events, kind="stable")
    for part in np.array_split(order, view.commits):
        yield _rows(view, part % view.entities, events[part], random), int(events[part[-1]]) + 1


def _rows(
    view: View, keys: np.ndarray, events: np.ndarray, random: np.random.Generator
) -> pa.Table:
    columns = {view.key: _keys(keys, text=view.text_keys)}
    for number, (name, kind) in enumerate(view.features):
        # Few distinct values, like prices and counts; 2% of the first feature are null.
        values = random.integers(0, view.levels, len(keys), np.int16)
        missing = random.random(len(keys)) < 0.02 if number == 0 else None
        columns[name] = pa.array(
            values / np.float32(16) if kind == "float" else values, kind, mask=missing
        )
    times = pa.array(events, pa.timestamp("us"))
    return pa.table({**columns, EVENT: times, CREATED: times})


def _keys(numbers: np.ndarray, *, text: bool) -> pa.Array:
    return (
        pa.array([f"customer_{number:06d}" for number in numbers.tolist()])
        if text
        else pa.array(numbers, pa.int64())
    )


def _entity_rows(data: DataSet, random: np.random.Generator) -> pa.Table:
    first, rows = data.views[0], data.rows
    keys = {view.key: view for view in data.views}
    if data.asked == "shifted":
        step = first.days * DAY // first.steps
        numbers = np.arange(rows)
        columns = {first.key: _keys(numbers % first.entities * 2, text=False)}
        moments = START + numbers // first.entities * step - 30_000_000
    else:
        anyone = {
            key: random.integers(0, max(view.entities * 101 // 100, view.entities + 1), rows)
            for key, view in keys.items()
        }
        chosen = {key: np.arange(rows) for key in keys} if data.asked == "each" else anyone
        columns = {key: _keys(chosen[key], text=view.text_keys) for key, view in keys.items()}
        moments = START + random.integers(0, first.days * DAY, rows)
    return pa.table(
        {ROW: np.arange(rows), **columns, EVENT: pa.array(moments, pa.timestamp("us", "UTC"))}
    )
