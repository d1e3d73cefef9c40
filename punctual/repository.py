"""Finds the domains of a feature repository and reads what they declare; checks a declaration whole."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import types
from pathlib import Path

from feast import Entity, FeatureService, FeatureStore, FeatureView, OnDemandFeatureView
from feast.data_source import RequestSource
from feast.repo_config import load_repo_config

from punctual.checks import problems_of
from punctual.domain import Domain
from punctual.errors import (
    DataFolderError,
    InvalidDeclaration,
    UnknownDomain,
    UnknownUseCase,
    unknown_name,
)
from punctual.home import HOME_VARIABLE, data_path
from punctual.loaded_domain import LoadedDomain
from punctual.use_case import UseCase

REPOSITORY_VARIABLE = "PUNCTUAL_REPOSITORY"
# The package `feature_repo` beside this one; another repository is named by --repository.
INSTALLED = Path(__file__).parents[1].absolute() / "feature_repo"


def repository_path() -> Path:
    """The feature repository: `PUNCTUAL_REPOSITORY`, or the installed one."""
    return Path(os.environ.get(REPOSITORY_VARIABLE) or INSTALLED).absolute()


def feature_store(repository: Path | None = None) -> FeatureStore:
    """The repository's Feast store, with its paths in the data folder, which is made where it is missing."""
    repository = repository or repository_path()
    try:
        Path(data_path()).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataFolderError(
            f"cannot make {data_path()}: {error.strerror}. Mend its rights or choose another --home."
        ) from error
    # Feast puts environment variables into its configuration as it reads it.
    os.environ[HOME_VARIABLE] = data_path()
    # Feast imports MLflow where it is installed, which would write an installation id into the person's home.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    return FeatureStore(config=load_repo_config(repository, repository / "feature_store.yaml"))


def domain_names(repository: Path | None = None) -> list[str]:
    """The folders of the repository that hold a `use_case.py`."""
    return sorted(
        path.parent.name for path in (repository or repository_path()).glob("*/use_case.py")
    )


def load_domain(name: str, repository: Path | None = None) -> LoadedDomain:
    """Import a domain folder and collect what it declares.

    Raises `UnknownDomain`, or `InvalidDeclaration` with every problem found.
    """
    repository = repository or repository_path()
    known = domain_names(repository)
    if name not in known:
        raise UnknownDomain(unknown_name("domain", name, known, f"{repository.name}/"))
    loaded = _collect(name, repository)
    problems = problems_of(loaded)
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
    raise UnknownUseCase(
        unknown_name("use case", name, known, f"{(repository or repository_path()).name}/")
    )


def _package(repository: Path) -> str:
    """The import package for a repository's folders; another repository than this one gets a package of its own.

    Feast's command imports the same files as top-level modules, in a process of its own.
    """
    if repository == INSTALLED:
        return INSTALLED.name
    name = f"feature_repository_{hashlib.sha256(str(repository).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(repository)]
        package.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        sys.modules[name] = package
    return name


def _collect(name: str, repository: Path) -> LoadedDomain:
    found: dict[type, dict[str, object]] = {
        kind: {}
        for kind in (Domain, Entity, FeatureView, OnDemandFeatureView, FeatureService, UseCase)
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
        raise InvalidDeclaration(
            f"domain '{name}'", [f"its modules define {len(domains)} Domain objects; expected one."]
        )
    return LoadedDomain(
        name,
        domains[0],  # type: ignore[arg-type]
        found[Entity],  # type: ignore[arg-type]
        found[FeatureView],  # type: ignore[arg-type]
        found[OnDemandFeatureView],  # type: ignore[arg-type]
        found[FeatureService],  # type: ignore[arg-type]
        found[UseCase],  # type: ignore[arg-type]
    )
