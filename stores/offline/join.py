"""The point-in-time join of entity rows with several views, as one Arrow table or in batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from punctual.errors import BrokenTable, DataFolderError, InvalidRequest
from punctual.times import from_micros
from stores.offline.asof import Matches, all_known_too_late, find_matches
from stores.offline.entity_rows import (
    ENTITIES,
    ROW,
    EntityFrame,
    EntityRows,
    NaiveTimestamps,
    time_column,
)
from stores.offline.memory_join import can_encode, load_and_join, worth_loading
from stores.offline.row_values import values_at
from stores.offline.view_columns import in_zone
from stores.offline.view_files import ADDRESS, History, diagnosed

BATCH_ROWS = 100_000
_OUT_OF_SPACE = ("Out of Memory Error", "No space left", 'Could not write file "')


class NothingKnown(UserWarning):
    """All features of a view are null: its rows became known after the prediction times."""


@dataclass(frozen=True)
class JoinedView:
    """A feature view in a join.

    `history` takes the last event time to read and the first one (or None), both in microseconds.
    `prefix` precedes the names of the features. `ttl` is in microseconds, 0 for none.
    """

    history: Callable[[int, int | None], History]
    prefix: str
    ttl: int


class _LazyConnection:
    """Opens a connection at the first call and returns the same one at every call."""

    def __init__(self, connect: Callable[[], duckdb.DuckDBPyConnection]) -> None:
        self._connect = connect
        self._connection: duckdb.DuckDBPyConnection | None = None

    def __call__(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            self._connection = self._connect()
            # DuckDB assumes that a frame of unknown size is small, and would join it with nested
            # loops, a thousand times slower.
            self._connection.execute("SET asof_loop_join_threshold = 0")
        return self._connection

    def close(self) -> None:
        """Close the connection if it was opened."""
        if self._connection is not None:
            self._connection.close()


@dataclass(frozen=True)
class Join:
    """A point-in-time join of entity rows with views.

    `connect` opens a DuckDB connection for this join alone; it is called only when needed.
    `threads` read files: by default one per core, at most eight.
    """

    frame: EntityFrame
    views: Sequence[JoinedView]
    connect: Callable[[], duckdb.DuckDBPyConnection]
    two_time: bool = True
    naive: NaiveTimestamps = "refuse"
    threads: int | None = None

    def table(self) -> pa.Table:
        """The entity rows with the views' features, as one Arrow table."""
        with self._connection() as connected:
            entities = EntityRows(connected, self.frame, naive=self.naive, in_memory=True)
            result = entities.whole()
            for view, history in self._histories(entities):
                with _naming_view(history):
                    values, rows = self._values(connected, entities, view, history)
                indices = pa.array(rows, mask=rows < 0)
                for feature in history.features:
                    result = result.append_column(
                        view.prefix + feature.name, values[feature.name].take(indices)
                    )
            return result

    def _values(
        self,
        connected: Callable[[], duckdb.DuckDBPyConnection],
        entities: EntityRows,
        view: JoinedView,
        history: History,
    ) -> tuple[pa.Table, np.ndarray]:
        """Features of rows of the history, and each entity row's index into them (-1: none)."""
        if worth_loading(history, entities.rows):
            keys = _keys(entities, history)
            if can_encode(keys, history.key_types):
                features, rows = load_and_join(
                    history,
                    keys,
                    entities.prediction_times.to_numpy(),
                    two_time=self.two_time,
                    ttl_us=view.ttl,
                    threads=self.threads or _default_threads(),
                )
                if not (rows >= 0).any():
                    self._warn_if_known_too_late(connected(), entities, history)
                return features, rows
        found = self._find(connected(), entities, view, history)
        rows = np.full(entities.rows, -1)
        addresses, rows[found.entity_rows] = np.unique(found.addresses, return_inverse=True)
        pieces = values_at(history, addresses, threads=self.threads or _default_threads())
        return _concatenated(history, pieces), rows

    def extent(self) -> tuple[list[str], datetime | None, datetime | None]:
        """The entity columns except the time, and the first and last time (aware UTC)."""
        with self._connection() as connected:
            entities = EntityRows(connected, self.frame, naive=self.naive)
            columns = [
                name for name in entities.schema.names if name != time_column(entities.schema)
            ]
            if not entities.rows:
                return columns, None, None
            return (
                columns,
                from_micros(pc.min(entities.prediction_times).as_py()),
                from_micros(_last(entities)),
            )

    def batches(self, rows: int) -> Iterator[pa.Table]:
        """The result of `table` in pieces of `rows` rows.

        Memory holds the keys, prediction times and addresses of all entity rows. The feature values
        are in DuckDB tables, which spill to disk when memory is short.
        """
        with self._connection() as connected:
            connection = connected()
            entities = EntityRows(connected, self.frame, naive=self.naive)
            fields: list[pa.Field] = []
            selected = [f"entity.{ROW}"]
            joins = ""
            for number, (view, history) in enumerate(self._histories(entities)):
                matches, values = f"__matches{number}", f"__values{number}"
                with _naming_view(history):
                    found = self._find(connection, entities, view, history)
                    _create_table(
                        connection,
                        matches,
                        pa.table({ROW: found.entity_rows, ADDRESS: found.addresses}).to_reader(),
                    )
                    self._create_values_table(
                        connection, history, np.unique(found.addresses), values
                    )
                joins += f"""
                    LEFT JOIN (FROM {matches} JOIN {values} USING ({ADDRESS})) AS view{number}
                    ON view{number}.{ROW} = entity.{ROW}
                """
                selected += [
                    f"view{number}.c{column} AS view{number}c{column}"
                    for column in range(len(history.features))
                ]
                fields += [
                    pa.field(view.prefix + feature.name, feature.type)
                    for feature in history.features
                ]
            entities.prepare([], [])
            features_of_rows = connection.cursor().sql(
                f"""
                SELECT {", ".join(selected)}
                FROM {ENTITIES} AS entity
                {joins}
                ORDER BY entity.{ROW}
                """
            )
            pieces = _pieces(features_of_rows.to_arrow_reader(rows), rows)
            for piece, features in zip(entities.slices(rows), pieces, strict=True):
                for column, field in enumerate(fields, start=1):
                    piece = piece.append_column(field, features.column(column).cast(field.type))
                yield piece

    def _create_values_table(
        self,
        connection: duckdb.DuckDBPyConnection,
        history: History,
        addresses: np.ndarray,
        values: str,
    ) -> None:
        """Create the table `values` with `__address` and the features as `c0`, `c1`, …."""
        # Without time zones: DuckDB 1.5 has no nanoseconds with one.
        types = [in_zone(feature.type, None) for feature in history.features]
        schema = pa.schema(
            [(ADDRESS, pa.int64()), *((f"c{column}", type_) for column, type_ in enumerate(types))]
        )
        broken: list[BrokenTable] = []

        def batches() -> Iterator[pa.RecordBatch]:
            done = 0
            try:
                for piece in values_at(
                    history, addresses, threads=self.threads or _default_threads()
                ):
                    part = pa.table(
                        [pa.array(addresses[done : done + piece.num_rows]), *piece.columns],
                        names=schema.names,
                    )
                    done += piece.num_rows
                    yield from part.cast(schema).combine_chunks().to_batches()
            except BrokenTable as error:
                broken.append(error)
                raise

        try:
            _create_table(connection, values, pa.RecordBatchReader.from_batches(schema, batches()))
        except duckdb.Error as error:
            # DuckDB passes on only the text of an error that the stream raised.
            raise broken[0] if broken else error from None

    @contextmanager
    def _connection(self) -> Iterator[_LazyConnection]:
        connected = _LazyConnection(self.connect)
        try:
            with _reporting_lack_of_space():
                yield connected
        finally:
            connected.close()

    def _histories(self, entities: EntityRows) -> Iterator[tuple[JoinedView, History]]:
        names = set(entities.schema.names)
        for view in self.views:
            # Rows past the ttl at the first prediction time are not read.
            since = (
                pc.min(entities.prediction_times).as_py() - view.ttl
                if view.ttl and entities.rows
                else None
            )
            history = view.history(_last(entities), since)
            for feature in history.features:
                if view.prefix + feature.name in names:
                    raise InvalidRequest(
                        f"feature '{view.prefix + feature.name}' of view '{history.view}' has the"
                        " name of another column of the result;"
                        " use full_feature_names=True or rename the column."
                    )
                names.add(view.prefix + feature.name)
            yield view, history

    def _find(
        self,
        connection: duckdb.DuckDBPyConnection,
        entities: EntityRows,
        view: JoinedView,
        history: History,
    ) -> Matches:
        entities.prepare(list(history.keys), history.key_types, of=f"view '{history.view}'")
        found = find_matches(
            connection, history, two_time=self.two_time, ttl=view.ttl, rows=entities.rows
        )
        if not len(found.entity_rows):
            self._warn_if_known_too_late(connection, entities, history)
        return found

    def _warn_if_known_too_late(
        self, connection: duckdb.DuckDBPyConnection, entities: EntityRows, history: History
    ) -> None:
        """Warn if no entity row sees a row because all rows became known too late."""
        if not (self.two_time and entities.rows and history.paths):
            return
        if all_known_too_late(connection, history, _last(entities)):
            warnings.warn(
                f"all features of view '{history.view}' are null: its rows became known"
                f" ({history.created}) after the prediction times of the entity rows."
                " If that column is the time of a backfill, and not the time at which a value"
                " became known, set point_in_time: event_time to join by event time alone.",
                NothingKnown,
                stacklevel=2,
            )


def _default_threads() -> int:
    return min(int(pa.cpu_count()), 8)


def _last(entities: EntityRows) -> int:
    """The last prediction time."""
    return int(pc.max(entities.prediction_times).as_py() or 0) if entities.rows else 0


def _keys(entities: EntityRows, history: History) -> list[pa.ChunkedArray]:
    return entities.keys([*history.keys], history.key_types, of=f"view '{history.view}'")


def _concatenated(history: History, pieces: Iterator[pa.Table]) -> pa.Table:
    schema = pa.schema([(feature.name, feature.type) for feature in history.features])
    return pa.concat_tables([schema.empty_table(), *pieces]).combine_chunks()


def _create_table(
    connection: duckdb.DuckDBPyConnection, table: str, reader: pa.RecordBatchReader
) -> None:
    """Load a stream into a table of the connection."""
    connection.register("__pieces", reader)
    connection.execute(f"CREATE OR REPLACE TABLE {table} AS FROM __pieces")
    connection.unregister("__pieces")


def _pieces(reader: pa.RecordBatchReader, rows: int) -> Iterator[pa.Table]:
    """The rows of a reader in pieces of exactly `rows` rows; the last may be shorter."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in reader:
        while batch.num_rows:
            part = batch.slice(0, rows - count)
            batch = batch.slice(part.num_rows)
            waiting.append(part)
            count += part.num_rows
            if count == rows:
                yield pa.Table.from_batches(waiting)
                waiting, count = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


@contextmanager
def _naming_view(history: History) -> Iterator[None]:
    """Name the view and the file in errors of DuckDB."""
    try:
        with _reporting_lack_of_space(f" of view '{history.view}'"):
            yield
    except duckdb.Error as error:
        raise diagnosed(history, error) from error


@contextmanager
def _reporting_lack_of_space(of: str = "") -> Iterator[None]:
    """Raise `DataFolderError` where DuckDB lacks memory or disk space.

    Errors of DuckDB that pass through a stream arrive as Arrow errors.
    """
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        if not any(sign in str(error) for sign in _OUT_OF_SPACE):
            raise
        raise DataFolderError(
            f"the join{of} ran out of memory or disk space: {str(error).splitlines()[0]}"
            " Raise memory_limit of offline_store in feature_store.yaml, or give its spill_folder"
            " more disk space."
        ) from error
