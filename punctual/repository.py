"""Finds the domains of a feature repository and reads what they declare; checks a declaration
whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
import traceback
import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from punctual.domain import Domain
from punctual.errors import (
    DataFolderError,
    InvalidDeclaration,
    PunctualError,
    UnknownDomain,
    UnknownUseCase,
    unknown_name,
)
from punctual.home import INSTALLED_REPOSITORY, Home
from punctual.use_case import UseCase

# Feast is imported where a store is opened or a domain is loaded: to find domains and to read the
# configuration takes milliseconds.
if TYPE_CHECKING:
    from feast import FeatureStore
    from feast.base_feature_view import BaseFeatureView
    from feast.repo_config import RepoConfig

    from punctual.loaded_domain import LoadedDomain

_SQLITE = "sqlite:///"


def feature_store(home: Home) -> FeatureStore:
    """The repository's Feast store on this data folder, which is made where it is missing.

    Raises `DataFolderError` where it cannot be made.
    """
    try:
        home.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataFolderError(
            f"cannot make {home.folder}: {error.strerror}. Mend its rights or choose another"
            " --home."
        ) from error
    from feast import FeatureStore

    return FeatureStore(config=_repo_config(home))


def _repo_config(home: Home) -> RepoConfig:
    from feast.repo_config import RepoConfig

    config = RepoConfig(**store_settings(home))
    config.repo_path = home.repository
    return config


def store_settings(home: Home) -> dict[str, Any]:
    """`feature_store.yaml` with its variables put in, of which `PUNCTUAL_HOME` is this home's.

    Feast puts them into the text, from the environment of the process, which has room for one home
    and takes a folder's name for YAML.
    """
    settings = msgspec.yaml.decode((home.repository / "feature_store.yaml").read_bytes())
    return dict(_expanded(settings, {**os.environ, **home.environment}))


def _expanded(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _expanded(each, variables) for name, each in value.items()}
    if isinstance(value, list):
        return [_expanded(each, variables) for each in value]
    if not isinstance(value, str):
        return value
    if value.startswith(_SQLITE):
        # SQLAlchemy decodes the path of an address once, and SQLite that of a URI once more.
        file = quote(quote(_put_in(value.removeprefix(_SQLITE), variables)))
        return f"{_SQLITE}file:{file}?uri=true"
    return _put_in(value, variables)


def _put_in(text: str, variables: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: variables.get(found[1], found[0]), text)


def domain_names(home: Home) -> list[str]:
    """The folders of the repository that hold a `use_case.py`."""
    return sorted(path.parent.name for path in home.repository.glob("*/use_case.py"))


def load_domain(home: Home, name: str) -> LoadedDomain:
    """Import a domain folder and collect what it declares.

    Raises `UnknownDomain`, or `InvalidDeclaration` with every problem found.
    """
    from punctual.checks import problems_of

    known = domain_names(home)
    if name not in known:
        raise UnknownDomain(unknown_name("domain", name, known, f"{home.repository.name}/"))
    loaded, repeated = _collect(home, name)
    problems = repeated + problems_of(loaded, _others(home, name))
    if problems:
        raise InvalidDeclaration(f"domain '{name}'", problems)
    return loaded


def _others(home: Home, name: str) -> list[LoadedDomain]:
    """The other domains for the sake of their names; one that cannot be loaded has none yet."""
    found = []
    for other in domain_names(home):
        if other != name:
            with contextlib.suppress(Exception):
                found.append(_collect(home, other)[0])
    return found


def load_all(home: Home) -> list[LoadedDomain]:
    """Every domain of the repository."""
    return [load_domain(home, name) for name in domain_names(home)]


def find_use_case(home: Home, name: str) -> tuple[LoadedDomain, UseCase]:
    """The use case and its domain. Raises `UnknownUseCase` with the names there are."""
    domains = load_all(home)
    for loaded in domains:
        if name in loaded.use_cases:
            return loaded, loaded.use_cases[name]
    known = [use_case for loaded in domains for use_case in loaded.use_cases]
    raise UnknownUseCase(unknown_name("use case", name, known, f"{home.repository.name}/"))


def _package(repository: Path) -> str:
    """The import package for a repository's folders; another repository than this one gets a
    package of its own.

    Feast's command imports the same files as top-level modules, in a process of its own.
    """
    if repository == INSTALLED_REPOSITORY:
        return INSTALLED_REPOSITORY.name
    name = f"feature_repository_{hashlib.sha256(str(repository).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(repository)]
        package.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        sys.modules[name] = package
    return name


def _is_projected(view: BaseFeatureView) -> bool:
    """Whether it is a view under another name, by other join keys, or in part: not one of its own."""
    read = view.projection
    return bool(read.name_alias or read.join_key_map) or len(read.features) < len(view.features)


def _collect(home: Home, name: str) -> tuple[LoadedDomain, list[str]]:
    """What the modules of a domain define, and which names they give to two things of a kind."""
    from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView
    from feast.base_feature_view import BaseFeatureView
    from feast.data_source import RequestSource

    from punctual.loaded_domain import LoadedDomain

    repeated: dict[str, None] = {}
    broken: dict[str, Exception] = {}
    found: dict[type, dict[str, object]] = {
        kind: {}
        for kind in (Domain, Entity, FeatureView, OnDemandFeatureView, FeatureService, UseCase)
    }
    for path in sorted((home.repository / name).glob("*.py")):
        if path.stem == "__init__":
            continue
        try:
            module = importlib.import_module(f"{_package(home.repository)}.{name}.{path.stem}")
        except Exception as error:  # whatever the domain's code raises
            broken[_import_problem(home.repository / name, path, error)] = error
            continue
        for thing in vars(module).values():
            for kind, things in found.items():
                if isinstance(thing, kind) and not isinstance(thing, RequestSource):
                    if isinstance(thing, BaseFeatureView) and _is_projected(thing):
                        continue
                    called = thing.name  # type: ignore[attr-defined]
                    if _is_another(things.get(called, thing), thing):
                        repeated[
                            f"two {kind.__name__} objects are called '{called}'; rename one."
                        ] = None
                    things[called] = thing
    if broken:
        raise InvalidDeclaration(f"domain '{name}'", list(broken)) from next(iter(broken.values()))
    domains = list(found[Domain].values())
    if len(domains) != 1:
        raise InvalidDeclaration(
            f"domain '{name}'", [f"its modules define {len(domains)} Domain objects; expected one."]
        )
    loaded = LoadedDomain(
        home,
        name,
        domains[0],  # type: ignore[arg-type]
        found[Entity],  # type: ignore[arg-type]
        found[FeatureView],  # type: ignore[arg-type]
        found[OnDemandFeatureView],  # type: ignore[arg-type]
        found[FeatureService],  # type: ignore[arg-type]
        found[UseCase],  # type: ignore[arg-type]
    )
    return loaded, list(repeated)


def _import_problem(folder: Path, path: Path, error: Exception) -> str:
    """What a module raised, and the line of the domain at which it did."""
    lines = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).parent == folder
    ]
    where = f"{Path(lines[-1].filename).name}, line {lines[-1].lineno}" if lines else path.name
    said = str(error) if isinstance(error, PunctualError) else f"{type(error).__name__}: {error}"
    return f"{where}: {said}"


def _is_another(first: object, second: object) -> bool:
    """Whether two things of one name are different ones, and not a view and a part of it."""
    from feast import FeatureView

    if first is second:
        return False
    if isinstance(first, FeatureView) and isinstance(second, FeatureView):
        return (first.features, first.entities) != (second.features, second.entities)
    return bool(first != second)
