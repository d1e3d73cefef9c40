"""What a point-in-time join reads of a feature view: its files at a commit, their columns, and
their statistics in the manifest.
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
    in_zone,
    output_type,
    refuse_reserved_feature,
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
    """A feature: its name, its column in the files, and its Arrow type in results."""

    name: str
    column: str
    type: pa.DataType


@dataclass(frozen=True)
class History:
    """The rows of one feature view that a join may read.

    The address of a row consists of its file's index in `paths` and its index in the file.
    """

    view: str
    paths: list[str]
    keys: dict[str, str]
    """The key columns: name in the entity rows to name in the files."""
    key_types: list[pa.DataType]
    features: list[FeatureColumn]
    event: str
    created: str
    as_of: int | None = None
    has_withdrawals: bool = False
    file_statistics: Sequence[RowStatistics] = ()
    """The manifest's statistics of each file; empty for files without a manifest."""
    in_nanoseconds: frozenset[str] = frozenset()
    """The time columns that have nanoseconds in the files."""

    @cached_property
    def statistics(self) -> RowStatistics | None:
        """The statistics of all rows; None for files without a manifest."""
        return RowStatistics.combined(self.file_statistics) if self.file_statistics else None

    def scan(self, file_indices: range | None = None, *, first: int = 0) -> str:
        """A SELECT of `__key0`…, `__event`, `__created` (microseconds), `__address` and
        `__withdrawn`, without rows that no entity row can see.

        Reads the files from index `first` on, or those of `file_indices`, whose addresses are then
        meaningless.
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
        # With several keys, DuckDB's ASOF join takes two null keys for equal.
        conditions = [
            f"{quoted(column)} IS NOT NULL" for column in (*self.keys.values(), self.event)
        ]
        if self.as_of is not None:
            conditions.append(f"{created} <= {self.as_of}")
        address = f"((file_index::BIGINT + {first}) << {_ROW_BITS}) | file_row_number"
        indices = file_indices or range(first, len(self.paths))
        source = parquet_rows((self.paths[index] for index in indices), file_row_number=True)
        return f"""
            SELECT
                {"".join(key + ", " for key in keys)}
                {event} AS __event,
                {created} AS __created,
                {address} AS {ADDRESS},
                {withdrawn} AS __withdrawn
            FROM {source}
            WHERE {" AND ".join(conditions)}
        """

    def _micros(self, column: str) -> str:
        # Naive times in files are UTC; the connection's time zone, UTC, converts zoned ones.
        naive = f"CAST({quoted(column)} AS TIMESTAMP)"
        if column in self.in_nanoseconds:
            # The only conversion of zoned nanoseconds to microseconds that DuckDB 2 has.
            naive = f"CAST(CAST({quoted(column)} AS TIMESTAMP_NS) AS TIMESTAMP)"
        return f"epoch_us({naive})"


def split_addresses(addresses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The file indices and the row indices within the files, of addresses as int64."""
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
    """The history of a view at a commit (by default the newest), of rows created by `as_of`.

    Files without an event in `[since, until]` are left out. A relative path of the view is relative
    to `home`, the data folder. Times are in microseconds.

    Raises `NotBuilt`, `StoreOutdated`, or `BrokenTable` where a file or a column is missing or a
    column does not have the type that the view declares.
    """
    refuse_reserved_feature(view)
    source = view.batch_source
    table = published(source, home, view.tags.get("fingerprint", ""))
    assert isinstance(source, FileSource)
    back = {new: old for old, new in source.field_mapping.items()}
    keys = {name: back.get(name, name) for name in _keys(view)}
    columns = {name: back.get(name, name) for name in features}
    # Feast maps time columns too; a source may name the column before or after the mapping.
    event = back.get(source.timestamp_field, source.timestamp_field)
    created = back.get(source.created_timestamp_column, source.created_timestamp_column) or event
    files: Sequence[DataFile] = ()
    if table is not None:
        files = _files_of(table, view, as_of, commits, until, since)
        paths = _paths_of(table, view, files)
    else:
        paths = _plain_files(view, source_path(source, home), commits)
    # All files of a published table have the same columns; other files are checked one by one.
    schemas = [schema_of(view, path) for path in (paths[:1] if files else paths)]
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
        has_withdrawals=bool(files) and WITHDRAWN in schemas[0].names,
        file_statistics=files,
        in_nanoseconds=frozenset(
            name
            for schema in schemas
            for name in (event, created)
            if schema.field(name).type.unit == "ns"
        ),
    )


def source_path(source: FileSource, home: Path | None) -> Path:
    """The path of a source; a relative path is relative to `home`, else to the current folder."""
    return (home or Path.cwd()) / source.path


def published(
    source: DataSource | None, home: Path | None = None, fingerprint: str = ""
) -> Table | None:
    """The published table behind a source; None where the path is not a published table.

    The version of the definition with this fingerprint, or the newest version if it has none.
    """
    if not isinstance(source, FileSource):
        raise InvalidRequest(f"the as-of store reads file sources; got {type(source).__name__}.")
    path = source_path(source, home)
    root, name = path.parent, path.name
    return Table.of_definition(root, name, fingerprint) or Table.current(root, name)


def plain_scan(path: Path) -> str:
    """A SELECT over Parquet files without a manifest. Raises `NotBuilt` for an empty folder."""
    paths = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not paths:
        raise NotBuilt(f"{path} has no Parquet files; build them, or name another path.")
    return f"SELECT * FROM {parquet_rows(paths)}"


def diagnosed(history: History, error: duckdb.Error) -> Exception:
    """The error to raise after DuckDB failed on a history.

    A `BrokenTable` with view, file and column if a file is unreadable, a `DataFolderError` if
    DuckDB could not spill, else `error`.
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
    """The types of keys and features in results.

    The declared types, or those of the first file where there is no manifest.
    """
    types = {
        field.name: arrow_type(field.dtype) if as_declared or not schemas else pa.null()
        for field in view.schema
    }

    def type_in(file: int, name: str, column: str) -> pa.DataType:
        return output_type(
            view.name, paths[file], column, schemas[file].field(column).type, types[name]
        )

    if schemas:
        types |= {name: type_in(0, name, column) for name, column in (keys | columns).items()}
    # Types of keys are checked here, since SQL would convert keys silently; types of features are
    # checked when their values are read.
    for file in range(1, len(schemas)):
        for name, column in keys.items():
            type_in(file, name, column)
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
            raise NotBuilt(f"table '{table.name}' no longer has version {number}.")
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
            f"the files of view '{view.name}' at {path} have no commits, so none can be pinned."
        )
    if not path.exists():
        raise NotBuilt(
            f"view '{view.name}' has no table at {path}; build it first: punctual features build."
        )
    # In a publisher's folder, only the manifest says which files are committed.
    if (path / PUBLISHER_LOCK).exists():
        manifest = path.parent / MANIFEST_FILE
        if any(path.glob("v*/*.parquet")) and not manifest.exists():
            raise BrokenTable(
                f"view '{view.name}' has files at {path}, but their manifest {manifest} is missing;"
                " restore it."
            )
        raise NotBuilt(
            f"view '{view.name}' has no finished build at {path}; build it: punctual features"
            " build."
        )
    return sorted(str(file) for file in path.glob("**/*.parquet")) if path.is_dir() else [str(path)]


def _paths_of(table: Table, view: FeatureView, files: Sequence[DataFile]) -> list[str]:
    """The paths of published files, which are immutable.

    Raises `BrokenTable` for a file that is missing or does not have its published size.
    """
    paths = [f"{table.root}/{file.path}" for file in files]
    for file, path in zip(files, paths, strict=True):
        try:
            size = os.stat(path).st_size  # noqa: PTH116  twice as fast as Path.stat
        except OSError as error:
            raise BrokenTable(
                f"view '{view.name}': {path} is in the manifest and cannot be read:"
                f" {error.strerror}."
            ) from error
        if size != file.bytes:
            raise BrokenTable(
                f"view '{view.name}': {path} has {size:,} bytes, but {file.bytes:,} were published;"
                " restore the file or build the table again."
            )
    return paths
