"""Sliding windows as prefix sums over change points, exact whatever the order of events."""

from __future__ import annotations

from datetime import timedelta

from pipelines.windows.grid import column_names, first_grid_time, has_value
from punctual.column_types import column_type
from punctual.times import duration_text, micros
from punctual.windows import Aggregation, Declaration
from stores.tables import CREATED, EVENT, quoted


def windowed_rows(declared: Declaration, versions: str, low: int, high: int) -> str:
    """A row at each grid time at which a version enters or leaves one of the windows."""
    every = micros(declared.every)
    keys = column_names(declared.join_keys)
    windows = sorted({window for each in declared.aggregations for window in each.over})
    terms = _terms(declared)
    entry = f"greatest({first_grid_time('__e', every)}, {first_grid_time('__k', every)})"
    exits = {
        w: f"least({first_grid_time(f'(__e + {micros(w)})', every)},"
        f" coalesce({first_grid_time('__next', every)}, {2**62}))"
        for w in windows
    }
    inside = ", ".join(f"{moment} AS {_exit(w)}" for w, moment in exits.items())
    events = f"SELECT *, {entry} AS __in, {inside} FROM ({versions}) WHERE {has_value(declared)}"
    parts = [
        f"SELECT {keys}, __in AS __g, "
        + ", ".join(
            f"CASE WHEN __in < {_exit(w)} THEN {value} ELSE 0 END AS {quoted(name)}"
            for name, (w, value) in terms.items()
        )
        # What comes too late for the longest window enters none.
        + f" FROM __events WHERE __in < {_exit(windows[-1])} AND __in <= {high}"
    ]
    for window in windows:
        leaving = ", ".join(
            f"{f'-({value})' if w == window else '0'} AS {quoted(name)}"
            for name, (w, value) in terms.items()
        )
        parts.append(
            f"SELECT {keys}, {_exit(window)} AS __g, {leaving} FROM __events WHERE __in <"
            f" {_exit(window)} AND {_exit(window)} <= {high}"
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
        f" __changes AS (SELECT {keys}, __g, {sums} FROM ({' UNION ALL '.join(parts)}) GROUP BY"
        f" {keys}, __g),"
        f" __totals AS (SELECT {keys}, __g, {totals} FROM __changes"
        f" WINDOW of_key AS (PARTITION BY {keys} ORDER BY __g ROWS BETWEEN UNBOUNDED PRECEDING AND"
        " CURRENT ROW))"
        f" SELECT {keys}, {features}, make_timestamp(__g) AS {EVENT},"
        f" make_timestamp(__g + {micros(declared.available_after)}) AS {CREATED} FROM __totals"
        f" WHERE __g > {low}"
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
    measure = quoted(each.measure or "")
    number = _whole_number(each, declared)
    return {
        "rows": "1",
        "known": f"CAST({measure} IS NOT NULL AS BIGINT)",
        "sum": f"coalesce({number}, 0)",
        "squares": f"coalesce(CAST({number} AS HUGEINT) * {number}, 0)",
    }[term]


def _whole_number(each: Aggregation, declared: Declaration) -> str:
    """The measure as a whole number, of which the negative exists too."""
    measure = quoted(each.measure or "")
    if each.measure is None:
        return measure
    type_ = column_type(declared.events.columns[each.measure])
    if type_.digits:
        # Decimals are counted in their smallest units, which are whole numbers.
        exact = f"CAST({measure} AS DECIMAL(38, {type_.digits}))"
        return f"CAST({exact} * {10**type_.digits} AS HUGEINT)"
    return f"CAST({measure} AS {'HUGEINT' if type_.duckdb == 'BIGINT' else 'BIGINT'})"


def _digits(each: Aggregation, declared: Declaration) -> int:
    """How many digits the measure has behind the point."""
    if each.measure is None:
        return 0
    return column_type(declared.events.columns[each.measure]).digits or 0


def _value(each: Aggregation, window: timedelta, declared: Declaration) -> str:
    """A feature from the running totals of its terms, which are whole numbers; only the last steps
    round.
    """
    known, total, squares = (
        quoted(_term(term, each.measure, window)) for term in ("known", "sum", "squares")
    )
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
