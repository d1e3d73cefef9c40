"""Checks a domain's declarations whole: every problem is collected, none is raised alone."""

from __future__ import annotations

from typing import get_args

from punctual.errors import (
    unknown_name,
)
from punctual.loaded_domain import LoadedDomain
from punctual.schedule import schedule_problems
from punctual.sources import Vanished
from punctual.use_case import UseCase

# Columns that every table of events has besides those that are declared.
_RESERVED = {"event_timestamp", "created_timestamp", "superseded_timestamp", "is_withdrawn"}


def problems_of(loaded: LoadedDomain) -> list[str]:
    """Every problem of the domain's declarations, each as a sentence; none where they are sound."""
    problems = schedule_problems(loaded.domain)
    for declared in loaded.declarations:
        columns = declared.events.columns
        measures = {each.measure for each in declared.aggregations if each.measure} | set(
            declared.fields
        )
        for column in sorted({*declared.join_keys, *measures} - set(columns)):
            problems.append(
                f"{unknown_name('column', column, columns, f'events of {declared.events.name!r}')} (view '{declared.name}')"
            )
        for each in declared.aggregations:
            if any(window % declared.every for window in each.over):
                problems.append(
                    f"view '{declared.name}': a window must be a multiple of its grid ({declared.every})."
                )
            kind = columns.get(each.measure or "", "")
            if each.function == "share" and kind != "BOOLEAN" and each.measure in columns:
                problems.append(
                    f"view '{declared.name}': share('{each.measure}') needs a BOOLEAN, the events declare {kind}."
                )
            if each.function in ("sum", "mean", "std") and kind in ("DOUBLE", "FLOAT", "REAL"):
                problems.append(
                    f"view '{declared.name}': {each.function}('{each.measure}') of a {kind} depends on the order of rows; "
                    "declare the measure as an integer or a DECIMAL."
                )
    for source in loaded.sources:
        if source.vanished not in get_args(Vanished):
            problems.append(
                f"source '{source.name}': vanished={source.vanished!r};"
                f" expected {' or '.join(map(repr, get_args(Vanished)))}."
            )
    for stream in loaded.events:
        for column in sorted(set(stream.columns) & _RESERVED):
            problems.append(
                f"events '{stream.name}': column '{column}' is the platform's own; rename it, and"
                " leave the two times out of the columns."
            )
        for column in sorted(set(stream.id) - set(stream.columns)):
            problems.append(
                f"events '{stream.name}': id column '{column}' is not among the columns."
            )
    for view in [*loaded.views.values(), *loaded.on_demand_views.values()]:
        for column in view.features:
            if not column.description:
                problems.append(f"view '{view.name}': feature '{column.name}' has no description.")
    for use_case in loaded.use_cases.values():
        problems += _use_case_problems(loaded, use_case)
    return problems


def _use_case_problems(loaded: LoadedDomain, use_case: UseCase) -> list[str]:
    problems: list[str] = []
    where = f"use case '{use_case.name}'"
    problems += [f"{problem} ({where})" for problem in use_case.recipe.problems()]
    if use_case.feature_service not in loaded.services:
        return [
            *problems,
            f"{unknown_name('feature service', use_case.feature_service, loaded.services, loaded.name)} ({where})",
        ]
    asked = {
        *loaded.join_keys(use_case.feature_service),
        *loaded.request_columns(use_case.feature_service),
    }
    for column in sorted(asked - set(use_case.requests.columns)):
        problems.append(
            f"{where}: the service needs '{column}', which the requests '{use_case.requests.name}' do not have."
        )
    label = use_case.label
    for column in sorted(
        {label.column, *([label.reason] if label.reason else [])} - set(label.of.columns)
    ):
        problems.append(
            f"{unknown_name('column', column, label.of.columns, f'events of {label.of.name!r}')} ({where})"
        )
    if tuple(label.of.id) != tuple(use_case.requests.id):
        problems.append(
            f"{where}: labels are identified by {label.of.id}, requests by {use_case.requests.id}; expected the same."
        )
    for column in sorted(
        {*use_case.optional_keys, *use_case.describe_columns} - set(use_case.requests.columns)
    ):
        problems.append(
            f"{where}: '{column}' is not a column of the requests '{use_case.requests.name}'."
        )
    if use_case.task == "regression" and use_case.metric in (
        "average_precision",
        "roc_auc",
        "log_loss",
        "brier",
    ):
        problems.append(
            f"{where}: metric {use_case.metric} is for binary labels; use rmse, mae or r2."
        )
    if use_case.task == "binary" and use_case.metric in ("rmse", "mae", "r2"):
        problems.append(
            f"{where}: metric {use_case.metric} is for numbers; use average_precision, roc_auc, log_loss or brier."
        )
    return problems
