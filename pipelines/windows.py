"""Feature rows from events: sliding windows as prefix sums over change points, and the latest event, on a grid.

An event enters a window at the first grid time at which it has happened and is known, and leaves it at the first
grid time at or after `event_timestamp + window`, or when a newer version of it is known. Sums are over integers
and decimals, so that they are exact whatever the order: a backfill and hourly runs give the same rows.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from feature_repo.times import duration_text, micros
from feature_repo.windows import Aggregation, Declaration
from stores.table import CREATED, EVENT, Table, quoted


def feature_rows(declared: Declaration, events: Table, since: datetime | None, until: datetime) -> str | None:
    """A SELECT of the view's rows at grid times in `(since, until]`; None where no event can matter.

    `since` None means from the beginning. Columns are the join keys, the features and both times.
    """
    files = events.files()
    low, high = -(2**60) if since is None else micros(since), micros(until)
    if since is not None:
        # The last grid time of the run before may lie up to a grid's step before `since`. What had left the longest
        # window by then, and was known, changes nothing after it.
        reached = low - micros(declared.every)
        horizon = reached - micros(declared.longest_window)
        matter = [file for file in files if file.max_event > horizon or file.max_created > reached]
        # A newer version of an event that matters came after it, whatever event time it has now.
        first = min((file.min_created for file in matter), default=2**62)
        files = [file for file in files if file.max_created >= first]
    if not files:
        return None
    versions = _versions(declared, events.scan(files))
    if declared.aggregations:
        return _windowed(declared, versions, low, high)
    return f"{_latest(declared, versions, low, high)} UNION ALL {_uncovered(declared, events.scan(), low, high)}"


def _versions(declared: Declaration, events: str) -> str:
    """Each version of each event: `__e` happened, `__k` known, `__next` superseded."""
    return (
        f"SELECT *, epoch_us({EVENT}) AS __e, epoch_us({CREATED}) AS __k, lead(epoch_us({CREATED})) OVER of_id AS __next"
        f" FROM ({events}) WINDOW of_id AS (PARTITION BY {_names(declared.events.id)} ORDER BY {CREATED}, {EVENT})"
    )


def _has_keys(declared: Declaration) -> str:
    return " AND ".join(f"{quoted(key)} IS NOT NULL" for key in declared.join_keys)


def _names(columns: tuple[str, ...]) -> str:
    return ", ".join(map(quoted, columns))


def _grid(moment: str, every: int) -> str:
    """The first grid time at or after a moment in microseconds."""
    shift = 2**60 // every * every  # DuckDB divides towards zero
    return f"(({moment} + {shift + every - 1}) // {every} * {every} - {shift})"


def _lives(declared: Declaration, versions: str) -> str:
    """The versions that are anybody's newest knowledge at a grid time: from `__in` until `__out`, when some have `__moved`."""
    every = micros(declared.every)
    superseded = f"coalesce({_grid('__next', every)}, {2**62})"
    moved = " OR ".join(f"lead({quoted(name)}) OVER of_id IS DISTINCT FROM {quoted(name)}" for name in (*declared.join_keys, EVENT))
    return (
        f"SELECT * FROM (SELECT *, {moved} AS __moved"
        f" FROM (SELECT *, {_grid('__k', every)} AS __in, {superseded} AS __out FROM ({versions})) WHERE __in < __out"
        f" WINDOW of_id AS (PARTITION BY {_names(declared.events.id)} ORDER BY __in)) WHERE {_has_keys(declared)}"
    )


def _latest(declared: Declaration, versions: str, low: int, high: int) -> str:
    """A row for each version that becomes known."""
    keys = _names(declared.join_keys)
    return (
        f"SELECT {keys}, {_names(declared.fields)}, {EVENT}, make_timestamp(__in + {micros(declared.available_after)}) AS {CREATED}"
        f" FROM ({_lives(declared, versions)}) WHERE __in > {low} AND __in <= {high}"
        f" QUALIFY row_number() OVER (PARTITION BY {keys}, {EVENT}, __in ORDER BY __k DESC, {_names(declared.events.id)}) = 1"
    )


def _uncovered(declared: Declaration, events: str, low: int, high: int) -> str:
    """Rows for the event times that a correction took away: a row once published there would go on being the newest.

    From then on, and whenever something at or before such a time changes, the newest event that remains stands there
    (nulls if there is none). Its age is judged by the time that was taken away.
    """
    keys, ids = _names(declared.join_keys), _names(declared.events.id)
    points = ", ".join(f"p.{quoted(key)}" for key in declared.join_keys)
    corrected = f"SELECT {ids} FROM ({events}) GROUP BY {ids} HAVING count(*) > 1"
    touched = f"SELECT {keys} FROM ({events}) SEMI JOIN __corrected USING ({ids})"
    # Other events of the same keys are what may remain; newer versions of theirs may have other keys.
    wanted = f"SELECT {ids} FROM ({events}) SEMI JOIN __touched USING ({keys})"
    of_interest = f"FROM ({events}) SEMI JOIN __wanted USING ({ids})"
    of_keys = " AND ".join(f"v.{quoted(key)} = p.{quoted(key)}" for key in declared.join_keys)
    fields = ", ".join(f"v.{quoted(name)}" for name in declared.fields)
    newest = f"v.__e DESC NULLS LAST, v.__k DESC, {', '.join(f'v.{quoted(name)}' for name in declared.events.id)}"
    return (
        f"SELECT * FROM (WITH __corrected AS MATERIALIZED ({corrected}), __touched AS ({touched}), __wanted AS ({wanted}),"
        f" __lives AS MATERIALIZED ({_lives(declared, _versions(declared, of_interest))}),"
        f" __taken AS (SELECT {keys}, __e AS __p, min(__out) AS __from FROM __lives"
        f" WHERE __moved AND __out <= {high} GROUP BY {keys}, __e),"
        f" __changes AS (SELECT {keys}, __e, unnest([__in, __out]) AS __g FROM __lives),"
        f" __points AS (SELECT DISTINCT {points}, p.__p, v.__g"
        f" FROM __taken AS p JOIN __changes AS v ON {of_keys} AND v.__e <= p.__p AND v.__g >= p.__from"
        f" WHERE v.__g > {low} AND v.__g <= {high})"
        f" SELECT {points}, {fields}, make_timestamp(p.__p) AS {EVENT},"
        f" make_timestamp(p.__g + {micros(declared.available_after)}) AS {CREATED}"
        f" FROM __points AS p LEFT JOIN __lives AS v ON {of_keys} AND v.__e <= p.__p AND v.__in <= p.__g AND p.__g < v.__out"
        # Where the newest that remains has this very time, it has a row of its own.
        f" QUALIFY row_number() OVER (PARTITION BY {points}, p.__p, p.__g ORDER BY {newest}) = 1"
        f" AND NOT coalesce(v.__e = p.__p AND v.__in = p.__g, false))"
    )


def _windowed(declared: Declaration, versions: str, low: int, high: int) -> str:
    """A row at each grid time at which a version enters or leaves one of the windows."""
    every = micros(declared.every)
    keys = _names(declared.join_keys)
    windows = sorted({window for each in declared.aggregations for window in each.over})
    terms = _terms(declared)
    entry = f"greatest({_grid('__e', every)}, {_grid('__k', every)})"
    exits = {w: f"least({_grid(f'(__e + {micros(w)})', every)}, coalesce({_grid('__next', every)}, {2**62}))" for w in windows}
    inside = ", ".join(f"{moment} AS {_exit(w)}" for w, moment in exits.items())
    events = f"SELECT *, {entry} AS __in, {inside} FROM ({versions}) WHERE {_has_keys(declared)}"
    parts = [
        f"SELECT {keys}, __in AS __g, "
        + ", ".join(f"CASE WHEN __in < {_exit(w)} THEN {value} ELSE 0 END AS {quoted(name)}" for name, (w, value) in terms.items())
        # What comes too late for the longest window enters none.
        + f" FROM __events WHERE __in < {_exit(windows[-1])} AND __in <= {high}"
    ]
    for window in windows:
        leaving = ", ".join(f"{f'-({value})' if w == window else '0'} AS {quoted(name)}" for name, (w, value) in terms.items())
        parts.append(
            f"SELECT {keys}, {_exit(window)} AS __g, {leaving} FROM __events WHERE __in < {_exit(window)} AND {_exit(window)} <= {high}"
        )
    sums = ", ".join(f"sum({quoted(name)}) AS {quoted(name)}" for name in terms)
    totals = ", ".join(f"sum({quoted(name)}) OVER of_key AS {quoted(name)}" for name in terms)
    features = ", ".join(
        f"{_value(each, window, declared)} AS {quoted(each.feature_name(window, declared.events))}"
        for each in declared.aggregations
        for window in each.over
    )
    return (
        f"WITH __events AS MATERIALIZED ({events}),"
        f" __changes AS (SELECT {keys}, __g, {sums} FROM ({' UNION ALL '.join(parts)}) GROUP BY {keys}, __g),"
        f" __totals AS (SELECT {keys}, __g, {totals} FROM __changes"
        f" WINDOW of_key AS (PARTITION BY {keys} ORDER BY __g ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW))"
        f" SELECT {keys}, {features}, make_timestamp(__g) AS {EVENT},"
        f" make_timestamp(__g + {micros(declared.available_after)}) AS {CREATED} FROM __totals WHERE __g > {low}"
    )


def _exit(window: timedelta) -> str:
    return quoted(f"__out_{duration_text(window)}")


def _terms(declared: Declaration) -> dict[str, tuple[timedelta, str]]:
    """The additive terms behind the features: name to (window, what one event adds)."""
    terms: dict[str, tuple[timedelta, str]] = {}
    for each in declared.aggregations:
        for window in each.over:
            for term in _terms_of(each):
                terms[_term(term, each.measure, window)] = (window, _addend(term, each, declared))
    return terms


def _terms_of(each: Aggregation) -> tuple[str, ...]:
    return {
        "count": ("rows",),
        "sum": ("known", "sum"),
        "mean": ("known", "sum"),
        "share": ("known", "sum"),
        "std": ("known", "sum", "squares"),
    }[each.function]


def _term(term: str, measure: str | None, window: timedelta) -> str:
    return f"__{term}_{measure or ''}_{duration_text(window)}"


def _addend(term: str, each: Aggregation, declared: Declaration) -> str:
    measure, digits = quoted(each.measure or ""), _digits(each, declared)
    # Decimals are counted in their smallest units, which are whole numbers.
    number = f"CAST(CAST({measure} AS DECIMAL(38, {digits})) * {10**digits} AS HUGEINT)" if digits else f"CAST({measure} AS BIGINT)"
    return {
        "rows": "1",
        "known": f"CAST({measure} IS NOT NULL AS BIGINT)",
        "sum": f"coalesce({number}, 0)",
        "squares": f"coalesce(CAST({number} AS HUGEINT) * {number}, 0)",
    }[term]


def _digits(each: Aggregation, declared: Declaration) -> int:
    """How many digits the measure has behind the point."""
    kind = declared.events.columns.get(each.measure or "", "")
    match = re.fullmatch(r"(?:DECIMAL|NUMERIC)(\(\d+(?:, *(\d+))?\))?", kind.upper())
    if not match:
        return 0
    return int(match[2] or 0) if match[1] else 3  # DuckDB's DECIMAL alone is DECIMAL(18, 3)


def _value(each: Aggregation, window: timedelta, declared: Declaration) -> str:
    """A feature from the running totals of its terms, which are whole numbers; only the last steps round."""
    known, total, squares = (quoted(_term(term, each.measure, window)) for term in ("known", "sum", "squares"))
    if each.function == "count":
        return f"CAST({quoted(_term('rows', None, window))} AS BIGINT)"
    if each.function == "sum" and str(each.dtype(declared.events)).endswith("Int64"):
        return f"CASE WHEN {known} > 0 THEN CAST({total} AS BIGINT) END"
    unit = 10 ** _digits(each, declared)
    value = f"CAST({total} AS DOUBLE)"
    if each.function == "std":
        value = f"sqrt(CAST({known} * {squares} - {total} * {total} AS DOUBLE))"
    value += f" / {unit}::DOUBLE" if unit > 1 else ""
    value += "" if each.function == "sum" else f" / CAST({known} AS DOUBLE)"
    return f"CASE WHEN {known} > 0 THEN {value} END"
