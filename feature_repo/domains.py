"""Finds the domains of a feature repository and reads what they declare; checks a declaration whole."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import types
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from feast import Entity, FeatureService, FeatureStore, FeatureView, OnDemandFeatureView
from feast.data_source import RequestSource
from feast.repo_config import load_repo_config

from feature_repo.contract import HOME_VARIABLE, UseCase, data_path
from feature_repo.errors import DataFolderError, InvalidDeclaration, UnknownDomain, UnknownUseCase, unknown_name
from feature_repo.raw import CsvSource, Domain, Events, with_dependencies
from feature_repo.windows import Declaration, declaration_of

REPOSITORY_VARIABLE = "PUNCTUAL_REPOSITORY"
AT = "at"  # the request column that holds the prediction moment


def repository_path() -> Path:
    """The feature repository: `PUNCTUAL_REPOSITORY`, or the one this file is in."""
    return Path(os.environ.get(REPOSITORY_VARIABLE) or Path(__file__).parent).absolute()


@dataclass(frozen=True)
class LoadedDomain:
    """A domain folder's objects, by name, as its modules define them."""

    name: str
    domain: Domain
    entities: dict[str, Entity] = field(default_factory=dict)
    views: dict[str, FeatureView] = field(default_factory=dict)
    on_demand_views: dict[str, OnDemandFeatureView] = field(default_factory=dict)
    services: dict[str, FeatureService] = field(default_factory=dict)
    use_cases: dict[str, UseCase] = field(default_factory=dict)

    @property
    def declarations(self) -> list[Declaration]:
        """The views whose rows the platform computes."""
        return [declared for view in self.views.values() if (declared := declaration_of(view))]

    @property
    def events(self) -> list[Events]:
        """Every stream of events that a view or a use case rests on."""
        found = {declared.events.name: declared.events for declared in self.declarations}
        for use_case in self.use_cases.values():
            for stream in (use_case.requests, use_case.label.of):
                found.setdefault(stream.name, stream)
        return list(found.values())

    @property
    def sources(self) -> tuple[CsvSource, ...]:
        """Every raw source, those first that others read."""
        return with_dependencies([source for stream in self.events for source in stream.sources])

    def service_views(self, service: str) -> list[FeatureView]:
        """The stored feature views that a feature service reads, those behind its on-demand views included."""
        names: dict[str, None] = {}
        for projection in self.services[service].feature_view_projections:
            if projection.name in self.on_demand_views:
                on_demand = self.on_demand_views[projection.name]
                names.update(dict.fromkeys(source.name for source in on_demand.source_feature_view_projections.values()))
            else:
                names[projection.name] = None
        return [self.views[name] for name in names]

    def request_columns(self, service: str) -> dict[str, str]:
        """Columns a caller must send besides the keys (name to Feast type), the prediction moment left out."""
        columns: dict[str, str] = {}
        for projection in self.services[service].feature_view_projections:
            on_demand = self.on_demand_views.get(projection.name)
            for source in on_demand.source_request_sources.values() if on_demand else ():
                columns.update({column.name: str(column.dtype) for column in source.schema})
        columns.pop(AT, None)
        return columns

    def join_keys(self, service: str) -> list[str]:
        """The join keys of all views of a feature service, each once, sorted."""
        by_entity = {entity.name: entity.join_key for entity in self.entities.values()}
        return sorted({by_entity[name] for view in self.service_views(service) for name in view.entities})

    @cached_property
    def all_objects(self) -> list[object]:
        """What `feast apply` registers."""
        return [*self.entities.values(), *self.views.values(), *self.on_demand_views.values(), *self.services.values()]


def feature_store(repository: Path | None = None) -> FeatureStore:
    """The repository's Feast store, with its paths in the data folder, which is made where it is missing."""
    repository = repository or repository_path()
    try:
        Path(data_path()).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataFolderError(f"cannot make {data_path()}: {error.strerror}. Mend its rights or choose another --home.") from error
    # Feast puts environment variables into its configuration as it reads it.
    os.environ[HOME_VARIABLE] = data_path()
    # Feast imports MLflow where it is installed, which would write an installation id into the person's home.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    return FeatureStore(config=load_repo_config(repository, repository / "feature_store.yaml"))


def domain_names(repository: Path | None = None) -> list[str]:
    """The folders of the repository that hold a `use_case.py`."""
    return sorted(path.parent.name for path in (repository or repository_path()).glob("*/use_case.py"))


def load_domain(name: str, repository: Path | None = None) -> LoadedDomain:
    """Import a domain folder and collect what it declares.

    Raises `UnknownDomain`, or `InvalidDeclaration` with every problem found.
    """
    repository = repository or repository_path()
    known = domain_names(repository)
    if name not in known:
        raise UnknownDomain(unknown_name("domain", name, known, f"{repository.name}/"))
    loaded = _collect(name, repository)
    problems = _problems(loaded)
    if problems:
        raise InvalidDeclaration(f"domain '{name}'", problems)
    return loaded


def load_all(repository: Path | None = None) -> list[LoadedDomain]:
    """Every domain of the repository."""
    return [load_domain(name, repository) for name in domain_names(repository)]


def find_use_case(name: str, repository: Path | None = None) -> tuple[LoadedDomain, UseCase]:
    """The use case and its domain. Raises `UnknownUseCase` with the names there are."""
    domains = load_all(repository)
    for loaded in domains:
        if name in loaded.use_cases:
            return loaded, loaded.use_cases[name]
    known = [use_case for loaded in domains for use_case in loaded.use_cases]
    raise UnknownUseCase(unknown_name("use case", name, known, f"{(repository or repository_path()).name}/"))


def _package(repository: Path) -> str:
    """The import package for a repository's folders; another repository than this one gets a package of its own.

    Feast's command imports the same files as top-level modules, in a process of its own.
    """
    if repository == Path(__file__).parent.absolute():
        return __package__ or "feature_repo"
    name = f"feature_repository_{hashlib.sha256(str(repository).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(repository)]
        package.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        sys.modules[name] = package
    return name


def _collect(name: str, repository: Path) -> LoadedDomain:
    found: dict[type, dict[str, object]] = {
        kind: {} for kind in (Domain, Entity, FeatureView, OnDemandFeatureView, FeatureService, UseCase)
    }
    for path in sorted((repository / name).glob("*.py")):
        if path.stem == "__init__":
            continue
        module = importlib.import_module(f"{_package(repository)}.{name}.{path.stem}")
        for thing in vars(module).values():
            for kind, things in found.items():
                if isinstance(thing, kind) and not isinstance(thing, RequestSource):
                    things[thing.name] = thing  # type: ignore[attr-defined]
    domains = list(found[Domain].values())
    if len(domains) != 1:
        raise InvalidDeclaration(f"domain '{name}'", [f"its modules define {len(domains)} Domain objects; expected one."])
    return LoadedDomain(
        name,
        domains[0],  # type: ignore[arg-type]
        found[Entity],  # type: ignore[arg-type]
        found[FeatureView],  # type: ignore[arg-type]
        found[OnDemandFeatureView],  # type: ignore[arg-type]
        found[FeatureService],  # type: ignore[arg-type]
        found[UseCase],  # type: ignore[arg-type]
    )


def _problems(loaded: LoadedDomain) -> list[str]:
    problems: list[str] = []
    for declared in loaded.declarations:
        columns = declared.events.columns
        measures = {each.measure for each in declared.aggregations if each.measure} | set(declared.fields)
        for column in sorted({*declared.join_keys, *measures} - set(columns)):
            problems.append(f"{unknown_name('column', column, columns, f'events of {declared.events.name!r}')} (view '{declared.name}')")
        for each in declared.aggregations:
            if any(window % declared.every for window in each.over):
                problems.append(f"view '{declared.name}': a window must be a multiple of its grid ({declared.every}).")
            kind = columns.get(each.measure or "", "")
            if each.function == "share" and kind != "BOOLEAN" and each.measure in columns:
                problems.append(f"view '{declared.name}': share('{each.measure}') needs a BOOLEAN, the events declare {kind}.")
            if each.function in ("sum", "mean", "std") and kind in ("DOUBLE", "FLOAT", "REAL"):
                problems.append(
                    f"view '{declared.name}': {each.function}('{each.measure}') of a {kind} depends on the order of rows; "
                    "declare the measure as an integer or a DECIMAL."
                )
    for stream in loaded.events:
        for column in sorted(set(stream.id) - set(stream.columns)):
            problems.append(f"events '{stream.name}': id column '{column}' is not among the columns.")
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
    if use_case.feature_service not in loaded.services:
        return [f"{unknown_name('feature service', use_case.feature_service, loaded.services, loaded.name)} ({where})"]
    asked = {*loaded.join_keys(use_case.feature_service), *loaded.request_columns(use_case.feature_service)}
    for column in sorted(asked - set(use_case.requests.columns)):
        problems.append(f"{where}: the service needs '{column}', which the requests '{use_case.requests.name}' do not have.")
    label = use_case.label
    for column in sorted({label.column, *([label.reason] if label.reason else [])} - set(label.of.columns)):
        problems.append(f"{unknown_name('column', column, label.of.columns, f'events of {label.of.name!r}')} ({where})")
    if tuple(label.of.id) != tuple(use_case.requests.id):
        problems.append(f"{where}: labels are identified by {label.of.id}, requests by {use_case.requests.id}; expected the same.")
    for column in sorted({*use_case.optional_keys, *use_case.describe_columns} - set(use_case.requests.columns)):
        problems.append(f"{where}: '{column}' is not a column of the requests '{use_case.requests.name}'.")
    if use_case.task == "regression" and use_case.metric in ("average_precision", "roc_auc", "log_loss", "brier"):
        problems.append(f"{where}: metric {use_case.metric} is for binary labels; use rmse, mae or r2.")
    if use_case.task == "binary" and use_case.metric in ("rmse", "mae", "r2"):
        problems.append(f"{where}: metric {use_case.metric} is for numbers; use average_precision, roc_auc, log_loss or brier.")
    return problems
