"""Append-only tables of immutable Parquet files, each for a range of `created_timestamp`."""

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
_NO_PUNCTUATION = {ord("-"): None, ord(":"): None}


class Table:
    """One version of a table in a `tables` folder.

    Rows are unique in (keys, event_timestamp, created_timestamp). In the files both times are naive
    UTC.
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
        """The version of the table that the definition computed, if it has been published.

        For an empty fingerprint, the newest version.
        """
        manifest = Manifest(root)
        version = (
            manifest.of_fingerprint(name, fingerprint) if fingerprint else manifest.current(name)
        )
        return cls(root, version) if version else None

    @classmethod
    def for_definition(
        cls, root: Path, name: str, fingerprint: str, keys: tuple[str, ...]
    ) -> Table:
        """The version of the table that the definition computed, else the next version."""
        manifest = Manifest(root)
        existing = manifest.of_fingerprint(name, fingerprint)
        return cls(root, existing or manifest.next_version(name, fingerprint, keys))

    @property
    def _sort_columns(self) -> tuple[str, ...]:
        """The columns by which rows are sorted in files; their values are unique to a row."""
        return (CREATED, EVENT, *self.version.keys)

    @property
    def name(self) -> str:
        """The name of the table, which is that of its feature view or of its events."""
        return self.version.name

    @property
    def built_until(self) -> datetime | None:
        """The time by which all rows that take effect are in the table; None before a build."""
        return self.manifest.built_until(self.version)

    def files(self, commit: int | None = None) -> list[DataFile]:
        """The files at a commit (the newest by default)."""
        return self.manifest.files(self.version, commit)

    def rows(self, commit: int | None = None) -> int:
        """The number of rows at a commit (the newest by default)."""
        return sum(file.rows for file in self.files(commit))

    @property
    def has_withdrawals(self) -> bool:
        """Whether the table has the column `is_withdrawn` (see `publish`)."""
        files = self.files()
        return bool(files) and WITHDRAWN in pq.read_schema(self.root / files[0].path).names

    def scan(
        self, files: list[DataFile] | None = None, columns: tuple[str, ...] | None = None
    ) -> str:
        """A SELECT over the files (all of the newest commit by default).

        Raises `BrokenTable` if the list of files is empty.
        """
        chosen = self.files() if files is None else files
        if not chosen:
            raise BrokenTable(f"table '{self.name}' has no files yet.")
        wanted = ", ".join(quoted(column) for column in columns) if columns else "*"
        rows = parquet_rows(self.root / file.path for file in chosen)
        return f"SELECT {wanted} FROM {rows}"

    def read(self, commit: int | None = None) -> pa.Table:
        """All rows at a commit (the newest by default); without columns if there are none."""
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
        """Append the rows of a SELECT and advance `built_until`; returns the number of rows added.

        **Withdrawals.** A row with `is_withdrawn` withdraws the value of its keys: from the time it
        takes effect until a newer row does, the keys have nulls. The row has the `event_timestamp`
        of the row it withdraws, or a later one, and a later `created_timestamp`; its features are
        not read. The column is optional, false or null in other rows, and no feature may have its
        name.

        **Columns** are fixed for a version, `is_withdrawn` included: to add it to a table without
        it, a new version is needed.

        **Files** are written to a temporary folder and renamed, so that a process that dies leaves
        the table unchanged. The same commit merges small files that are consecutive in
        `created_timestamp`; the merged files are kept for earlier commits.

        Raises `BrokenTable` if two rows, new or existing, have the same keys and times; if the rows
        have other columns than the existing rows, or lack a time; or if a row takes effect at or
        before `built_until`. Raises `DataFolderError` if the rows cannot be written.
        """
        with self._exclusive():
            temporary = self.folder / f".aside-{uuid.uuid4().hex[:8]}"
            temporary.mkdir(parents=True)
            try:
                written = self._write(connection, select, temporary)
                self._check_same_columns(connection, written, temporary)
                self._check_no_duplicates(connection, written, temporary)
                added, removed = self._merged(written, temporary)
                for file in added:
                    (temporary / Path(file.path).name).replace(self.root / file.path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            if written or built_until is not None:
                self.manifest.commit(self.version, added, built_until, removed)
        return sum(file.rows for file in written)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the table's lock, so that checks of new rows remain true until the commit."""
        with writing(f"table '{self.name}' in", self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with (self.folder.parent / PUBLISHER_LOCK).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                for abandoned in self.folder.glob(".aside-*"):
                    shutil.rmtree(abandoned, ignore_errors=True)
                yield

    def _write(
        self, connection: duckdb.DuckDBPyConnection, select: str, temporary: Path
    ) -> list[DataFile]:
        """Write the rows of a SELECT to files in `temporary`, in order of `created_timestamp`."""
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
        existing, built_until = self.files(), self.built_until
        max_event = max((file.max_event for file in existing), default=-(2**63))
        max_created = max((file.max_created for file in existing), default=-(2**63))
        written: list[DataFile] = []
        last: list[pa.Table] = []
        for rows in file_batches(reader):
            self._check_times_not_null(rows)
            self._check_adjacent_rows(pa.concat_tables([*last, rows]))
            last = [rows.slice(rows.num_rows - 1)]
            created, event = (rows[name].cast(pa.int64()).to_numpy() for name in (CREATED, EVENT))
            first = int(np.maximum(created, event).min())
            if built_until is not None and first <= micros(built_until):
                raise BrokenTable(
                    f"table '{self.name}' received a row that takes effect at"
                    f" {from_micros(first)}, but is already built until {built_until};"
                    " a late row needs a created_timestamp after that."
                )
            in_order = (
                bool(np.all(np.diff(event) >= 0))
                and int(event[0]) >= max_event
                and int(created[0]) >= max_created
            )
            max_event = max(int(event.max()), max_event)
            max_created = max(int(created[-1]), max_created)
            ends = (int(event.min()), int(event.max()), int(created[0]), int(created[-1]))
            lags = (int((created - event).min()), int((created - event).max()))
            statistics = RowStatistics(rows.num_rows, *ends, *lags, in_order)
            written.append(self._write_file(statistics, rows, temporary, len(written)))
        return written

    def _write_file(
        self, statistics: RowStatistics, rows: pa.Table, temporary: Path, number: int
    ) -> DataFile:
        """Write rows to a file in `temporary`, under its final name.

        The number orders files of the same range of `created_timestamp`.
        """
        first, last = (
            np.datetime_as_string(np.datetime64(created, "us"), unit="s").translate(_NO_PUNCTUATION)
            for created in (statistics.min_created, statistics.max_created)
        )
        # The name is unique, as a process that died before its commit may have left a file of the
        # same range.
        name = f"{first}_{last}-{number:04d}-{uuid.uuid4().hex[:8]}.parquet"
        write_parquet(rows, temporary / name)
        path = (self.folder / name).relative_to(self.root)
        return DataFile(
            **asdict(statistics), path=str(path), bytes=(temporary / name).stat().st_size
        )

    def _merged(
        self, written: list[DataFile], temporary: Path
    ) -> tuple[list[DataFile], list[DataFile]]:
        """Merge small files; returns the files that the commit adds and those that it removes."""
        existing = self.files() if written else []
        added, removed = list(written), []
        for run in merges([*existing, *written]):
            parts = [
                self._read_file(file, temporary if file in written else self.folder) for file in run
            ]
            columns = parts[0].column_names
            rows = pa.concat_tables([part.select(columns) for part in parts])
            if any(one.max_created >= other.min_created for one, other in pairwise(run)):
                rows = rows.sort_by([(column, "ascending") for column in self._sort_columns])
            added = [file for file in added if file not in run]
            removed += [file for file in run if file not in written]
            added.append(self._write_file(RowStatistics.combined(run), rows, temporary, len(added)))
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
        """Raise if the rows lack a key or a time, or if a time is not naive UTC in microseconds."""
        missing = [name for name in (*self.version.keys, EVENT, CREATED) if name not in columns]
        if missing:
            raise BrokenTable(
                f"table '{self.name}' received rows without {', '.join(missing)}; they have"
                f" {', '.join(columns)}."
            )
        for name in (EVENT, CREATED):
            if columns[name] != "TIMESTAMP":
                raise BrokenTable(
                    f"table '{self.name}' received {name} as {columns[name]}; expected"
                    " TIMESTAMP, naive UTC in microseconds."
                )
        if columns.get(WITHDRAWN, "BOOLEAN") != "BOOLEAN":
            raise BrokenTable(
                f"table '{self.name}' received {WITHDRAWN}, which marks withdrawals, as"
                f" {columns[WITHDRAWN]}; expected BOOLEAN."
            )

    def _check_same_columns(
        self, connection: duckdb.DuckDBPyConnection, written: list[DataFile], temporary: Path
    ) -> None:
        """Raise if the written rows have other columns or types than the existing rows."""
        existing = self.files()
        if not existing or not written:
            return
        new = temporary / Path(written[0].path).name
        described = [
            {
                name: kind
                for name, kind, *_ in connection.execute(
                    f"DESCRIBE FROM {parquet_rows([path])}"
                ).fetchall()
            }
            for path in (self.root / existing[0].path, new)
        ]
        if described[0] != described[1]:
            had, have = (
                {f"{name} {kind}" for name, kind in columns.items()} for columns in described
            )
            raise BrokenTable(
                f"table '{self.name}' received rows with other columns than it has"
                f" (added: {', '.join(sorted(have - had)) or 'none'};"
                f" missing: {', '.join(sorted(had - have)) or 'none'});"
                " other columns need a new version of the table."
            )

    def _check_no_duplicates(
        self, connection: duckdb.DuckDBPyConnection, written: list[DataFile], temporary: Path
    ) -> None:
        """Raise if a written row has the keys and times of an existing row.

        `_check_adjacent_rows` finds duplicates among the written rows.
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
        new = parquet_rows(temporary / Path(file.path).name for file in written)
        same = " AND ".join(
            f"written.{quoted(name)} IS NOT DISTINCT FROM existing.{quoted(name)}"
            for name in columns
        )
        found = connection.execute(
            f"""
            SELECT {", ".join(f"written.{quoted(name)}" for name in columns)}
            FROM {new} AS written
            SEMI JOIN ({self.scan(near, columns)}) AS existing ON {same}
            LIMIT 1
            """
        ).fetchall()
        if found:
            raise self._duplicate_error(found[0])

    def _check_adjacent_rows(self, rows: pa.Table) -> None:
        """Raise if two consecutive rows, which are sorted, have the same keys and times."""
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
            f"table '{self.name}' received two rows for {what}; a correction needs a later"
            " created_timestamp."
        )

    def _check_times_not_null(self, rows: pa.Table) -> None:
        for name in (EVENT, CREATED):
            if rows[name].null_count:
                raise BrokenTable(f"table '{self.name}' received rows without a value of {name}.")
