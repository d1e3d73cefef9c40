"""Checks all declarations of a domain and collects every problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from punctual.errors import unknown_name
from punctual.loaded_domain import LoadedDomain
from punctual.name_checks import name_problems
from punctual.request_features import canonical_source, function_problems
from punctual.schedule import schedule_problems
from punctual.sources import Vanished
from punctual.use_case import UseCase
from punctual.value_checks import value_problems


def problems_of(loaded: LoadedDomain, others: Sequence[LoadedDomain] = ()) -> list[str]:
    """Every problem of a domain's declarations, including name conflicts with other domains."""
    problems = schedule_problems(loaded.domain)
    if unknown := _unknown_views(loaded):
        # The other checks need every view that a service reads.
        return problems + unknown
    problems += name_problems(loaded, others) + value_problems(loaded)
    for declared in loaded.declarations:
        columns = declared.events.columns
        measures = {each.measure for each in declared.aggregations if each.measure} | set(
            declared.fields
        )
        for column in sorted({*declared.join_keys, *measures} - set(columns)):
            problems.append(
                f"{unknown_name('column', column, columns, f'events of {declared.events.name!r}')}"
                f" (view '{declared.name}')"
            )
    for source in loaded.sources:
        if source.vanished not in get_args(Vanished):
            problems.append(
                f"source '{source.name}': vanished={source.vanished!r};"
                f" expected {' or '.join(map(repr, get_args(Vanished)))}."
            )
    for view in [*loaded.views.values(), *loaded.on_demand_views.values()]:
        for column in view.features:
            if not column.description:
                problems.append(f"view '{view.name}': feature '{column.name}' has no description.")
    for view in loaded.on_demand_views.values():
        source_text = getattr(view.feature_transformation, "udf_string", "")
        own = {loaded.name, loaded.home.repository.name}
        problems += [
            f"request-time view '{view.name}' {problem}"
            for problem in (
                function_problems(canonical_source(source_text), own) if source_text else []
            )
        ]
    for use_case in loaded.use_cases.values():
        problems += _use_case_problems(loaded, use_case)
    return problems


def _unknown_views(loaded: LoadedDomain) -> list[str]:
    """Views that a service or a request-time view reads and that no module defines."""
    read = [
        (f"feature service '{service.name}'", projection.name)
        for service in loaded.services.values()
        for projection in service.feature_view_projections
    ] + [
        (f"request-time view '{view.name}'", projection.name)
        for view in loaded.on_demand_views.values()
        for projection in view.source_feature_view_projections.values()
    ]
    return [
        f"{unknown_name('view', name, loaded.all_views, loaded.name)} ({where}). A view that is"
        " read under another name also needs a module variable with the view as declared."
        for where, name in dict.fromkeys(read)
        if name not in loaded.all_views
    ]


def _use_case_problems(loaded: LoadedDomain, use_case: UseCase) -> list[str]:
    problems: list[str] = []
    where = f"use case '{use_case.name}'"
    problems += [f"{problem} ({where})" for problem in use_case.recipe.problems()]
    if use_case.feature_service not in loaded.services:
        unknown = unknown_name(
            "feature service", use_case.feature_service, loaded.services, loaded.name
        )
        return [*problems, f"{unknown} ({where})"]
    needed = {
        *loaded.join_keys(use_case.feature_service),
        *loaded.request_columns(use_case.feature_service),
    }
    for column in sorted(needed - set(use_case.requests.columns)):
        problems.append(
            f"{where}: the service needs '{column}', which the requests '{use_case.requests.name}'"
            " do not have."
        )
    label = use_case.label
    for column in sorted(
        {label.column, *([label.reason] if label.reason else [])} - set(label.of.columns)
    ):
        problems.append(
            f"{unknown_name('column', column, label.of.columns, f'events of {label.of.name!r}')}"
            f" ({where})"
        )
    if tuple(label.of.id) != tuple(use_case.requests.id):
        problems.append(
            f"{where}: labels are identified by {label.of.id}, requests by {use_case.requests.id};"
            " expected the same."
        )
    for column in sorted(set(use_case.describe_columns) - set(use_case.requests.columns)):
        problems.append(
            f"{where}: '{column}' is not a column of the requests '{use_case.requests.name}'."
        )
    return problems
