"""What a point-in-time join reads of a feature view: its files at a commit, the columns in them,
and what the manifest knows of both.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView, FileSource
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID

from punctual.errors import BrokenTable, DataFolderError, InvalidRequest, NotBuilt, StoreOutdated
from stores.offline.view_columns import (
    arrow_type,
    check_columns,
    given_out,
    in_zone,
    refuse_mark,
    schema_of,
)
from stores.tables import (
    MANIFEST_FILE,
    PUBLISHER_LOCK,
    WITHDRAWN,
    DataFile,
    RowStatistics,
    Table,
    parquet_rows,
    quoted,
    write_failure,
)

ADDRESS = "__address"
_ROW_BITS = 32


@dataclass(frozen=True)
class FeatureColumn:
    """A feature: its name, the column it is in, and the Arrow type that it is given out in."""

    name: str
    column: str
    type: pa.DataType


@dataclass(frozen=True)
class History:
    """The rows of one feature view that a join may look at; a row's address is its file's place in
    `paths` and its place in the file.
    """

    view: str
    paths: list[str]
    keys: dict[str, str]
    """The view's key columns: each one's name in the entity rows, and in the files."""
    key_types: list[pa.DataType]
    features: list[FeatureColumn]
    event: str
    created: str
    as_of: int | None = None
    has_withdrawals: bool = False
    parts: Sequence[RowStatistics] = ()
    """What the manifest knows of each file; empty for files that no manifest describes."""
    in_nanoseconds: frozenset[str] = frozenset()
    """Which of the time columns have that unit in the files."""

    @cached_property
    def statistics(self) -> RowStatistics | None:
        """What the manifest knows of all rows together."""
        return RowStatistics.combined(self.parts) if self.parts else None

    def scan(self, places: range | None = None, *, first: int = 0) -> str:
        """A SELECT of `__key0`…, `__event`, `__created` (microseconds), `__address` and
        `__withdrawn`, without rows that nobody can see.

        Of all files, of those from a place on, or of some (then their addresses mean nothing).
        """
        keys = [
            f"{quoted(column)} AS __key{number}" for number, column in enumerate(self.keys.values())
        ]
        event, created = (
            self._micros(self.event),
            f"coalesce({self._micros(self.created)}, {self._micros(self.event)})",
        )
        if self.statistics and self.statistics.is_regular:
            created = f"({event} + {self.statistics.min_lag})"
        withdrawn = f"coalesce({quoted(WITHDRAWN)}, false)" if self.has_withdrawals else "false"
        # DuckDB's ASOF join takes a null key beside another key for equal to a null.
        conditions = [
            f"{quoted(column)} IS NOT NULL" for column in (*self.keys.values(), self.event)
        ]
        if self.as_of is not None:
            conditions.append(f"{created} <= {self.as_of}")
        address = f"((file_index::BIGINT + {first}) << {_ROW_BITS}) | file_row_number"
        chosen = places or range(first, len(self.paths))
        source = parquet_rows((self.paths[place] for place in chosen), file_row_number=True)
        return (
            f"SELECT {''.join(key + ', ' for key in keys)}{event} AS __event, {created} AS"
            " __created,"
            f" {address} AS {ADDRESS}, {withdrawn} AS __withdrawn FROM {source} WHERE"
            f" {' AND '.join(conditions)}"
        )

    def _micros(self, column: str) -> str:
        # Naive times in files are UTC; zoned ones are brought to it by the connection's time zone.
        naive = f"CAST({quoted(column)} AS TIMESTAMP)"
        if column in self.in_nanoseconds:
            # DuckDB 2 knows no way from zoned nanoseconds to microseconds but this.
            naive = f"CAST(CAST({quoted(column)} AS TIMESTAMP_NS) AS TIMESTAMP)"
        return f"epoch_us({naive})"


def address_parts(addresses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The files' places and the rows' places in them, of addresses as int64."""
    return addresses >> _ROW_BITS, addresses & ((1 << _ROW_BITS) - 1)


def history_of(
    view: FeatureView,
    features: Sequence[str],
    until: int | None = None,
    since: int | None = None,
    *,
    as_of: int | None = None,
    commits: dict[str, tuple[int, int]] | None = None,
    home: Path | None = None,
) -> History:
    """The history of a view at a commit (by default the newest), created by `as_of` (by default
    ever).

    Files whose events are all outside `[since, until]` are left out. The view's relative path is
    below `home`, the data folder.

    Raises `NotBuilt`, `StoreOutdated`, or `BrokenTable` where a file or column is missing or of
    another type than the view declares.
    """
    refuse_mark(view)
    source = view.batch_source
    table = published(source, home, view.tags.get("fingerprint", ""))
    assert isinstance(source, FileSource)
    back = {new: old for old, new in source.field_mapping.items()}
    keys = {name: back.get(name, name) for name in _keys(view)}
    columns = {name: back.get(name, name) for name in features}
    # Feast maps time columns too; a source may name either end of the mapping.
    event = back.get(source.timestamp_field, source.timestamp_field)
    created = back.get(source.created_timestamp_column, source.created_timestamp_column) or event
    parts: Sequence[DataFile] = ()
    if table is not None:
        parts = _files_of(table, view, as_of, commits, until, since)
        paths = _paths_of(table, view, parts)
    else:
        paths = _plain_files(view, source_path(source, home), commits)
    # What we published has the same columns everywhere; the files of others are looked at one by
    # one.
    schemas = [schema_of(view, path) for path in (paths[:1] if parts else paths)]
    for path, schema in zip(paths, schemas, strict=False):
        check_columns(
            view, path, schema, [*columns.values()], keys=[*keys.values()], times=[event, created]
        )
    types = _types_of(view, paths, schemas, keys, columns, as_declared=table is not None)
    return History(
        view.name,
        paths,
        keys={
            view.projection.join_key_map.get(name, name): column for name, column in keys.items()
        },
        key_types=[in_zone(types[name], None) for name in keys],
        features=[FeatureColumn(name, column, types[name]) for name, column in columns.items()],
        event=event,
        created=created,
        as_of=as_of,
        has_withdrawals=bool(parts) and WITHDRAWN in schemas[0].names,
        parts=parts,
        in_nanoseconds=frozenset(
            name
            for schema in schemas
            for name in (event, created)
            if schema.field(name).type.unit == "ns"
        ),
    )


def source_path(source: FileSource, home: Path | None) -> Path:
    """Where a source's files are; a relative path is below the data folder, else the current one."""
    return (home or Path.cwd()) / source.path


def published(
    source: DataSource | None, home: Path | None = None, fingerprint: str = ""
) -> Table | None:
    """The table behind a source, where its path is a folder of our own publisher's.

    The version that a definition made, or the newest one where there is none of it.
    """
    if not isinstance(source, FileSource):
        raise InvalidRequest(f"the as-of store reads file sources; got {type(source).__name__}.")
    path = source_path(source, home)
    root, name = path.parent, path.name
    return Table.of_definition(root, name, fingerprint) or Table.current(root, name)


def plain_scan(path: Path) -> str:
    """A SELECT over Parquet files that are not a table of ours. Raises `NotBuilt` for an empty
    folder.
    """
    paths = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not paths:
        raise NotBuilt(f"there are no Parquet files in {path}; build them, or name another path.")
    return f"SELECT * FROM {parquet_rows(paths)}"


def diagnosed(history: History, error: duckdb.Error) -> Exception:
    """What is wrong with the history's files, by view, file and column, after DuckDB failed to read
    them; else its own error.

    Where DuckDB could not write what the join spills, it is a `DataFolderError`.
    """
    needed = [
        *history.keys.values(),
        history.event,
        history.created,
        *(feature.column for feature in history.features),
    ]
    for path in history.paths:
        try:
            schema = pq.read_schema(path)
            pq.read_table(path, columns=[name for name in needed if name in schema.names])
        except (OSError, pa.ArrowException) as broken:
            return BrokenTable(f"view '{history.view}': {path} cannot be read: {broken}.")
        missing = [name for name in needed if name not in schema.names]
        if missing:
            return BrokenTable(
                f"view '{history.view}' declares {', '.join(missing)}; {path} has no such column."
            )
    if reason := write_failure(error):
        return DataFolderError(
            f"view '{history.view}': the join cannot spill to disk: {reason}."
            " Free space, or name another spill_folder in feature_store.yaml."
        )
    return error


def _keys(view: FeatureView) -> list[str]:
    """The view's key columns in its table; a view without entities has none."""
    return [column.name for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]


def _types_of(
    view: FeatureView,
    paths: list[str],
    schemas: list[pa.Schema],
    keys: dict[str, str],
    columns: dict[str, str],
    *,
    as_declared: bool,
) -> dict[str, pa.DataType]:
    """The types of keys and features as they are given out: those declared, or those that the first
    file has, for files of others.
    """
    types = {
        field.name: arrow_type(field.dtype) if as_declared or not schemas else pa.null()
        for field in view.schema
    }

    def given(place: int, name: str, column: str) -> pa.DataType:
        return given_out(
            view.name, paths[place], column, schemas[place].field(column).type, types[name]
        )

    if schemas:
        types |= {name: given(0, name, column) for name, column in (keys | columns).items()}
    # A feature's type is looked at when its file is read for values; keys are compared in SQL,
    # which would convert them.
    for place in range(1, len(schemas)):
        for name, column in keys.items():
            given(place, name, column)
    return types


def _files_of(
    table: Table,
    view: FeatureView,
    as_of: int | None,
    commits: dict[str, tuple[int, int]] | None,
    until: int | None,
    since: int | None,
) -> list[DataFile]:
    commit = None
    if commits is not None:
        if table.name not in commits:
            raise NotBuilt(f"the manifest pins no commit of table '{table.name}'.")
        number, commit = commits[table.name]
        version = table.manifest.at_version(table.name, number)
        if version is None:
            raise NotBuilt(f"table '{table.name}' has no version {number} any more.")
        table = Table(table.root, version)
    elif view.tags.get("fingerprint", table.version.fingerprint) != table.version.fingerprint:
        raise StoreOutdated(
            f"table '{view.name}' was built from another definition than the registry's; run:"
            " punctual features build."
        )
    return [
        file
        for file in table.files(commit)
        if file.rows
        and (as_of is None or file.min_created <= as_of)
        and (until is None or file.min_event <= until)
        and (since is None or file.max_event >= since)
    ]


def _plain_files(
    view: FeatureView, path: Path, commits: dict[str, tuple[int, int]] | None
) -> list[str]:
    if commits is not None:
        raise NotBuilt(
            f"the files of view '{view.name}' at {path} have no commits, so that none can be"
            " pinned."
        )
    if not path.exists():
        raise NotBuilt(
            f"view '{view.name}' has no table at {path}; build it first: punctual features build."
        )
    # What a publisher left there is not ours to guess: which of the files are committed, only the
    # manifest knows.
    if (path / PUBLISHER_LOCK).exists():
        manifest = path.parent / MANIFEST_FILE
        if any(path.glob("v*/*.parquet")) and not manifest.exists():
            raise BrokenTable(
                f"view '{view.name}' has files at {path}, and {manifest}, which says what they"
                " are, is gone; bring it back."
            )
        raise NotBuilt(
            f"view '{view.name}' has no finished build at {path}; build it: punctual features"
            " build."
        )
    return sorted(str(file) for file in path.glob("**/*.parquet")) if path.is_dir() else [str(path)]


def _paths_of(table: Table, view: FeatureView, files: Sequence[DataFile]) -> list[str]:
    """Where the files are; published ones are immutable: one that is gone, cut or written over is
    found by its size.
    """
    paths = [f"{table.root}/{file.path}" for file in files]
    for file, path in zip(files, paths, strict=True):
        try:
            size = os.stat(path).st_size  # noqa: PTH116  twice as fast, for every file
        except OSError as error:
            raise BrokenTable(
                f"view '{view.name}': {path} is in the manifest and cannot be read:"
                f" {error.strerror}."
            ) from error
        if size != file.bytes:
            raise BrokenTable(
                f"view '{view.name}': {path} has {size:,} bytes, {file.bytes:,} were published;"
                " bring the file back or build again."
            )
    return paths
