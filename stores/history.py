"""What a point-in-time join reads of a feature view: its files at a commit, the columns in them, and what the manifest knows of both."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView, Field, FileSource
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID
from feast.types import Array, Set, from_feast_to_pyarrow_type

from feature_repo.errors import BrokenTable, InvalidRequest, NotBuilt, StoreOutdated
from stores.entity_rows import kind_of
from stores.manifest import MANIFEST_FILE, DataFile, Stretch
from stores.table import CREATED, EVENT, PUBLISHER_LOCK, WITHDRAWN, Table, literal, quoted

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
    """The rows of one feature view that a join may look at; a row's address is its file's place in `paths` and its place in the file."""

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
    stretch: Stretch | None = None
    """None for files that no manifest describes."""
    latest: list[int] = dataclasses.field(default_factory=list)
    """Per file, the moment of effect of its last row; empty without a manifest."""
    row_counts: list[int] = dataclasses.field(default_factory=list)
    """Per file, its rows; empty without a manifest."""

    def scan(self, places: range | None = None, *, first: int = 0) -> str:
        """A SELECT of `__key0`…, `__event`, `__created` (microseconds), `__address` and `__withdrawn`, without rows that nobody can see.

        Of all files, of those from a place on, or of some (then their addresses mean nothing).
        """
        keys = [f"{quoted(column)} AS __key{number}" for number, column in enumerate(self.keys.values())]
        event, created = _micros(self.event), f"coalesce({_micros(self.created)}, {_micros(self.event)})"
        if self.stretch and self.stretch.is_regular:
            created = f"({event} + {self.stretch.min_lag})"
        withdrawn = f"coalesce({quoted(WITHDRAWN)}, false)" if self.has_withdrawals else "false"
        # DuckDB's ASOF join takes a null key beside another key for equal to a null.
        conditions = [f"{quoted(column)} IS NOT NULL" for column in (*self.keys.values(), self.event)]
        if self.as_of is not None:
            conditions.append(f"{created} <= {self.as_of}")
        files = ", ".join(literal(self.paths[place]) for place in places or range(first, len(self.paths)))
        return (
            f"SELECT {''.join(key + ', ' for key in keys)}{event} AS __event, {created} AS __created,"
            f" ((file_index::BIGINT + {first}) << {_ROW_BITS}) | file_row_number AS {ADDRESS}, {withdrawn} AS __withdrawn"
            f" FROM read_parquet([{files}], file_row_number = true, hive_partitioning = false) WHERE {' AND '.join(conditions)}"
        )


def _micros(column: str) -> str:
    # Naive times in files are UTC; zoned ones are brought to it by the connection's time zone.
    return f"epoch_us(CAST({quoted(column)} AS TIMESTAMP))"


def address_parts(addresses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The files' places and the rows' places in them, of addresses as int64."""
    return addresses >> _ROW_BITS, addresses & ((1 << _ROW_BITS) - 1)


def address_of(files: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The addresses of rows by their files' places and their places in those."""
    return (files << _ROW_BITS) | rows


def history_of(
    view: FeatureView,
    features: Sequence[str],
    until: int | None = None,
    since: int | None = None,
    *,
    as_of: int | None = None,
    commits: dict[str, tuple[int, int]] | None = None,
) -> History:
    """The history of a view at a commit (by default the newest), created by `as_of` (by default ever).

    Files whose events are all outside `[since, until]` are left out.

    Raises `NotBuilt`, `StoreOutdated`, or `BrokenTable` where a file or column is missing or of another type than the view declares.
    """
    source = view.batch_source
    table = published(source)
    assert isinstance(source, FileSource)
    back = {new: old for old, new in source.field_mapping.items()}
    keys = {view.projection.join_key_map.get(key, key): back.get(key, key) for key in _keys(view)}
    # Feast maps time columns too; a source may name either end of the mapping.
    event = back.get(source.timestamp_field, source.timestamp_field)
    created = back.get(source.created_timestamp_column, source.created_timestamp_column) or event
    if table is not None:
        files = _files_of(table, view, as_of, commits, until, since)
        paths, stretch = [str(table.root / file.path) for file in files], Stretch.over(files) if files else None
        latest, row_counts = [max(file.max_event, file.max_created) for file in files], [file.rows for file in files]
        _check_sizes(view, files, paths)
    else:
        paths, stretch, latest, row_counts = _plain_files(view, Path(source.path), commits), None, [], []
    declared = {field.name: _declared(field) for field in view.schema}
    columns = {name: back.get(name, name) for name in features}
    if not paths:
        shown = [FeatureColumn(name, column, declared[name]) for name, column in columns.items()]
        return History(view.name, [], keys, [declared[name] for name in _keys(view)], shown, event, created, as_of)
    schema = _schema(view, paths[0])
    _check_columns(view, paths[0], schema, [*keys.values(), *columns.values(), event, created])
    if table is None:
        for path in paths[1:]:
            other = _schema(view, path)
            _check_columns(view, path, other, [*keys.values(), *columns.values(), event, created])
            _refuse_names_alike(view, path, other, [*keys.values(), event, created])
            for column in keys.values():
                given_out(view.name, path, column, other.field(column).type, schema.field(column).type)
    _refuse_names_alike(view, paths[0], schema, [*keys.values(), event, created])
    for time in {event, created}:
        if not pa.types.is_timestamp(schema.field(time).type):
            raise BrokenTable(f"view '{view.name}', file {paths[0]}: column '{time}' is {schema.field(time).type}; expected a timestamp.")
    # Files of others have the types that they have; what we published has those that were declared.
    if table is None:
        declared = {name: schema.field(back.get(name, name)).type for name in (*_keys(view), *features)}
    key_types = [
        given_out(view.name, paths[0], column, schema.field(column).type, declared[key])
        for key, column in zip(_keys(view), keys.values(), strict=True)
    ]
    shown = [
        FeatureColumn(name, column, given_out(view.name, paths[0], column, schema.field(column).type, declared[name]))
        for name, column in columns.items()
    ]
    withdrawals = table is not None and WITHDRAWN in schema.names
    return History(view.name, paths, keys, key_types, shown, event, created, as_of, withdrawals, stretch, latest, row_counts)


def published(source: DataSource | None) -> Table | None:
    """The table behind a source, where its path is a folder of our own publisher's."""
    if not isinstance(source, FileSource):
        raise InvalidRequest(f"the as-of store reads file sources; got {type(source).__name__}.")
    path = Path(source.path)
    try:
        return Table.current(path.parent, path.name)
    except sqlite3.DatabaseError as error:
        raise BrokenTable(f"{path.parent / MANIFEST_FILE}, which says what is in table '{path.name}', cannot be read: {error}.") from error


def plain_scan(path: Path) -> str:
    """A SELECT over Parquet files that are not a table of ours."""
    return f"SELECT * FROM read_parquet({literal(str(path / '**/*.parquet' if path.is_dir() else path))})"


def declared_schema(view: FeatureView) -> pa.Schema:
    """The columns of the view's table with the types that the view declares, and both times."""
    columns = [(field.name, _declared(field)) for field in view.schema if field.name != DUMMY_ENTITY_ID]
    return pa.schema([*columns, (EVENT, pa.timestamp("us")), (CREATED, pa.timestamp("us"))])


def given_out(view: str, path: str, column: str, found: pa.DataType, declared: pa.DataType) -> pa.DataType:
    """The type in which a column of a file is given out: the declared one where that is only wider, else the file's.

    Raises `BrokenTable` where the file's type is not what the view declares.
    """
    plain = found.value_type if pa.types.is_dictionary(found) else found
    if plain == declared or pa.types.is_null(plain):
        return declared
    if pa.types.is_null(declared) or pa.types.is_map(declared) or pa.types.is_struct(declared):
        return plain
    kind = kind_of(declared)
    if kind_of(plain) == kind:
        if kind in ("text", "bytes") or (kind in ("integer", "number") and plain.bit_width <= declared.bit_width):
            return declared
        if kind == "timestamp":
            return plain
        if kind == "list":
            return pa.list_(given_out(view, path, column, plain.value_type, declared.value_type))
    raise BrokenTable(f"view '{view}' declares column '{column}' as {declared}; in {path} it is {found}. Build the table again.")


def diagnosed(history: History, error: duckdb.Error) -> Exception:
    """What is wrong with the history's files, by view, file and column, after DuckDB failed to read them; else its own error."""
    needed = [*history.keys.values(), history.event, history.created, *(feature.column for feature in history.features)]
    for path in history.paths:
        try:
            schema = pq.read_schema(path)
            pq.read_table(path, columns=[name for name in needed if name in schema.names])
        except (OSError, pa.ArrowException) as broken:
            return BrokenTable(f"view '{history.view}': {path} cannot be read: {broken}.")
        missing = [name for name in needed if name not in schema.names]
        if missing:
            return BrokenTable(f"view '{history.view}' declares {', '.join(missing)}; {path} has no such column.")
    return error


def _declared(field: Field) -> pa.DataType:
    """The Arrow type of a field, times naive as they are in tables; null for the few that Feast has none for."""
    return _arrow_type(field.dtype)


def _arrow_type(type_: Any) -> pa.DataType:
    if isinstance(type_, (Array, Set)):
        return pa.list_(_arrow_type(type_.base_type))
    try:
        arrow = from_feast_to_pyarrow_type(type_)
    except ValueError:
        return pa.binary() if "BYTES" in type_.to_value_type().name else pa.null()
    return pa.timestamp(arrow.unit) if pa.types.is_timestamp(arrow) else arrow


def _keys(view: FeatureView) -> list[str]:
    """The view's key columns in its table; a view without entities has none."""
    return [column.name for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]


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
        raise StoreOutdated(f"table '{view.name}' was built from another definition than the registry's; run: punctual features build.")
    return [
        file
        for file in table.files(commit)
        if file.rows
        and (as_of is None or file.min_created <= as_of)
        and (until is None or file.min_event <= until)
        and (since is None or file.max_event >= since)
    ]


def _plain_files(view: FeatureView, path: Path, commits: dict[str, tuple[int, int]] | None) -> list[str]:
    if commits is not None:
        raise NotBuilt(f"the files of view '{view.name}' at {path} have no commits, so that none can be pinned.")
    if not path.exists():
        raise NotBuilt(f"view '{view.name}' has no table at {path}; build it first: punctual features build.")
    # What a publisher left there is not ours to guess: which of the files are committed, only the manifest knows.
    if (path / PUBLISHER_LOCK).exists():
        manifest = path.parent / MANIFEST_FILE
        if any(path.glob("v*/*/*.parquet")) and not manifest.exists():
            raise BrokenTable(f"view '{view.name}' has files at {path}, and {manifest}, which says what they are, is gone; bring it back.")
        raise NotBuilt(f"view '{view.name}' has no finished build at {path}; build it: punctual features build.")
    return sorted(str(file) for file in path.glob("**/*.parquet")) if path.is_dir() else [str(path)]


def _check_sizes(view: FeatureView, files: list[DataFile], paths: list[str]) -> None:
    """Published files are immutable: one that is gone, cut or written over is found by its size."""
    for file, path in zip(files, paths, strict=True):
        try:
            size = Path(path).stat().st_size
        except OSError as error:
            raise BrokenTable(f"view '{view.name}': {path} is in the manifest and cannot be read: {error.strerror}.") from error
        if size != file.bytes:
            raise BrokenTable(
                f"view '{view.name}': {path} has {size:,} bytes, {file.bytes:,} were published; bring the file back or build again."
            )


def _schema(view: FeatureView, path: str) -> pa.Schema:
    try:
        return pq.read_schema(path).remove_metadata()
    except (OSError, pa.ArrowException) as error:
        raise BrokenTable(f"view '{view.name}': {path} cannot be read as Parquet: {error}.") from error


def _refuse_names_alike(view: FeatureView, path: str, schema: pa.Schema, columns: Sequence[str]) -> None:
    """Features are read by their exact names; keys and times in SQL, which would take the first of two that differ in case."""
    for name in columns:
        alike = [other for other in schema.names if other.lower() == name.lower()]
        if len(alike) > 1:
            raise BrokenTable(f"view '{view.name}', file {path}: columns {', '.join(alike)} differ only in case; rename all but '{name}'.")


def _check_columns(view: FeatureView, path: str, schema: pa.Schema, columns: Sequence[str]) -> None:
    missing = [name for name in dict.fromkeys(columns) if name not in schema.names]
    if missing:
        raise BrokenTable(
            f"view '{view.name}' declares {', '.join(missing)}, which {path} does not have. "
            "Build the table again after changing its definition: punctual features build."
        )
