"""Checks the names that a domain declares: characters, length, reserved names and conflicts.

A name becomes a folder, a file, a SQL table or column, or a name in Feast's or MLflow's registry.
Some of these ignore case, so names that differ only in case conflict.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence

from punctual.loaded_domain import LoadedDomain
from punctual.sources import CsvSource

MAX_CHARACTERS = 100
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# Columns that the platform adds to tables.
_TABLE_COLUMNS = ("event_timestamp", "created_timestamp", "superseded_timestamp", "is_withdrawn")
# Columns that training sets, batches and the prediction log add to the requests' columns.
_REQUEST_COLUMNS = (
    *("at", "label", "label_timestamp", "reason", "prediction", "probability", "decision"),
    *("unknown", "prediction_id", "received", "model_version", "feature_service"),
    *("asked_at", "number", "moment", "is_last"),
)
_SOURCE_COLUMNS = ("row_number",)
# The reason in quarantine for a value that is not of its type.
_RULE_NAMES = ("type",)
# Feast imports a domain's folder as a module of this name.
_MODULE_NAMES = frozenset(sys.stdlib_module_names) | {
    *("feast", "duckdb", "pandas", "numpy", "pyarrow", "mlflow", "xgboost", "sklearn"),
    *("punctual", "stores", "pipelines", "training", "inference", "orchestration"),
}

Name = tuple[str, str]
"""The kind of a name, such as `view` or `column of view 'sales'`, and the name."""


def name_problems(loaded: LoadedDomain, others: Sequence[LoadedDomain] = ()) -> list[str]:
    """Every invalid name of a domain, and every conflict in it and with the `others`."""
    problems = [
        problem
        for kind, name in _names(loaded)
        if (problem := name_problem(kind, name)) is not None
    ]
    if loaded.domain.name != loaded.name:
        problems.append(
            f"the folder is named '{loaded.name}' and its Domain '{loaded.domain.name}';"
            " give both the same name."
        )
    if loaded.name in _MODULE_NAMES:
        problems.append(
            f"domain '{loaded.name}' has the name of an installed module, which Feast would import"
            " instead; rename the folder."
        )
    problems += _reserved_names(loaded)
    for where, names in _namespaces(loaded):
        problems += _differing_in_case(where, names)
    problems += _repeated_names(loaded)
    return problems + _conflicts(loaded, others)


def name_problem(kind: str, name: object) -> str | None:
    """The problem with a name's characters or length, None if it is valid."""
    rule = (
        f"use letters, digits and single underscores, starting with a letter, at most"
        f" {MAX_CHARACTERS} characters"
    )
    if not isinstance(name, str) or not name:
        return f"{kind} has the name {name!r}; {rule}."
    if len(name) > MAX_CHARACTERS:
        return f"{kind} '{name[:40]}…' has a name of {len(name)} characters; {rule}."
    if _NAME.fullmatch(name) and "__" not in name:
        return None
    suggestion = re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9_]", "_", name)).strip("_")
    suggestion = suggestion if _NAME.fullmatch(suggestion) else ""
    return f"{kind} '{name}': {rule}{f', such as {suggestion!r}' if suggestion else ''}."


def _names(loaded: LoadedDomain) -> Iterator[Name]:
    yield "domain", loaded.name
    for entity in loaded.entities.values():
        yield "entity", entity.name
        if entity.join_key != entity.name:
            yield f"join key of entity '{entity.name}'", entity.join_key
    for view in (*loaded.views.values(), *loaded.on_demand_views.values()):
        yield "view", view.name
        yield from ((f"feature of view '{view.name}'", each.name) for each in view.features)
    for source, columns in _request_sources(loaded).items():
        yield "request source", source
        yield from ((f"column of request source '{source}'", name) for name in columns)
    yield from (("feature service", name) for name in loaded.services)
    yield from (("use case", name) for name in loaded.use_cases)
    for stream in loaded.events:
        yield "events", stream.name
        yield from ((f"column of events '{stream.name}'", name) for name in stream.columns)
    for source_ in loaded.sources:
        yield "source", source_.name
        yield from ((f"rule of source '{source_.name}'", rule.name) for rule in source_.rules)


def _request_sources(loaded: LoadedDomain) -> dict[str, list[str]]:
    return {
        source.name: [column.name for column in source.schema]
        for view in loaded.on_demand_views.values()
        for source in view.source_request_sources.values()
    }


def _reserved_names(loaded: LoadedDomain) -> list[str]:
    """Columns and rules whose names the platform reserves."""
    problems: list[str] = []

    def refuse(where: str, names: Iterable[str], reserved: Sequence[str]) -> None:
        own = {name.lower() for name in reserved}
        problems.extend(
            f"{where} '{name}' is reserved by the platform; rename it."
            for name in names
            if name.lower() in own
        )

    for stream in loaded.events:
        refuse(f"events '{stream.name}': column", stream.columns, _TABLE_COLUMNS)
    for view in loaded.views.values():
        names = [field.name for field in view.schema]
        refuse(f"view '{view.name}': feature or join key", names, _TABLE_COLUMNS)
    for use_case in loaded.use_cases.values():
        where = f"use case '{use_case.name}': column of its requests"
        refuse(where, use_case.requests.columns, _REQUEST_COLUMNS)
    for source in loaded.sources:
        refuse(f"source '{source.name}': column", source.columns, _SOURCE_COLUMNS)
        refuse(f"source '{source.name}': rule", [rule.name for rule in source.rules], _RULE_NAMES)
        problems += [
            f"source '{source.name}': column '{name}' begins with '__', which is reserved by the"
            " platform; rename it."
            for name in source.columns
            if name.startswith("__")
        ]
    return problems


def _namespaces(loaded: LoadedDomain) -> Iterator[tuple[str, list[str]]]:
    """Groups of names of which no two may differ only in case, each with its owner."""
    yield f"domain '{loaded.name}'", [*loaded.views, *loaded.on_demand_views]
    yield f"domain '{loaded.name}'", list(loaded.services)
    yield f"domain '{loaded.name}'", list(loaded.entities)
    yield f"domain '{loaded.name}'", list(loaded.use_cases)
    yield f"domain '{loaded.name}'", [stream.name for stream in loaded.events]
    yield f"domain '{loaded.name}'", [source.name for source in loaded.sources]
    for stream in loaded.events:
        yield f"events '{stream.name}'", list(stream.columns)
    for source in loaded.sources:
        yield f"source '{source.name}'", list(source.columns)
    for view in (*loaded.views.values(), *loaded.on_demand_views.values()):
        yield f"view '{view.name}'", [field.name for field in view.schema]


def _differing_in_case(where: str, names: Sequence[str]) -> list[str]:
    by_lower_case: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        by_lower_case.setdefault(str(name).lower(), []).append(name)
    return [
        f"{where}: {' and '.join(map(repr, found))} differ only in case; rename all but one."
        for found in by_lower_case.values()
        if len(found) > 1
    ]


def _repeated_names(loaded: LoadedDomain) -> list[str]:
    """Different objects with the same name, of which the platform would use only one."""
    problems = []
    streams = [declared.events for declared in loaded.declarations]
    for use_case in loaded.use_cases.values():
        streams += [use_case.requests, use_case.label.of]
    sources: list[CsvSource] = []
    for stream in streams:
        for source in stream.sources:
            sources += [source, *_dependencies(source)]
    for kind, things in (("events", streams), ("source", sources)):
        by_name: dict[str, set[str]] = {}
        for thing in things:
            by_name.setdefault(thing.name, set()).add(thing.fingerprint)
        problems += [
            f"{kind} '{name}' is declared {len(found)} times with different contents; rename one."
            for name, found in by_name.items()
            if len(found) > 1
        ]
    views = {name.lower() for name in (*loaded.views, *loaded.on_demand_views)}
    problems += [
        f"request source '{name}' has the name of the table of view '{name[: -len('_table')]}';"
        " rename it."
        for name in _request_sources(loaded)
        if name.lower().endswith("_table") and name.lower()[: -len("_table")] in views
    ]
    if both := sorted(set(loaded.views) & set(loaded.on_demand_views)):
        problems += [f"'{name}' is a view and an on-demand view; rename one." for name in both]
    return problems


def _dependencies(source: CsvSource) -> Iterator[CsvSource]:
    for read in source.reads:
        yield read
        yield from _dependencies(read)


def _conflicts(loaded: LoadedDomain, others: Sequence[LoadedDomain]) -> list[str]:
    """Names that another domain uses for another object; all domains share one registry."""
    problems = []
    for other in others:
        entities = {
            name.lower()
            for name, entity in other.entities.items()
            # Two domains may declare the same entity.
            if loaded.entities.get(name) != entity
        }
        taken = {
            "view": _lower([*other.views, *other.on_demand_views]),
            "request source": _lower(_request_sources(other))
            | {f"{name}_table" for name in _lower(other.views)},
            "feature service": _lower(other.services),
            "use case": _lower(other.use_cases),
            "entity": entities,
            "domain": {other.name.lower()},
        }
        problems += [
            f"{kind} '{name}' exists in domain '{other.name}' too, and all domains share one"
            f" registry; rename one, for example '{loaded.name}_{name}'."
            for kind, name in dict.fromkeys(_names(loaded))
            if isinstance(name, str) and name.lower() in taken.get(kind, ())
        ]
    return problems


def _lower(names: Iterable[str]) -> set[str]:
    return {name.lower() for name in names}
