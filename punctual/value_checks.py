"""Checks the values that a domain declares: types, durations, numbers, metrics and tasks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import get_args

from punctual.column_types import ColumnType, UnknownColumnType, column_type, type_of_feast
from punctual.errors import unknown_name
from punctual.events import Events
from punctual.loaded_domain import LoadedDomain
from punctual.sources import CsvSource
from punctual.times import InvalidTime, duration, duration_text
from punctual.use_case import Gate, Metric, Task, TimeSplit, UseCase
from punctual.windows import Aggregation, Declaration

METRICS = {
    "binary": ("average_precision", "roc_auc", "log_loss", "brier"),
    "regression": ("rmse", "mae", "r2"),
}
# The kinds of a label's type, by task.
_LABEL_KINDS = {"binary": ("boolean", "integer"), "regression": ("integer", "decimal", "float")}
_ZERO = timedelta(0)


def value_problems(loaded: LoadedDomain) -> list[str]:
    """Every declared value that is invalid."""
    problems: list[str] = []
    for source in loaded.sources:
        problems += _source_problems(source)
    for stream in loaded.events:
        problems += _events_problems(stream)
    for declared in loaded.declarations:
        problems += _view_problems(declared)
    for view in loaded.views.values():
        if view.ttl is not None and view.ttl < _ZERO:
            problems.append(f"view '{view.name}': ttl is {view.ttl}; expected 0 (none) or more.")
    problems += _input_problems(loaded)
    for use_case in loaded.use_cases.values():
        problems += [f"use case '{use_case.name}': {each}" for each in _use_case_problems(use_case)]
        problems += _request_problems(loaded, use_case)
    return problems


def _source_problems(source: CsvSource) -> list[str]:
    where = f"source '{source.name}'"
    problems = _type_problems(where, source.columns)
    problems += _key_problems(f"{where}: key", source.key, source.columns)
    problems += _repeated(f"{where}: rule", [rule.name for rule in source.rules])
    problems += [
        f"{where}: a row of the supplement has {len(row)} values; expected one for each of"
        f" {len(source.columns)} columns."
        for row in source.supplement
        if len(row) != len(source.columns)
    ]
    return problems


def _events_problems(events: Events) -> list[str]:
    where = f"events '{events.name}'"
    problems = _type_problems(where, events.columns)
    problems += _key_problems(f"{where}: id", events.id, events.columns)
    if not events.sources:
        problems.append(f"{where} have no sources; name those that their SQL reads.")
    return problems


def _type_problems(where: str, columns: Iterable[str]) -> list[str]:
    problems = [] if columns else [f"{where}: no columns are declared."]
    for name in columns:
        try:
            column_type(columns[name])  # type: ignore[index]
        except UnknownColumnType as error:
            problems.append(f"{where}, column '{name}': {error.args[0]}")
    return problems


def _key_problems(where: str, key: Sequence[str], columns: Iterable[str]) -> list[str]:
    if isinstance(key, str):
        return [f"{where} is the text '{key}'; expected a tuple of column names: ('{key}',)."]
    if not key:
        return [f"{where} is empty; name the columns that identify a row."]
    missing = [
        f"{where} column '{name}' is not among the columns." for name in key if name not in columns
    ]
    return missing + _repeated(f"{where} column", key)


def _repeated(where: str, names: Iterable[str]) -> list[str]:
    return [
        f"{where} '{name}' is declared {n} times." for name, n in Counter(names).items() if n > 1
    ]


def _view_problems(declared: Declaration) -> list[str]:
    where = f"view '{declared.name}'"
    problems = [
        f"{where}: {name} is {value}; expected {expected}."
        for name, value, expected, is_right in (
            ("every", declared.every, "more than 0", declared.every > _ZERO),
            (
                "available_after",
                declared.available_after,
                "0 or more",
                declared.available_after >= _ZERO,
            ),
        )
        if not is_right
    ]
    if not declared.features:
        problems.append(f"{where} has no features; declare at least one.")
    problems += _repeated(f"{where}: feature", declared.features)
    problems += [
        f"{where}: '{name}' is a join key and a feature; leave it out of the features."
        for name in sorted(set(declared.features) & set(declared.join_keys))
    ]
    for each in declared.aggregations:
        problems += [f"{where}: {problem}" for problem in _aggregation_problems(each, declared)]
    for name in (*declared.join_keys, *declared.fields):
        type_ = _known_type(declared.events, name)
        is_decimal_key = type_ and type_.kind == "decimal" and name in declared.join_keys
        if type_ and (not type_.feast or is_decimal_key):
            problems.append(
                f"{where}: column '{name}' is {type_.duckdb}, which has no Feast type; cast it in"
                f" the SQL of events '{declared.events.name}', for example to VARCHAR or DOUBLE."
            )
    return problems


def _known_type(events: Events, column: str) -> ColumnType | None:
    """A column's type; None if column or type is unknown, which another check reports."""
    try:
        return column_type(events.columns[column]) if column in events.columns else None
    except UnknownColumnType:
        return None


def _aggregation_problems(each: Aggregation, declared: Declaration) -> list[str]:
    name = f"{each.function}('{each.measure}')" if each.measure else each.function
    problems = [] if each.over else [f"{name} has no windows; give at least one in over=."]
    for window in each.over:
        if window <= _ZERO or window % timedelta(seconds=1):
            problems.append(
                f"{name} has a window of {window}; expected whole seconds, more than 0."
            )
        elif declared.every > _ZERO and window % declared.every:
            problems.append(
                f"a window must be a multiple of its grid ({declared.every}):"
                f" {name} over {duration_text(window)}."
            )
    type_ = _known_type(declared.events, each.measure or "")
    if type_ is None:
        return problems
    if each.function == "share" and type_.kind != "boolean":
        problems.append(f"{name} needs a BOOLEAN, the events declare {type_.duckdb}.")
    if each.function in ("sum", "mean", "std") and not type_.is_exact:
        reason = (
            f"of a {type_.duckdb} depends on the order of rows"
            if type_.kind == "float"
            else f"needs numbers, the events declare {type_.duckdb}"
        )
        problems.append(f"{name} {reason}; declare the measure as an integer or a DECIMAL.")
    return problems


def _input_problems(loaded: LoadedDomain) -> list[str]:
    """Repeated input names of a request-time view, whose function would get only one of them."""
    problems = []
    for view in loaded.on_demand_views.values():
        inputs = [*view.get_request_data_schema()]
        for projection in view.source_feature_view_projections.values():
            inputs += [feature.name for feature in projection.features]
        problems += [
            f"request-time view '{view.name}' has {n} inputs named '{name}', of which its function"
            " would get one; give the feature another name in its view, or leave one out."
            for name, n in Counter(inputs).items()
            if n > 1
        ]
    return problems


def _use_case_problems(use_case: UseCase) -> list[str]:
    problems: list[str] = []
    if use_case.task not in get_args(Task):
        problems.append(unknown_name("task", str(use_case.task), get_args(Task), "Punctual"))
    if use_case.metric not in get_args(Metric):
        problems.append(unknown_name("metric", str(use_case.metric), get_args(Metric), "Punctual"))
    elif use_case.metric not in METRICS.get(use_case.task, get_args(Metric)):
        problems.append(
            f"metric {use_case.metric} is not for task '{use_case.task}'; use one of"
            f" {', '.join(METRICS[use_case.task])}."
        )
    if not _is_number(use_case.threshold, lambda value: 0 <= value <= 1):
        problems.append(f"threshold is {use_case.threshold!r}; expected a number from 0 to 1.")
    problems += _gate_problems(use_case.gate)
    return problems + _label_problems(use_case) + _split_problems(use_case.split, use_case)


def _is_number(value: object, is_valid: Callable[[float], bool]) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and is_valid(value)


def _gate_problems(gate: Gate) -> list[str]:
    problems = [
        f"gate: {name} is {value!r}; expected a finite number."
        for name, value in (
            ("beats_champion_by", gate.beats_champion_by),
            ("beats_baseline_by", gate.beats_baseline_by),
        )
        if not _is_number(value, lambda _: True)
    ]
    if not isinstance(gate.minimum_rows, int) or not _is_number(gate.minimum_rows, lambda n: n > 0):
        problems.append(
            f"gate: minimum_rows is {gate.minimum_rows!r}; expected a whole number of 1 or more."
        )
    return problems


def _label_problems(use_case: UseCase) -> list[str]:
    label, problems = use_case.label, []
    if not isinstance(label.horizon, timedelta) or label.horizon <= _ZERO:
        problems.append(f"label horizon is {label.horizon!r}; expected a timedelta of more than 0.")
    if not _is_number(label.coverage, lambda value: 0 < value <= 1):
        problems.append(
            f"label coverage is {label.coverage!r}; expected a number above 0 and up to 1."
        )
    type_, label_kinds = _known_type(label.of, label.column), _LABEL_KINDS.get(use_case.task)
    if type_ and label_kinds and type_.kind not in label_kinds:
        problems.append(
            f"label '{label.column}' is {type_.duckdb}; task '{use_case.task}' needs"
            f" {' or '.join(label_kinds)} values."
        )
    return problems


def _split_problems(split: TimeSplit, use_case: UseCase) -> list[str]:
    problems = []
    horizon = use_case.label.horizon
    for name in ("train", "validation", "test"):
        declared = getattr(split, name)
        try:
            length = duration(declared)
        except (InvalidTime, TypeError) as error:
            problems.append(f"split: {name}: {error.args[0]}")
            continue
        # The embargo, a horizon long, is left out of the first two parts.
        embargo = _ZERO if name == "test" or not isinstance(horizon, timedelta) else horizon
        if length <= max(embargo, _ZERO):
            problems.append(
                f"split: {name} is {declared}; expected more than {duration_text(embargo)}"
                f"{', the label horizon' if embargo else ''}."
            )
    return problems


def _request_problems(loaded: LoadedDomain, use_case: UseCase) -> list[str]:
    """Request columns whose type would differ between the training set and the server."""
    service = use_case.feature_service
    if service not in loaded.services:
        return []
    where, problems = f"use case '{use_case.name}'", []
    keys = loaded.join_keys(service)
    for name in sorted(set(use_case.optional_keys) - set(keys)):
        problems.append(
            f"{unknown_name('join key', name, keys, f'service {service!r}')} ({where},"
            " optional_keys)"
        )
    for name, feast_type in loaded.request_columns(service).items():
        type_, expected = _known_type(use_case.requests, name), type_of_feast(feast_type)
        if expected is None:
            problems.append(
                f"{where}: request column '{name}' is {feast_type}, which events do not support;"
                " use String, Int64, Float64, Bool or UnixTimestamp."
            )
        elif type_ and not _is_same_type(type_, expected):
            problems.append(
                f"{where}: request column '{name}' is {feast_type} in its RequestSource and"
                f" {type_.duckdb} in the events '{use_case.requests.name}'; declare it as"
                f" {expected.duckdb} there."
            )
    return problems


def _is_same_type(column: ColumnType, expected: ColumnType) -> bool:
    if expected.kind == "integer":
        return (
            column.kind == "integer" and expected.low <= column.low and column.high <= expected.high
        )
    return column.duckdb == expected.duckdb
