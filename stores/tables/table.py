"""Append-only tables of immutable Parquet files, partitioned by `created_timestamp` as the volume
asks.
"""

from __future__ import annotations

import fcntl
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from punctual.errors import BrokenTable
from punctual.times import from_micros, micros
from stores.tables.compaction import BATCH_ROWS, file_batches, merges
from stores.tables.manifest import DataFile, Manifest, RowStatistics, TableVersion
from stores.tables.parquet import write_parquet
from stores.tables.sql import connect, parquet_rows, quoted
from stores.tables.write_errors import writing

EVENT = "event_timestamp"
CREATED = "created_timestamp"
WITHDRAWN = "is_withdrawn"
PUBLISHER_LOCK = ".lock"
_IN_NAMES = {ord("-"): None, ord(":"): None}


class Table:
    """One version of a table in a `tables` folder.

    Rows are unique in (keys, event_timestamp, created_timestamp). Both times are naive UTC in the
    files.
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
    def of_definition(cls, root: Path, name: str, fingerprint: str) -> Table | None:
        """The table as the definition makes it, if it was published; the newest for no fingerprint."""
        manifest = Manifest(root)
        version = (
            manifest.of_fingerprint(name, fingerprint) if fingerprint else manifest.current(name)
        )
        return cls(root, version) if version else None

    @classmethod
    def for_definition(
        cls, root: Path, name: str, fingerprint: str, keys: tuple[str, ...]
    ) -> Table:
        """The table as the definition makes it: the version that it made, else a new one."""
        manifest = Manifest(root)
        made = manifest.of_fingerprint(name, fingerprint)
        return cls(root, made or manifest.next_version(name, fingerprint, keys))

    @property
    def _sort_columns(self) -> tuple[str, ...]:
        """The columns by which rows are sorted in files; no two rows have the same values of them."""
        return (CREATED, EVENT, *self.version.keys)

    @property
    def name(self) -> str:
        """The table's name, which is its feature view's or its events'."""
        return self.version.name

    @property
    def built_until(self) -> datetime | None:
        """Every row that becomes effective by this moment is in the table; None before the first
        build.
        """
        return self.manifest.built_until(self.version)

    def files(self, commit: int | None = None) -> list[DataFile]:
        """The files at a commit, by default the newest."""
        return self.manifest.files(self.version, commit)

    def rows(self, commit: int | None = None) -> int:
        """How many rows the table has at a commit."""
        return sum(file.rows for file in self.files(commit))

    @property
    def has_withdrawals(self) -> bool:
        """Whether the table's rows can be withdrawn (see `publish`)."""
        files = self.files()
        return bool(files) and WITHDRAWN in pq.read_schema(self.root / files[0].path).names

    def scan(
        self, files: list[DataFile] | None = None, columns: tuple[str, ...] | None = None
    ) -> str:
        """A SQL SELECT over the files (all of the newest commit by default); an empty table gives
        no rows.
        """
        chosen = self.files() if files is None else files
        if not chosen:
            raise BrokenTable(f"table '{self.name}' has no files yet.")
        wanted = ", ".join(quoted(column) for column in columns) if columns else "*"
        rows = parquet_rows(self.root / file.path for file in chosen)
        return f"SELECT {wanted} FROM {rows}"

    def read(self, commit: int | None = None) -> pa.Table:
        """All rows at a commit, as Arrow."""
        files = self.files(commit)
        if not files:
            return pa.table({})
        with connect() as connection:
            return connection.sql(self.scan(files)).to_arrow_table()

    def publish(
        self,
        connection: duckdb.DuckDBPyConnection,
        select: str,
        built_until: datetime | None = None,
    ) -> int:
        """Append the rows of a SELECT and move the built watermark; returns how many rows were
        added.

        A row whose `is_withdrawn` is true takes back what its keys showed: from its effect on they
        show nulls, until a newer row. It has the `event_timestamp` of what it withdraws, or a later
        one, and a later `created_timestamp`; its features are not read. The columns of a version
        are fixed: where rows may be withdrawn, every commit from the first has the column (false or
        null elsewhere), beside those that the view declares; a table without it gets it in a new
        version. No feature may bear that name. Files are written aside and renamed; a process that
        dies leaves the table as it was. In the same commit, small files that are next to each other
        in `created_timestamp` are merged; those that they were stay for earlier commits. Raises
        `BrokenTable` where rows repeat (keys, event_timestamp, created_timestamp), among themselves
        or with rows that are there, where they have other columns than those, no time, or a moment
        that is closed; `DataFolderError` where they cannot be written.
        """
        with self._exclusive():
            aside = self.folder / f".aside-{uuid.uuid4().hex[:8]}"
            aside.mkdir(parents=True)
            try:
                written = self._write(connection, select, aside)
                self._check_same_columns(connection, written, aside)
                self._check_no_duplicates(connection, written, aside)
                added, removed = self._merged(written, aside)
                for file in added:
                    (aside / Path(file.path).name).replace(self.root / file.path)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            if written or built_until is not None:
                self.manifest.commit(self.version, added, built_until, removed)
        return sum(file.rows for file in written)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Take the table's lock, or wait for it: what is checked against the table's rows must stay
        true until the commit.
        """
        with writing(f"table '{self.name}' in", self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with (self.folder.parent / PUBLISHER_LOCK).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                for left_behind in self.folder.glob(".aside-*"):
                    shutil.rmtree(left_behind, ignore_errors=True)
                yield

    def _write(
        self, connection: duckdb.DuckDBPyConnection, select: str, aside: Path
    ) -> list[DataFile]:
        """Write the rows of a SELECT to files in the folder `aside`, in order of
        `created_timestamp`.
        """
        self._check_time_columns(
            {
                name: kind
                for name, kind, *_ in connection.execute(
                    f"DESCRIBE SELECT * FROM ({select})"
                ).fetchall()
            }
        )
        order = ", ".join(map(quoted, self._sort_columns))
        reader = connection.sql(f"SELECT * FROM ({select}) ORDER BY {order}").to_arrow_reader(
            BATCH_ROWS
        )
        here, closed = self.files(), self.built_until
        newest = max((file.max_event for file in here), default=-(2**63))
        latest = max((file.max_created for file in here), default=-(2**63))
        written: list[DataFile] = []
        last: list[pa.Table] = []
        for rows in file_batches(reader):
            self._check_times_not_null(rows)
            self._check_adjacent_rows(pa.concat_tables([*last, rows]))
            last = [rows.slice(rows.num_rows - 1)]
            created, event = (rows[name].cast(pa.int64()).to_numpy() for name in (CREATED, EVENT))
            first = int(np.maximum(created, event).min())
            if closed is not None and first <= micros(closed):
                raise BrokenTable(
                    f"table '{self.name}' was offered a row that is known from"
                    f" {from_micros(first)} on, and is closed up to {closed};"
                    " what comes late needs a created_timestamp after that."
                )
            in_order = (
                bool(np.all(np.diff(event) >= 0))
                and int(event[0]) >= newest
                and int(created[0]) >= latest
            )
            newest, latest = max(int(event.max()), newest), max(int(created[-1]), latest)
            ends = (int(event.min()), int(event.max()), int(created[0]), int(created[-1]))
            lags = (int((created - event).min()), int((created - event).max()))
            statistics = RowStatistics(rows.num_rows, *ends, *lags, in_order)
            written.append(self._write_file(statistics, rows, aside, len(written)))
        return written

    def _write_file(
        self, statistics: RowStatistics, rows: pa.Table, aside: Path, number: int
    ) -> DataFile:
        """Write rows to a file in `aside`, under the name that it will have in the table's folder.

        The number puts files of one range in order.
        """
        first, last = (
            np.datetime_as_string(np.datetime64(moment, "us"), unit="s").translate(_IN_NAMES)
            for moment in (statistics.min_created, statistics.max_created)
        )
        # A name is used once: a run that died before its commit may have left a file of the same
        # range.
        name = f"{first}_{last}-{number:04d}-{uuid.uuid4().hex[:8]}.parquet"
        write_parquet(rows, aside / name)
        path = (self.folder / name).relative_to(self.root)
        return DataFile(**asdict(statistics), path=str(path), bytes=(aside / name).stat().st_size)

    def _merged(
        self, written: list[DataFile], aside: Path
    ) -> tuple[list[DataFile], list[DataFile]]:
        """The files that a commit of the written ones adds to the table and removes from it, after
        small files are merged.
        """
        here = self.files() if written else []
        added, removed = list(written), []
        for run in merges([*here, *written]):
            parts = [
                self._read_file(file, aside if file in written else self.folder) for file in run
            ]
            columns = parts[0].column_names
            rows = pa.concat_tables([part.select(columns) for part in parts])
            if any(one.max_created >= other.min_created for one, other in pairwise(run)):
                rows = rows.sort_by([(column, "ascending") for column in self._sort_columns])
            added = [file for file in added if file not in run]
            removed += [file for file in run if file not in written]
            added.append(self._write_file(RowStatistics.combined(run), rows, aside, len(added)))
        return added, removed

    def _read_file(self, file: DataFile, folder: Path) -> pa.Table:
        path = folder / Path(file.path).name
        try:
            with pq.ParquetFile(path) as opened:
                return opened.read()
        except (OSError, pa.ArrowException) as error:
            raise BrokenTable(
                f"table '{self.name}': {path} is in the manifest and cannot be read: {error}."
            ) from error

    def _check_time_columns(self, columns: dict[str, str]) -> None:
        """Raise where the rows lack a key or a time, or have a time that is not naive UTC in
        microseconds.
        """
        missing = [name for name in (*self.version.keys, EVENT, CREATED) if name not in columns]
        if missing:
            raise BrokenTable(
                f"table '{self.name}' was offered rows without {', '.join(missing)}; they have"
                f" {', '.join(columns)}."
            )
        for name in (EVENT, CREATED):
            if columns[name] != "TIMESTAMP":
                raise BrokenTable(
                    f"table '{self.name}' was offered {name} as {columns[name]}; expected"
                    " TIMESTAMP, naive UTC in microseconds."
                )
        if columns.get(WITHDRAWN, "BOOLEAN") != "BOOLEAN":
            raise BrokenTable(
                f"table '{self.name}' was offered {WITHDRAWN}, which marks withdrawals, as"
                f" {columns[WITHDRAWN]}; expected BOOLEAN."
            )

    def _check_same_columns(
        self, connection: duckdb.DuckDBPyConnection, written: list[DataFile], aside: Path
    ) -> None:
        """Raise where the written rows have other columns or types than the rows that are there."""
        here = self.files()
        if not here or not written:
            return
        new = aside / Path(written[0].path).name
        described = [
            {
                name: kind
                for name, kind, *_ in connection.execute(
                    f"DESCRIBE FROM {parquet_rows([path])}"
                ).fetchall()
            }
            for path in (self.root / here[0].path, new)
        ]
        if described[0] != described[1]:
            had, have = (
                {f"{name} {kind}" for name, kind in columns.items()} for columns in described
            )
            raise BrokenTable(
                f"table '{self.name}' was offered rows with"
                f" {', '.join(sorted(have - had)) or 'nothing more'}"
                f" and without {', '.join(sorted(had - have)) or 'nothing'}; other columns are"
                " another definition and another version."
            )

    def _check_no_duplicates(
        self, connection: duckdb.DuckDBPyConnection, written: list[DataFile], aside: Path
    ) -> None:
        """Raise where a written row is in the table already; repetitions among the written ones are
        found as they are written.
        """
        if not written:
            return
        low, high = (
            min(file.min_created for file in written),
            max(file.max_created for file in written),
        )
        near = [
            file for file in self.files() if file.max_created >= low and file.min_created <= high
        ]
        if not near:
            return
        columns = (*self.version.keys, EVENT, CREATED)
        new = parquet_rows(aside / Path(file.path).name for file in written)
        same = " AND ".join(
            f"n.{quoted(name)} IS NOT DISTINCT FROM h.{quoted(name)}" for name in columns
        )
        found = connection.execute(
            f"SELECT {', '.join(f'n.{quoted(name)}' for name in columns)} FROM {new} AS n"
            f" SEMI JOIN ({self.scan(near, columns)}) AS h ON {same} LIMIT 1"
        ).fetchall()
        if found:
            raise self._duplicate_error(found[0])

    def _check_adjacent_rows(self, rows: pa.Table) -> None:
        """Raise where two sorted rows next to each other are the same in keys and times."""
        columns = (*self.version.keys, EVENT, CREATED)
        same = None
        for name in columns:
            one, other = rows[name].slice(1), rows[name].slice(0, rows.num_rows - 1)
            equal = pc.if_else(
                pc.is_null(one), pc.is_null(other), pc.equal(one, other).fill_null(False)
            )
            same = equal if same is None else pc.and_(same, equal)
        if same is not None and pc.any(same).as_py():
            at = pc.index(same, True).as_py()
            raise self._duplicate_error(tuple(rows[name][at].as_py() for name in columns))

    def _duplicate_error(self, values: tuple[object, ...]) -> BrokenTable:
        what = ", ".join(
            f"{name}={value}"
            for name, value in zip((*self.version.keys, EVENT, CREATED), values, strict=True)
        )
        return BrokenTable(
            f"table '{self.name}' was offered two rows for {what}; a correction needs a later"
            " created_timestamp."
        )

    def _check_times_not_null(self, rows: pa.Table) -> None:
        for name in (EVENT, CREATED):
            if rows[name].null_count:
                raise BrokenTable(
                    f"table '{self.name}' was offered rows without a value of {name}."
                )
