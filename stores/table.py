"""Append-only tables of immutable Parquet files, partitioned by the day their rows became known."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.errors import BrokenTable, DataFolderError
from feature_repo.times import micros
from stores.manifest import DataFile, Manifest, TableVersion

EVENT = "event_timestamp"
CREATED = "created_timestamp"
_DAY = 86_400_000_000


def quoted(name: str) -> str:
    """A column or table name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as a SQL string."""
    return "'" + text.replace("'", "''") + "'"


def timestamp(moment: datetime) -> str:
    """An aware moment as a naive-UTC SQL timestamp, exact to the microsecond."""
    return f"make_timestamp({micros(moment)})"


def connect(*, memory_limit: str | None = None, threads: int | None = None, temporary: Path | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection of one's own, whose clock zone is UTC, with limits where given."""
    config: dict[str, str | bool | int | float | list[str]] = {}
    if memory_limit:
        config["memory_limit"] = memory_limit
    if threads:
        config["threads"] = threads
    if temporary:
        config["temp_directory"] = str(temporary)
    connection = duckdb.connect(config=config)
    connection.execute("SET TimeZone = 'UTC'")
    # Its own progress bar would write over ours.
    connection.execute("SET enable_progress_bar = false")
    return connection


class Table:
    """One version of a table in a `tables` folder.

    Rows are unique in (keys, event_timestamp, created_timestamp). Both times are naive UTC in the files.
    """

    def __init__(self, root: Path, version: TableVersion) -> None:
        self.root = root
        self.version = version
        self.manifest = Manifest(root)
        self.folder = root / version.name / f"v{version.version}"

    @classmethod
    def current(cls, root: Path, name: str) -> Table | None:
        """The newest version of a table, if it has been published."""
        version = Manifest(root).current(name)
        return cls(root, version) if version else None

    @classmethod
    def for_definition(cls, root: Path, name: str, fingerprint: str, keys: tuple[str, ...]) -> Table:
        """The table as the definition makes it: the newest version if that fits, else a new one."""
        manifest = Manifest(root)
        now = manifest.current(name)
        if now and now.fingerprint == fingerprint:
            return cls(root, now)
        return cls(root, manifest.next_version(name, fingerprint, keys))

    @property
    def name(self) -> str:
        """The table's name, which is its feature view's or its events'."""
        return self.version.name

    @property
    def built_until(self) -> datetime | None:
        """Every row that becomes effective by this moment is in the table; None before the first build."""
        return self.manifest.watermark(self.version, "built")

    def files(self, commit: int | None = None) -> list[DataFile]:
        """The files at a commit, by default the newest."""
        return self.manifest.files(self.version, commit)

    def rows(self, commit: int | None = None) -> int:
        """How many rows the table has at a commit."""
        return sum(file.rows for file in self.files(commit))

    def scan(self, files: list[DataFile] | None = None, columns: tuple[str, ...] | None = None) -> str:
        """A SQL SELECT over the files (all of the newest commit by default); an empty table gives no rows."""
        chosen = self.files() if files is None else files
        if not chosen:
            raise BrokenTable(f"table '{self.name}' has no files yet.")
        paths = ", ".join(literal(str(self.root / file.path)) for file in chosen)
        wanted = ", ".join(quoted(column) for column in columns) if columns else "*"
        return f"SELECT {wanted} FROM read_parquet([{paths}], hive_partitioning = false)"

    def read(self, commit: int | None = None) -> pa.Table:
        """All rows at a commit, as Arrow."""
        files = self.files(commit)
        if not files:
            return pa.table({})
        with connect() as connection:
            return connection.execute(self.scan(files)).to_arrow_table()

    def publish(self, connection: duckdb.DuckDBPyConnection, select: str, built_until: datetime | None = None) -> int:
        """Append the rows of a SELECT and move the built watermark; returns how many rows were added.

        Files are written aside and renamed; a process that dies leaves the table as it was.
        Raises `BrokenTable` where rows repeat (keys, event_timestamp, created_timestamp), among themselves or
        with rows that are there.
        """
        aside = self.folder / f".aside-{uuid.uuid4().hex[:8]}"
        try:
            aside.mkdir(parents=True)
            written = self._write(connection, select, aside)
            try:
                self._refuse_repetitions(connection, written, aside)
                self._move_into_place(written, aside)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        except OSError as error:
            raise DataFolderError(f"cannot write table '{self.name}' in {self.folder}: {error.strerror or error}.") from error
        if written or built_until is not None:
            self.manifest.commit(self.version, written, built_until)
        return sum(file.rows for file in written)

    def _write(self, connection: duckdb.DuckDBPyConnection, select: str, aside: Path) -> list[DataFile]:
        number = self.manifest.head(self.version) + 1
        order = ", ".join(map(quoted, (CREATED, EVENT, *self.version.keys)))
        reader = connection.execute(f"SELECT * FROM ({select}) ORDER BY {order}").to_arrow_reader(200_000)
        newest = max((file.max_event for file in self.files()), default=None)
        written: list[DataFile] = []
        for day, rows in _days(reader):
            self._refuse_neighbours(rows)
            created, event = (rows[name].cast(pa.int64()).to_numpy() for name in (CREATED, EVENT))
            in_order = bool(np.all(np.diff(event) >= 0)) and (newest is None or int(event.min()) >= newest)
            newest = max(int(event.max()), newest if newest is not None else int(event.max()))
            # A name is used once: a run that died before its commit may have left the file of the same number.
            name = f"{np.datetime64(day, 'D')}/{number:06d}-{uuid.uuid4().hex[:8]}.parquet"
            (aside / name).parent.mkdir(exist_ok=True)
            pq.write_table(rows, aside / name, compression="zstd", compression_level=1)
            path = str((self.folder / name).relative_to(self.root))
            ends = (int(event.min()), int(event.max()), int(created[0]), int(created[-1]))
            written.append(DataFile(path, rows.num_rows, *ends, in_order))
        return written

    def _refuse_repetitions(self, connection: duckdb.DuckDBPyConnection, written: list[DataFile], aside: Path) -> None:
        """Raise where a written row is in the table already; repetitions among the written ones are found as they are written."""
        if not written:
            return
        low, high = min(file.min_created for file in written), max(file.max_created for file in written)
        near = [file for file in self.files() if file.max_created >= low and file.min_created <= high]
        if not near:
            return
        columns = (*self.version.keys, EVENT, CREATED)
        new = ", ".join(literal(str(path)) for path in aside.glob("*/*.parquet"))
        found = connection.execute(
            f"SELECT {', '.join(map(quoted, columns))} FROM read_parquet([{new}], hive_partitioning = false)"
            f" SEMI JOIN ({self.scan(near, columns)}) USING ({', '.join(map(quoted, columns))}) LIMIT 1"
        ).fetchone()
        if found:
            raise self._repetition(found)

    def _refuse_neighbours(self, rows: pa.Table) -> None:
        """Raise where two rows of a sorted day are the same in keys and times."""
        columns = (*self.version.keys, EVENT, CREATED)
        same = None
        for name in columns:
            equal = pc.equal(rows[name].slice(1), rows[name].slice(0, rows.num_rows - 1)).fill_null(True)
            same = equal if same is None else pc.and_(same, equal)
        if same is not None and pc.any(same).as_py():
            at = pc.index(same, True).as_py()
            raise self._repetition(tuple(rows[name][at].as_py() for name in columns))

    def _repetition(self, values: tuple[object, ...]) -> BrokenTable:
        what = ", ".join(f"{name}={value}" for name, value in zip((*self.version.keys, EVENT, CREATED), values, strict=True))
        return BrokenTable(f"table '{self.name}' was offered two rows for {what}; a correction needs a later created_timestamp.")

    def _move_into_place(self, written: list[DataFile], aside: Path) -> None:
        for file in written:
            final = self.root / file.path
            final.parent.mkdir(parents=True, exist_ok=True)
            os.replace(aside / final.relative_to(self.folder), final)

    def compact(self, before: datetime, *, least: int = 2) -> int:
        """Merge the files of each day of created_timestamp that ended before a moment; returns how many went.

        What earlier commits show stays as it was: their files are kept.
        """
        closed = micros(before) // _DAY
        days: dict[str, list[DataFile]] = {}
        for file in self.files():
            if file.max_created // _DAY < closed:
                days.setdefault(Path(file.path).parent.name, []).append(file)
        merged: list[DataFile] = []
        replaced: list[DataFile] = []
        number = self.manifest.head(self.version) + 1
        for day, files in days.items():
            if len(files) < least:
                continue
            rows = pa.concat_tables([pq.read_table(self.root / file.path) for file in files])
            rows = rows.sort_by([(column, "ascending") for column in (CREATED, EVENT, *self.version.keys)])
            final = self.folder / day / f"{number:06d}-{uuid.uuid4().hex[:8]}.parquet"
            aside = final.with_suffix(".aside")
            pq.write_table(rows, aside, compression="zstd", compression_level=1)
            os.replace(aside, final)
            merged.append(
                DataFile(
                    str(final.relative_to(self.root)),
                    rows.num_rows,
                    min(file.min_event for file in files),
                    max(file.max_event for file in files),
                    min(file.min_created for file in files),
                    max(file.max_created for file in files),
                    all(file.in_order for file in files),
                )
            )
            replaced += files
        if merged:
            self.manifest.commit(self.version, merged, None, replaced)
        return len(replaced)


def _days(reader: pa.RecordBatchReader) -> Iterator[tuple[int, pa.Table]]:
    """Consecutive rows of one day of created_timestamp, from a reader that is sorted by it."""
    waiting: list[pa.RecordBatch] = []
    current: int | None = None
    for batch in reader:
        if batch.num_rows == 0:
            continue
        days = pc.cast(batch[CREATED], pa.int64()).to_numpy(zero_copy_only=False) // _DAY
        edges = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), batch.num_rows]
        for start, end in zip(edges[:-1], edges[1:], strict=True):
            day = int(days[start])
            if current is not None and day != current:
                yield current, pa.Table.from_batches(waiting)
                waiting = []
            current = day
            waiting.append(batch.slice(start, end - start))
    if waiting and current is not None:
        yield current, pa.Table.from_batches(waiting)


def canonical_hash(rows: pa.Table) -> str:
    """SHA-256 of rows as a set with repetitions: independent of their order, of files, chunks and compression.

    Columns are taken in order of name; their names and types count. Rows are sorted by all columns, nulls last.
    """
    rows = rows.select(sorted(rows.column_names))
    rows = rows.cast(pa.schema([pa.field(f.name, _canonical_type(f.type)) for f in rows.schema]))
    keys = [(f.name, "ascending") for f in rows.schema if not pa.types.is_nested(f.type)]
    rows = rows.sort_by(keys) if keys and rows.num_rows else rows
    total = hashlib.sha256(str(rows.schema.remove_metadata()).encode())
    total.update(rows.num_rows.to_bytes(8, "little"))
    for column in rows.columns:
        values = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        total.update(np.packbits(pc.is_valid(values).to_numpy(zero_copy_only=False)).tobytes())
        total.update(_value_bytes(values))
    return total.hexdigest()


def _canonical_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(type_):
        return _canonical_type(type_.value_type)
    if pa.types.is_large_string(type_):
        return pa.string()
    if pa.types.is_timestamp(type_):
        return pa.timestamp("us", type_.tz)
    return type_


def _value_bytes(values: pa.Array) -> bytes:
    """The values' bytes, with nulls and every NaN written one way."""
    type_ = values.type
    if pa.types.is_floating(type_):
        numbers = values.fill_null(0.0).to_numpy(zero_copy_only=False).astype(np.float64)
        numbers = np.where(np.isnan(numbers), np.nan, numbers) + 0.0
        return bytes(numbers.tobytes())
    if pa.types.is_boolean(type_):
        return bytes(values.fill_null(False).to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_integer(type_) or pa.types.is_timestamp(type_):
        return bytes(values.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).tobytes())
    return repr(values.to_pylist()).encode()
