"""Feature rows from events: sliding windows as prefix sums over change points, and the latest event, on a grid.

An event enters a window at the first grid time at which it has happened and is known, and leaves it at the first
grid time at or after `event_timestamp + window`, or when a newer version of it is known. Sums are over integers
and decimals, so that they are exact whatever the order: a backfill and hourly runs give the same rows.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from feature_repo.times import duration_text, micros
from feature_repo.windows import Aggregation, Declaration
from stores.table import CREATED, EVENT, Table, quoted


def feature_rows(declared: Declaration, events: Table, since: datetime | None, until: datetime) -> str | None:
    """A SELECT of the view's rows at grid times in `(since, until]`; None where no event can matter.

    `since` None means from the beginning. Columns are the join keys, the features and both times.
    """
    files = events.files()
    if since is not None:
        # What had left the longest window by `since`, and was known by then, changes nothing after it.
        horizon = micros(since) - micros(declared.longest_window)
        matter = [file for file in files if file.max_event > horizon or file.max_created > micros(since)]
        # A newer version of an event that matters came after it, whatever event time it has now.
        first = min((file.min_created for file in matter), default=2**62)
        files = [file for file in files if file.max_created >= first]
    if not files:
        return None
    known = [f"{quoted(key)} IS NOT NULL" for key in declared.join_keys]
    versions = (
        f"SELECT *, epoch_us({EVENT}) AS __e, epoch_us({CREATED}) AS __k,"
        f" lead(epoch_us({CREATED})) OVER (PARTITION BY {_names(declared.events.id)} ORDER BY {CREATED}) AS __next"
        f" FROM ({events.scan(files)})"
    )
    low, high = micros(since) if since else -1, micros(until)
    if declared.aggregations:
        return _windowed(declared, f"SELECT * FROM ({versions}) WHERE {' AND '.join(known)}", low, high)
    return _latest(declared, f"SELECT * FROM ({versions}) WHERE {' AND '.join(known)}", low, high)


def _names(columns: tuple[str, ...]) -> str:
    return ", ".join(map(quoted, columns))


def _grid(moment: str, every: int) -> str:
    """The first grid time at or after a moment in microseconds."""
    return f"(({moment} + {every - 1}) // {every} * {every})"


def _latest(declared: Declaration, versions: str, low: int, high: int) -> str:
    columns = _names((*declared.join_keys, *declared.fields))
    at = _grid("__k", micros(declared.every))
    return (
        f"SELECT {columns}, {EVENT}, make_timestamp(__g + {micros(declared.available_after)}) AS {CREATED}"
        f" FROM (SELECT *, {at} AS __g FROM ({versions})) WHERE __g > {low} AND __g <= {high}"
        f" QUALIFY row_number() OVER (PARTITION BY {_names(declared.join_keys)}, {EVENT}, __g"
        f" ORDER BY __k DESC, {_names(declared.events.id)}) = 1"
    )


def _windowed(declared: Declaration, versions: str, low: int, high: int) -> str:
    every = micros(declared.every)
    keys = _names(declared.join_keys)
    windows = sorted({window for each in declared.aggregations for window in each.over})
    terms = _terms(declared)
    entry = f"greatest({_grid('__e', every)}, {_grid('__k', every)})"
    exits = {w: f"least({_grid(f'(__e + {micros(w)})', every)}, coalesce({_grid('__next', every)}, {2**62}))" for w in windows}
    inside = ", ".join(f"{moment} AS {_exit(w)}" for w, moment in exits.items())
    events = f"SELECT *, {entry} AS __in, {inside} FROM ({versions})"
    parts = [
        f"SELECT {keys}, __in AS __g, "
        + ", ".join(f"CASE WHEN __in < {_exit(w)} THEN {value} ELSE 0 END AS {quoted(name)}" for name, (w, value) in terms.items())
        + f" FROM __events WHERE __in <= {high}"
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
                terms[_term(term, each.measure, window)] = (window, _addend(term, each))
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


def _addend(term: str, each: Aggregation) -> str:
    measure = quoted(each.measure or "")
    number = f"CAST({measure} AS BIGINT)" if each.function == "share" else measure
    return {
        "rows": "1",
        "known": f"CAST({measure} IS NOT NULL AS BIGINT)",
        "sum": f"coalesce({number}, 0)",
        "squares": f"coalesce(CAST({number} AS HUGEINT) * {number}, 0)",
    }[term]


def _value(each: Aggregation, window: timedelta, declared: Declaration) -> str:
    """A feature from the running totals of its terms."""
    known, total, squares = (quoted(_term(term, each.measure, window)) for term in ("known", "sum", "squares"))
    if each.function == "count":
        return f"CAST({quoted(_term('rows', None, window))} AS BIGINT)"
    if each.function == "sum":
        kind = "BIGINT" if str(each.dtype(declared.events)).endswith("Int64") else "DOUBLE"
        return f"CASE WHEN {known} > 0 THEN CAST({total} AS {kind}) END"
    if each.function == "std":
        # The variance times n squared is an exact integer; only the last steps round.
        return f"CASE WHEN {known} > 0 THEN sqrt(CAST({known} * {squares} - {total} * {total} AS DOUBLE)) / CAST({known} AS DOUBLE) END"
    return f"CASE WHEN {known} > 0 THEN CAST({total} AS DOUBLE) / CAST({known} AS DOUBLE) END"
