"""Finds the row of a view's history that each entity row sees: one DuckDB `ASOF` join over the few
rows that can be the answer.

At (keys, t) the answer is, among the rows with the same keys, `event <= t` and `created <= t`, the
one with the greatest event, ties to the greatest created. A row takes effect at the later of its
two times. An `ASOF` join on the time of effect finds the answer once the overtaken rows are left
out: those older in event time than a row that is already in effect.

`ASOF` sorts all its input, and most of a long history is input for nothing. So time is divided into
buckets of a few rows per key, and only rows whose event is in the bucket of an entity row's t, or
in the bucket before it, are joined. An answer in these two buckets is final, since every row left
out has an older event. Entity rows without one are joined with wider buckets, and at last with the
whole history of their keys. Selecting the near rows is one pass over keys and times with a hash
lookup, so that time is linear in the history and memory in the entity rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

import duckdb
import numpy as np

from stores.offline.entity_rows import ENTITIES, PREDICTION_TIME, ROW, key_column
from stores.offline.view_files import ADDRESS, History
from stores.tables import RowStatistics

# Up to this many rows, joining the whole history is as fast as selecting rows first.
FEW_ROWS = 500_000
# Rows per bucket and key. With fewer, more entity rows need a second pass; with more, the first
# pass is slower.
ROWS_PER_BUCKET = 3.0
WIDER = 8
_SAMPLED_FILES = 16
_SAMPLED_ENTITIES = 1_000


@dataclass(frozen=True)
class Matches:
    """The indices (from 0) of the entity rows that see a row of the history, in any order, and the
    addresses of the rows they see; both int64.
    """

    entity_rows: np.ndarray
    addresses: np.ndarray


def find_matches(
    connection: duckdb.DuckDBPyConnection, history: History, *, two_time: bool, ttl: int, rows: int
) -> Matches:
    """The row of the history that each of the `rows` entity rows in `__entities` sees.

    `ttl` is in microseconds, 0 for none, and inclusive. A withdrawn row hides older rows and is not
    shown itself. `EntityRows.prepare` makes `__entities`.
    """
    if not history.paths:
        return Matches(np.zeros(0, np.int64), np.zeros(0, np.int64))
    statistics = history.statistics or _statistics_of(connection, history)
    search = _Search(connection, history, statistics, two_time=two_time, ttl=ttl)
    if history.keys and worth_narrowing(statistics.rows, rows, 2 * rows):
        search.join_near_rows(rows)
    else:
        search.join_whole_history(search.keyed_entities, rows)
    return Matches(*(np.concatenate(parts) for parts in zip(*search.found, strict=True)))


def worth_narrowing(history_rows: int, entity_rows: int, near: float) -> bool:
    """Whether selecting about `near` rows of the history is cheaper than joining all of it."""
    return history_rows > FEW_ROWS and entity_rows > 0 and near < history_rows / 2


def _statistics_of(connection: duckdb.DuckDBPyConnection, history: History) -> RowStatistics:
    """The statistics of files without a manifest, read from their rows; ties are possible."""
    (rows, min_event, max_event, min_created, max_created) = connection.execute(
        f"""
        SELECT count(*), min(__event), max(__event), min(__created), max(__created)
        FROM ({history.scan()})
        """
    ).fetchall()[0]
    if not rows:
        return RowStatistics(0, 0, 0, 0, 0, 0, 0, in_order=False)
    # Different lags mark the rows as irregular: without a publisher even equal lags allow ties.
    return RowStatistics(
        rows, min_event, max_event, min_created, max_created, -1, 1, in_order=False
    )


class _Search:
    """Joins a history with the entity rows; `found` collects entity rows and addresses."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        history: History,
        statistics: RowStatistics,
        *,
        two_time: bool,
        ttl: int,
    ) -> None:
        self._connection = connection
        self._history = history
        self._statistics = statistics
        self.found: list[tuple[np.ndarray, np.ndarray]] = []
        self._two_time = two_time
        self._ttl = ttl
        self._keys = [key_column(number) for number in range(len(history.keys))]
        # An entity row with a null key sees nothing.
        has_keys = " AND ".join(f"{key} IS NOT NULL" for key in self._keys)
        self.keyed_entities = (
            f"(SELECT * FROM {ENTITIES} WHERE {has_keys})" if has_keys else ENTITIES
        )
        # Where no row overtakes another, rows take effect in order of events. Buckets of the time
        # of effect then need no margin for late rows.
        ordered = two_time and (statistics.in_order or statistics.is_regular)
        self._bucket_time = "greatest(__event, __created)" if ordered else "__event"
        self._first = statistics.min_event
        self._last = (
            max(statistics.max_event, statistics.max_created) if ordered else statistics.max_event
        )
        self._span = max(1, self._last - self._first + 1)
        self._rows_may_overtake = two_time and not ordered

    def join_whole_history(self, entities: str, rows: int) -> None:
        """Join all rows of the entity rows' keys."""
        candidates = self._history.scan()
        # With many entity rows, most rows of the history have their keys: no need to select them.
        if self._keys and self._statistics.rows > 4 * rows:
            keys = ", ".join(self._keys)
            candidates = f"""
                SELECT *
                FROM ({candidates})
                SEMI JOIN (SELECT DISTINCT {keys} FROM {entities}) USING ({keys})
            """
        # DuckDB joins into a result with one thread, into a table with all.
        self._connection.execute(
            f"CREATE OR REPLACE TABLE __found AS {self._joined(entities, candidates)}"
        )
        self._collect()

    def _collect(self, condition: str = "true") -> None:
        found = self._connection.sql(
            f"SELECT {ROW}, {ADDRESS} FROM __found WHERE {condition} AND {ADDRESS} >= 0"
        ).to_arrow_table()
        self.found.append((found[ROW].to_numpy(), found[ADDRESS].to_numpy()))

    def join_near_rows(self, rows: int) -> None:
        """Join the rows near each prediction time, in ever wider buckets until all are settled."""
        rows_per_key, lag = self._sampled()
        width = max(1, round(ROWS_PER_BUCKET * self._span / rows_per_key), lag)
        # An entity row before the history sees nothing.
        waiting = f"(SELECT * FROM {self.keyed_entities} WHERE {PREDICTION_TIME} >= {self._first})"
        number = 0
        while rows:
            # At most two buckets for each entity row, if no two entity rows share one.
            near = 2 * width / self._span * rows_per_key * rows
            if width >= self._span or not worth_narrowing(self._statistics.rows, rows, near):
                self.join_whole_history(waiting, rows)
                return
            rows = self._join_buckets(waiting, width, f"__waiting{number}")
            waiting, width, number = f"__waiting{number}", width * WIDER, number + 1
            # The remaining entity rows often have unknown keys, or few keys with gaps.
            if rows and self._count_keys(waiting) * rows_per_key < self._statistics.rows / WIDER:
                self.join_whole_history(waiting, rows)
                return

    def _sampled(self) -> tuple[float, int]:
        """The mean number of rows per key, and the lag (µs) of nearly all rows, estimated from a
        few files and entity rows.
        """
        paths = self._history.paths
        sample = range(0, len(paths), max(1, len(paths) // _SAMPLED_FILES))
        share = len(sample) / len(paths)
        matches, matched = self._connection.execute(
            f"""
            SELECT count(*), count(DISTINCT {ROW})
            FROM ({self._history.scan(sample)})
            JOIN (
                SELECT *
                FROM {ENTITIES}
                WHERE {ROW} % greatest(
                    1, (SELECT count(*) FROM {ENTITIES}) // {_SAMPLED_ENTITIES}
                ) = 0
            ) USING ({", ".join(self._keys)})
            """
        ).fetchall()[0]
        lag = 0
        if self._rows_may_overtake:
            (lag,) = self._connection.execute(
                f"""
                SELECT quantile_disc(greatest(__created - __event, 0), 0.9)
                FROM ({self._history.scan(sample)})
                """
            ).fetchall()[0]
        return max(1.0, matches / max(1, matched) / share), int(lag or 0)

    def _join_buckets(self, waiting: str, width: int, unsettled: str) -> int:
        """Join the rows of two buckets per entity row; write the entity rows that they do not
        settle to the table `unsettled`, and return their number.
        """
        keys = "".join(key + ", " for key in self._keys)
        last_bucket = (self._last - self._first) // width
        bucket = f"least(({PREDICTION_TIME} - {self._first}) // {width}, {last_bucket})"
        rows = self._history.scan(first=self._first_near_file(waiting, bucket, width))
        near = f"""
            SELECT *
            FROM (
                SELECT *, ({self._bucket_time} - {self._first}) // {width} AS __bucket
                FROM ({rows})
            )
            SEMI JOIN (
                SELECT DISTINCT {keys}__bucket
                FROM (
                    SELECT {keys}{bucket} AS __bucket FROM {waiting}
                    UNION ALL
                    SELECT {keys}{bucket} - 1 FROM {waiting}
                )
            ) USING ({keys}__bucket)
        """
        settled = (
            f"coalesce(history.__bucket >= {bucket} - 1, false)"
            f" OR {bucket} <= 1{self._or_expired(bucket, width)}"
        )
        joined = self._joined(waiting, near, f", {settled} AS __settled")
        self._connection.execute(f"CREATE OR REPLACE TABLE __found AS {joined}")
        self._collect("__settled")
        self._connection.execute(
            f"""
            CREATE OR REPLACE TABLE {unsettled} AS
            SELECT *
            FROM {waiting}
            SEMI JOIN (FROM __found WHERE NOT __settled) USING ({ROW})
            """
        )
        (count,) = self._connection.execute(f"SELECT count(*) FROM {unsettled}").fetchall()[0]
        return int(count)

    def _count_keys(self, waiting: str) -> int:
        keys = f"SELECT DISTINCT {', '.join(self._keys)} FROM {waiting}"
        (count,) = self._connection.execute(f"SELECT count(*) FROM ({keys})").fetchall()[0]
        return int(count)

    def _first_near_file(self, waiting: str, bucket: str, width: int) -> int:
        """The index of the first file that can have a row of the buckets; earlier files end before
        them.
        """
        (earliest,) = self._connection.execute(
            f"SELECT min({bucket}) - 1 FROM {waiting}"
        ).fetchall()[0]
        start = self._first + int(earliest or 0) * width
        too_early = takewhile(
            lambda file: max(file.max_event, file.max_created) < start,
            self._history.file_statistics,
        )
        return min(len(list(too_early)), len(self._history.paths) - 1)

    def _or_expired(self, bucket: str, width: int) -> str:
        """The condition that all rows older than the two buckets are past the view's ttl."""
        if not self._ttl:
            return ""
        return f" OR {self._first} + ({bucket} - 1) * {width} <= {PREDICTION_TIME} - {self._ttl}"

    def _joined(self, entities: str, candidates: str, extra_column: str = "") -> str:
        """A SELECT of `__row` and `__address` (-1: no row is seen) for the entity rows."""
        is_fresh = (
            f"history.__event + {self._ttl} >= entity.{PREDICTION_TIME}" if self._ttl else "true"
        )
        same_keys = "".join(f"entity.{key} = history.{key} AND " for key in self._keys)
        return f"""
            SELECT
                entity.{ROW},
                CASE
                    WHEN NOT history.__withdrawn AND {is_fresh} THEN history.{ADDRESS}
                    ELSE -1
                END AS {ADDRESS}{extra_column}
            FROM {entities} AS entity
            ASOF LEFT JOIN ({self._effective(candidates)}) AS history
            ON {same_keys}entity.{PREDICTION_TIME} >= history.__effective
        """

    def _effective(self, candidates: str) -> str:
        """The candidates that are the answer from `__effective` until the next row's `__effective`;
        at most one for each keys and `__effective`.
        """
        time_of_effect = "greatest(__event, __created)" if self._two_time else "__event"
        effective = f"SELECT *, {time_of_effect} AS __effective FROM ({candidates})"
        if self._statistics.is_regular:
            return effective
        by_keys = f"PARTITION BY {', '.join(self._keys)} " if self._keys else ""
        order = f"{by_keys}ORDER BY __effective, __event, __created, {ADDRESS}"
        if self._rows_may_overtake:
            effective = f"""
                SELECT *
                FROM ({effective})
                QUALIFY __event >= coalesce(
                    max(__event) OVER (
                        {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                    ),
                    __event
                )
            """
        return f"""
            SELECT *
            FROM ({effective})
            QUALIFY __effective IS DISTINCT FROM lead(__effective) OVER ({order})
        """


def all_known_too_late(
    connection: duckdb.DuckDBPyConnection, history: History, last_time: int
) -> bool:
    """Whether the history has rows with `event <= last_time` (µs), all of them created later."""
    (events, known) = connection.execute(
        f"""
        SELECT count(*), count(*) FILTER (__created <= {last_time})
        FROM ({history.scan()})
        WHERE __event <= {last_time}
        """
    ).fetchall()[0]
    return bool(events and not known)
