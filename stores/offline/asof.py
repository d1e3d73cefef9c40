"""Which row of a view's history each entity row sees: one DuckDB `ASOF` join over the few rows that
can be the answer.

At (keys, t) the answer is, among the rows with the same keys, `event <= t` and `created <= t`, the
one with the greatest event, ties to the greatest created. An `ASOF` join finds it if each row is
entered at its moment of effect, the later of its two times, and rows older in event time than one
already in effect are left out: they are never the answer.

`ASOF` sorts all rows that it is given, and of a long history nearly all are given for nothing. Cut
time into buckets of a few rows per key, and look only at rows whose event is in the bucket of an
entity row's t or in the one before. If the join over those finds an answer in those two buckets, it
is the answer: every row left out has an older event. If it does not, the entity row goes on to
wider buckets, and at the end to the whole history of its keys. Finding the rows is one pass over
keys and times with a hash lookup, and so the join is linear in the history, its memory that of the
entity rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

import duckdb
import numpy as np

from stores.offline.entity_rows import ENTITIES, MOMENT, ROW, key_column
from stores.offline.view_files import ADDRESS, History
from stores.tables import RowStatistics

# Below this many rows a plain join is as fast as a careful one.
FEW_ROWS = 500_000
# Of rows per bucket and key: with fewer the second pass has more to do, with more the first one.
ROWS_A_BUCKET = 3.0
WIDER = 8
_SAMPLED_FILES = 16
_SAMPLED_ENTITIES = 1_000


@dataclass(frozen=True)
class Found:
    """Entity rows (their places, from 0) that see a row of the history, in any order, and that
    row's address; both int64.
    """

    rows: np.ndarray
    addresses: np.ndarray


def find_rows(
    connection: duckdb.DuckDBPyConnection, history: History, *, two_time: bool, ttl: int, rows: int
) -> Found:
    """For the entity rows that see a row of the history, which one.

    Reads `__entities` (see `EntityRows.prepare`), of `rows` rows. `ttl` in microseconds, 0 for
    none; its bound is inclusive. A row that was withdrawn hides what is older and is not itself
    shown.
    """
    if not history.paths:
        return Found(np.zeros(0, np.int64), np.zeros(0, np.int64))
    statistics = history.statistics or _statistics_of(connection, history)
    join = _Join(connection, history, statistics, two_time=two_time, ttl=ttl)
    if history.keys and worth_looking(statistics.rows, rows, 2 * rows):
        join.narrowing(rows)
    else:
        join.whole_history(join.askable, rows)
    return Found(*(np.concatenate(parts) for parts in zip(*join.found, strict=True)))


def worth_looking(history_rows: int, entity_rows: int, near: float) -> bool:
    """Whether a pass over the history to find the rows near the moments, about so many, is less
    than to join it whole.
    """
    return history_rows > FEW_ROWS and entity_rows > 0 and near < history_rows / 2


def _statistics_of(connection: duckdb.DuckDBPyConnection, history: History) -> RowStatistics:
    """What a manifest would say, read from the rows; ties are taken to be possible."""
    (rows, min_event, max_event, min_created, max_created) = connection.execute(
        "SELECT count(*), min(__event), max(__event), min(__created), max(__created) FROM"
        f" ({history.scan()})"
    ).fetchall()[0]
    if not rows:
        return RowStatistics(0, 0, 0, 0, 0, 0, 0, in_order=False)
    # That all lags be equal would say nothing of ties, since nobody has refused repetitions.
    return RowStatistics(
        rows, min_event, max_event, min_created, max_created, -1, 1, in_order=False
    )


class _Join:
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
        # An entity row without a key sees nothing.
        has_keys = " AND ".join(f"{key} IS NOT NULL" for key in self._keys)
        self.askable = f"(SELECT * FROM {ENTITIES} WHERE {has_keys})" if has_keys else ENTITIES
        # Where no row overtook another, effect has the order of events, and buckets by effect need
        # not wait for what is known late.
        ordered = two_time and (statistics.in_order or statistics.is_regular)
        self._measure = "greatest(__event, __created)" if ordered else "__event"
        self._first = statistics.min_event
        self._last = (
            max(statistics.max_event, statistics.max_created) if ordered else statistics.max_event
        )
        self._span = max(1, self._last - self._first + 1)
        self._waits = two_time and not ordered

    def whole_history(self, entities: str, rows: int) -> None:
        """Join all rows of the entity rows' keys."""
        candidates = self._history.scan()
        # Where there are many entity rows, most rows of the history are of their keys.
        if self._keys and self._statistics.rows > 4 * rows:
            keys = ", ".join(self._keys)
            candidates = (
                f"SELECT * FROM ({candidates}) SEMI JOIN (SELECT DISTINCT {keys} FROM"
                f" {entities}) USING ({keys})"
            )
        # A join straight into a result is done by one thread, into a table by all.
        self._connection.execute(
            f"CREATE OR REPLACE TABLE __found AS {self._joined(entities, candidates)}"
        )
        self._take()

    def _take(self, only: str = "") -> None:
        found = self._connection.sql(
            f"SELECT {ROW}, {ADDRESS} FROM __found WHERE {only}{ADDRESS} >= 0"
        ).to_arrow_table()
        self.found.append((found[ROW].to_numpy(), found[ADDRESS].to_numpy()))

    def narrowing(self, rows: int) -> None:
        """Join the rows near each entity row's moment; what is not settled by them goes on to wider
        buckets.
        """
        rows_per_key, lag = self._sampled()
        width = max(1, round(ROWS_A_BUCKET * self._span / rows_per_key), lag)
        # An entity row before the history sees nothing.
        waiting = f"(SELECT * FROM {self.askable} WHERE {MOMENT} >= {self._first})"
        number = 0
        while rows:
            # Two buckets for each waiting entity row, if every one were alone in its own.
            near = 2 * width / self._span * rows_per_key * rows
            if width >= self._span or not worth_looking(self._statistics.rows, rows, near):
                self.whole_history(waiting, rows)
                return
            rows = self._settle(waiting, width, f"__waiting{number}")
            waiting, width, number = f"__waiting{number}", width * WIDER, number + 1
            # What waits now are often keys that the history does not know, or few keys with gaps.
            if rows and self._count_keys(waiting) * rows_per_key < self._statistics.rows / WIDER:
                self.whole_history(waiting, rows)
                return

    def _sampled(self) -> tuple[float, int]:
        """From a few files and a few entity rows: the mean rows of a key, and how late nearly all
        rows are (µs).
        """
        sample = range(
            0, len(self._history.paths), max(1, len(self._history.paths) // _SAMPLED_FILES)
        )
        share = len(sample) / len(self._history.paths)
        entities = (
            f"SELECT * FROM {ENTITIES} WHERE {ROW} % greatest(1, (SELECT count(*) FROM"
            f" {ENTITIES}) // {_SAMPLED_ENTITIES}) = 0"
        )
        matches, matched = self._connection.execute(
            f"SELECT count(*), count(DISTINCT {ROW}) FROM ({self._history.scan(sample)}) JOIN"
            f" ({entities}) USING ({', '.join(self._keys)})"
        ).fetchall()[0]
        lag = 0
        if self._waits:
            (lag,) = self._connection.execute(
                "SELECT quantile_disc(greatest(__created - __event, 0), 0.9) FROM"
                f" ({self._history.scan(sample)})"
            ).fetchall()[0]
        return max(1.0, matches / max(1, matched) / share), int(lag or 0)

    def _settle(self, waiting: str, width: int, left: str) -> int:
        """Join the rows of two buckets; make the table `left` of the entity rows that they do not
        settle, and return how many.
        """
        keys = "".join(key + ", " for key in self._keys)
        last_bucket = (self._last - self._first) // width
        bucket = f"least(({MOMENT} - {self._first}) // {width}, {last_bucket})"
        pairs = (
            f"SELECT DISTINCT {keys}__bucket FROM (SELECT {keys}{bucket} AS __bucket FROM {waiting}"
            f" UNION ALL SELECT {keys}{bucket} - 1 FROM {waiting})"
        )
        rows = self._history.scan(first=self._first_near(waiting, bucket, width))
        near = (
            f"SELECT * FROM (SELECT *, ({self._measure} - {self._first}) // {width} AS __bucket"
            f" FROM ({rows}))"
            f" SEMI JOIN ({pairs}) USING ({keys}__bucket)"
        )
        settled = (
            f"coalesce(h.__bucket >= {bucket} - 1, false) OR {bucket} <="
            f" 1{self._expired(bucket, width)}"
        )
        joined = self._joined(waiting, near, f", {settled} AS __settled")
        self._connection.execute(f"CREATE OR REPLACE TABLE __found AS {joined}")
        self._take("__settled AND ")
        self._connection.execute(
            f"CREATE OR REPLACE TABLE {left} AS SELECT * FROM {waiting} SEMI JOIN (FROM __found"
            f" WHERE NOT __settled) USING ({ROW})"
        )
        (unsettled,) = self._connection.execute(f"SELECT count(*) FROM {left}").fetchall()[0]
        return int(unsettled)

    def _count_keys(self, waiting: str) -> int:
        keys = f"SELECT DISTINCT {', '.join(self._keys)} FROM {waiting}"
        (count,) = self._connection.execute(f"SELECT count(*) FROM ({keys})").fetchall()[0]
        return int(count)

    def _first_near(self, waiting: str, bucket: str, width: int) -> int:
        """The place of the first file that can hold a row of the buckets; those before it all end
        too early.
        """
        (earliest,) = self._connection.execute(
            f"SELECT min({bucket}) - 1 FROM {waiting}"
        ).fetchall()[0]
        start = self._first + int(earliest or 0) * width
        too_early = takewhile(
            lambda part: max(part.max_event, part.max_created) < start, self._history.parts
        )
        return min(len(list(too_early)), len(self._history.paths) - 1)

    def _expired(self, bucket: str, width: int) -> str:
        """Whether the two buckets reach back as far as the view's ttl: what is older is not shown
        anyway.
        """
        if not self._ttl:
            return ""
        return f" OR {self._first} + ({bucket} - 1) * {width} <= {MOMENT} - {self._ttl}"

    def _joined(self, entities: str, candidates: str, more: str = "") -> str:
        """A SELECT of `__row` and `__address` (-1 for nothing) for the entity rows."""
        visible = "true" if not self._ttl else f"h.__event + {self._ttl} >= e.{MOMENT}"
        same_keys = "".join(f"e.{key} = h.{key} AND " for key in self._keys)
        return (
            f"SELECT e.{ROW}, CASE WHEN NOT h.__withdrawn AND {visible} THEN h.{ADDRESS} ELSE -1"
            f" END AS {ADDRESS}{more}"
            f" FROM {entities} AS e ASOF LEFT JOIN ({self._effective(candidates)}) AS h ON"
            f" {same_keys}e.{MOMENT} >= h.__effective"
        )

    def _effective(self, candidates: str) -> str:
        """The candidates that are the answer from `__effective` until the next one's, one per keys
        and moment.
        """
        by_keys = f"PARTITION BY {', '.join(self._keys)} " if self._keys else ""
        if not self._two_time:
            entered = f"SELECT *, __event AS __effective FROM ({candidates})"
        else:
            entered = f"SELECT *, greatest(__event, __created) AS __effective FROM ({candidates})"
        if self._statistics.is_regular:
            return entered
        order = f"{by_keys}ORDER BY __effective, __event, __created, {ADDRESS}"
        if self._waits:
            entered = (
                f"SELECT * FROM ({entered}) QUALIFY __event >= coalesce(max(__event) OVER"
                f" ({order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), __event)"
            )
        return (
            f"SELECT * FROM ({entered}) QUALIFY __effective IS DISTINCT FROM lead(__effective)"
            f" OVER ({order})"
        )


def known_too_late(
    connection: duckdb.DuckDBPyConnection, history: History, last_moment: int
) -> bool:
    """Whether there are rows with events by the last moment asked for, and all of those became
    known after it.
    """
    (events, known) = connection.execute(
        f"SELECT count(*), count(*) FILTER (__created <= {last_moment}) FROM ({history.scan()})"
        f" WHERE __event <= {last_moment}"
    ).fetchall()[0]
    return bool(events and not known)
