"""Sliding windows as prefix sums over change points; exact in any order of the events."""

from __future__ import annotations

from datetime import timedelta

from pipelines.windows.grid import column_names, first_grid_time, has_value
from punctual.column_types import column_type
from punctual.times import duration_text, micros
from punctual.windows import Aggregation, Declaration
from stores.tables import CREATED, EVENT, quoted


def windowed_rows(declared: Declaration, versions: str, low: int, high: int) -> str:
    """A SELECT with a row at each grid time in `(low, high]` at which a window changes.

    A window changes when a version enters or leaves it. Times are in microseconds.
    """
    every = micros(declared.every)
    keys = column_names(declared.join_keys)
    windows = sorted({window for each in declared.aggregations for window in each.over})
    terms = _terms(declared)
    happened, known = (first_grid_time(name, every) for name in ("__event_us", "__created_us"))
    exits = {
        window: f"least({first_grid_time(f'(__event_us + {micros(window)})', every)},"
        f" coalesce({first_grid_time('__superseded_us', every)}, {2**62}))"
        for window in windows
    }
    exit_columns = ", ".join(f"{time} AS {_exit(window)}" for window, time in exits.items())
    entering = ", ".join(
        f"CASE WHEN __entry_us < {_exit(window)} THEN {value} ELSE 0 END AS {quoted(name)}"
        for name, (window, value) in terms.items()
    )
    # A version that becomes known too late for the longest window enters no window.
    changes = [
        f"""
            SELECT {keys}, __entry_us AS __grid_us, {entering}
            FROM __events
            WHERE __entry_us < {_exit(windows[-1])} AND __entry_us <= {high}"""
    ]
    for window in windows:
        leaving = ", ".join(
            f"{f'-({value})' if its_window == window else '0'} AS {quoted(name)}"
            for name, (its_window, value) in terms.items()
        )
        changes.append(
            f"""
            SELECT {keys}, {_exit(window)} AS __grid_us, {leaving}
            FROM __events
            WHERE __entry_us < {_exit(window)} AND {_exit(window)} <= {high}"""
        )
    sums = ", ".join(f"sum({quoted(name)}) AS {quoted(name)}" for name in terms)
    totals = ", ".join(f"sum({quoted(name)}) OVER of_key AS {quoted(name)}" for name in terms)
    features = ", ".join(
        f"{_value(each, window, declared)} AS {quoted(each.feature_name(window, declared.events))}"
        for each in declared.aggregations
        for window in each.over
    )
    return f"""
        WITH __events AS MATERIALIZED (
            SELECT *, greatest({happened}, {known}) AS __entry_us, {exit_columns}
            FROM ({versions})
            WHERE {has_value(declared)}
        ),
        __changes AS (
            SELECT {keys}, __grid_us, {sums}
            FROM ({" UNION ALL ".join(changes)})
            GROUP BY {keys}, __grid_us
        ),
        __totals AS (
            SELECT {keys}, __grid_us, {totals}
            FROM __changes
            WINDOW of_key AS (
                PARTITION BY {keys} ORDER BY __grid_us
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            )
        )
        SELECT {keys}, {features}, make_timestamp(__grid_us) AS {EVENT},
            make_timestamp(__grid_us + {micros(declared.available_after)}) AS {CREATED}
        FROM __totals
        WHERE __grid_us > {low}"""


def _exit(window: timedelta) -> str:
    return quoted(f"__exit_us_{duration_text(window)}")


def _terms(declared: Declaration) -> dict[str, tuple[timedelta, str]]:
    """The additive terms of the features: name -> (window, SQL for what one event adds)."""
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
    number = _integer_measure(each, declared)
    return {
        "rows": "1",
        "known": f"CAST({measure} IS NOT NULL AS BIGINT)",
        "sum": f"coalesce({number}, 0)",
        "squares": f"coalesce(CAST({number} AS HUGEINT) * {number}, 0)",
    }[term]


def _integer_measure(each: Aggregation, declared: Declaration) -> str:
    """SQL for the measure as an integer, of a type wide enough for its negative."""
    measure = quoted(each.measure or "")
    if each.measure is None:
        return measure
    type_ = column_type(declared.events.columns[each.measure])
    if type_.digits:
        # A decimal is counted in units of its last digit.
        widened = f"CAST({measure} AS DECIMAL(38, {type_.digits}))"
        return f"CAST({widened} * {10**type_.digits} AS HUGEINT)"
    return f"CAST({measure} AS {'HUGEINT' if type_.duckdb == 'BIGINT' else 'BIGINT'})"


def _digits(each: Aggregation, declared: Declaration) -> int:
    """The number of digits of the measure after the decimal point."""
    if each.measure is None:
        return 0
    return column_type(declared.events.columns[each.measure]).digits or 0


def _value(each: Aggregation, window: timedelta, declared: Declaration) -> str:
    """SQL for a feature from the running totals of its terms.

    The totals are integers, so only the final square root and division round.
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
