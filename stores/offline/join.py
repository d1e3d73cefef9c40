"""A point-in-time join that runs when its result is asked for: as Arrow, pandas or polars, as a
stream, or into a Parquet file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from punctual.errors import BrokenTable, DataFolderError, InvalidRequest
from punctual.times import from_micros
from stores.offline.asof import Found, find_rows, known_too_late
from stores.offline.entity_rows import (
    ENTITIES,
    ROW,
    EntityFrame,
    EntityRows,
    NaiveTimestamps,
    time_column,
)
from stores.offline.memory_join import can_encode, load_and_join, worth_loading
from stores.offline.row_values import gather
from stores.offline.view_columns import in_zone
from stores.offline.view_files import ADDRESS, History, diagnosed

if TYPE_CHECKING:
    pass

BATCH_ROWS = 100_000
_NO_ROOM = ("Out of Memory Error", "No space left", 'Could not write file "')


class NothingKnown(UserWarning):
    """A view gave nothing but nulls, since all its rows became known after the entity rows'
    moments.
    """


@dataclass(frozen=True)
class JoinedView:
    """A feature view in a join: its history until a moment and since one, what is put before its
    features' names, its ttl (µs).
    """

    history: Callable[[int, int | None], History]
    prefix: str
    ttl: int


class _LazyConnection:
    """Opens a connection when it is called for the first time, and returns it from then on."""

    def __init__(self, connect: Callable[[], duckdb.DuckDBPyConnection]) -> None:
        self._connect = connect
        self._connection: duckdb.DuckDBPyConnection | None = None

    def __call__(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            self._connection = self._connect()
            # DuckDB takes a frame of unknown size for a small one and would join it in nested
            # loops, a thousand times slower.
            self._connection.execute("SET asof_loop_join_threshold = 0")
        return self._connection

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()


@dataclass(frozen=True)
class Join:
    """All that a point-in-time join is made of.

    `connect` opens the DuckDB connection that a join has for itself, where it needs one. `threads`
    read files; by default as many as there are cores, and eight at most.
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
                with _named(history):
                    values, places = self._values(connected, entities, view, history)
                indices = pa.array(places, mask=places < 0)
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
        """Features of rows of the history, and for each entity row its row of them (-1: none)."""
        if worth_loading(history, entities.rows):
            keys = _keys(entities, history)
            if can_encode(keys, history.key_types):
                features, rows = load_and_join(
                    history,
                    keys,
                    entities.moments.to_numpy(),
                    two_time=self.two_time,
                    ttl_us=view.ttl,
                    threads=self.threads or _default_threads(),
                )
                if not (rows >= 0).any():
                    self._warn_if_known_too_late(connected(), entities, history)
                return features, rows
        found = self._find(connected(), entities, view, history)
        rows = np.full(entities.rows, -1)
        addresses, rows[found.rows] = np.unique(found.addresses, return_inverse=True)
        pieces = gather(history, addresses, threads=self.threads or _default_threads())
        return _concatenated(history, pieces), rows

    def extent(self) -> tuple[list[str], datetime | None, datetime | None]:
        """The entity rows' columns but their time, and their first and last moments (aware UTC)."""
        with self._connection() as connected:
            entities = EntityRows(connected, self.frame, naive=self.naive)
            columns = [
                name for name in entities.schema.names if name != time_column(entities.schema)
            ]
            if not entities.rows:
                return columns, None, None
            return (
                columns,
                from_micros(pc.min(entities.moments).as_py()),
                from_micros(_last(entities)),
            )

    def batches(self, rows: int) -> Iterator[pa.Table]:
        """The same in pieces of so many rows; of all entity rows only keys, moments and addresses
        are held.

        What is found waits in DuckDB, which puts it into the spill folder where memory is short.
        """
        with self._connection() as connected:
            connection = connected()
            entities = EntityRows(connected, self.frame, naive=self.naive)
            fields: list[pa.Field] = []
            selected = [f"e.{ROW}"]
            joins = ""
            for number, (view, history) in enumerate(self._histories(entities)):
                shown, values = f"__shown{number}", f"__values{number}"
                with _named(history):
                    found = self._find(connection, entities, view, history)
                    _keep(
                        connection,
                        shown,
                        pa.table({ROW: found.rows, ADDRESS: found.addresses}).to_reader(),
                    )
                    self._keep_values(connection, history, np.unique(found.addresses), values)
                joins += (
                    f" LEFT JOIN (FROM {shown} JOIN {values} USING ({ADDRESS})) AS v{number}"
                    f" ON v{number}.{ROW} = e.{ROW}"
                )
                selected += [
                    f"v{number}.c{place} AS v{number}c{place}"
                    for place in range(len(history.features))
                ]
                fields += [
                    pa.field(view.prefix + feature.name, feature.type)
                    for feature in history.features
                ]
            entities.prepare([], [])
            features_of_rows = connection.cursor().sql(
                f"SELECT {', '.join(selected)} FROM {ENTITIES} AS e{joins} ORDER BY e.{ROW}"
            )
            pieces = _pieces(features_of_rows.to_arrow_reader(rows), rows)
            for piece, features in zip(entities.slices(rows), pieces, strict=True):
                for place, field in enumerate(fields, start=1):
                    piece = piece.append_column(field, features.column(place).cast(field.type))
                yield piece

    def _keep_values(
        self,
        connection: duckdb.DuckDBPyConnection,
        history: History,
        addresses: np.ndarray,
        values: str,
    ) -> None:
        """Make the table `values` of `__address` and the features by number."""
        # Naive, since DuckDB 1.5 has no zoned nanoseconds.
        types = [in_zone(feature.type, None) for feature in history.features]
        schema = pa.schema(
            [(ADDRESS, pa.int64()), *((f"c{place}", type_) for place, type_ in enumerate(types))]
        )
        broken: list[BrokenTable] = []

        def numbered() -> Iterator[pa.RecordBatch]:
            done = 0
            try:
                for piece in gather(history, addresses, threads=self.threads or _default_threads()):
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
            _keep(connection, values, pa.RecordBatchReader.from_batches(schema, numbered()))
        except duckdb.Error as error:
            # What a stream raised comes back as a text of DuckDB's.
            raise broken[0] if broken else error from None

    @contextmanager
    def _connection(self) -> Iterator[_LazyConnection]:
        connected = _LazyConnection(self.connect)
        try:
            with _room():
                yield connected
        finally:
            connected.close()

    def _histories(self, entities: EntityRows) -> Iterator[tuple[JoinedView, History]]:
        names = set(entities.schema.names)
        for view in self.views:
            # What no entity row can see any more is not read.
            since = (
                pc.min(entities.moments).as_py() - view.ttl if view.ttl and entities.rows else None
            )
            history = view.history(_last(entities), since)
            for feature in history.features:
                if view.prefix + feature.name in names:
                    raise InvalidRequest(
                        f"feature '{view.prefix + feature.name}' of view '{history.view}' would"
                        " stand beside a column of that name; "
                        "ask with full_feature_names=True or rename the column."
                    )
                names.add(view.prefix + feature.name)
            yield view, history

    def _find(
        self,
        connection: duckdb.DuckDBPyConnection,
        entities: EntityRows,
        view: JoinedView,
        history: History,
    ) -> Found:
        entities.prepare(list(history.keys), history.key_types, of=f"view '{history.view}'")
        found = find_rows(
            connection, history, two_time=self.two_time, ttl=view.ttl, rows=entities.rows
        )
        if not len(found.rows):
            self._warn_if_known_too_late(connection, entities, history)
        return found

    def _warn_if_known_too_late(
        self, connection: duckdb.DuckDBPyConnection, entities: EntityRows, history: History
    ) -> None:
        """Warn that no entity row sees anything, if that is because no row was known in time."""
        if not (self.two_time and entities.rows and history.paths):
            return
        if known_too_late(connection, history, _last(entities)):
            warnings.warn(
                f"view '{history.view}' gives nothing but nulls: each of its rows became known"
                f" ({history.created}) after the moments of"
                " the entity rows. Where that column is when a backfill ran, and not when a value"
                " was known, point_in_time: event_time"
                " joins by event time alone.",
                NothingKnown,
                stacklevel=2,
            )


def _default_threads() -> int:
    return min(int(pa.cpu_count()), 8)


def _last(entities: EntityRows) -> int:
    """The last moment among the entity rows."""
    return int(pc.max(entities.moments).as_py() or 0) if entities.rows else 0


def _keys(entities: EntityRows, history: History) -> list[pa.ChunkedArray]:
    return entities.keys([*history.keys], history.key_types, of=f"view '{history.view}'")


def _concatenated(history: History, pieces: Iterator[pa.Table]) -> pa.Table:
    schema = pa.schema([(feature.name, feature.type) for feature in history.features])
    return pa.concat_tables([schema.empty_table(), *pieces]).combine_chunks()


def _keep(connection: duckdb.DuckDBPyConnection, table: str, reader: pa.RecordBatchReader) -> None:
    """Put a stream into a table of the connection."""
    connection.register("__pieces", reader)
    connection.execute(f"CREATE OR REPLACE TABLE {table} AS FROM __pieces")
    connection.unregister("__pieces")


def _pieces(reader: pa.RecordBatchReader, rows: int) -> Iterator[pa.Table]:
    """The rows of a reader in pieces of exactly so many."""
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
def _named(history: History) -> Iterator[None]:
    """Tell what DuckDB could not read, and of which view the rows were that it had no room for."""
    try:
        with _room(f" of view '{history.view}'"):
            yield
    except duckdb.Error as error:
        raise diagnosed(history, error) from error


@contextmanager
def _room(of: str = "") -> Iterator[None]:
    """Tell where DuckDB ran out of room; through a stream, its errors come as Arrow's."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        if not any(sign in str(error) for sign in _NO_ROOM):
            raise
        raise DataFolderError(
            f"the join{of} ran out of room: {str(error).splitlines()[0]}"
            " Give offline_store more memory_limit in feature_store.yaml, or its spill_folder more"
            " disk."
        ) from error
