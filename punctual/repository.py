"""Finds, imports and checks the domains of a feature repository, and opens its Feast store."""

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
    UnknownName,
    UnknownUseCase,
    unknown_name,
)
from punctual.home import INSTALLED_REPOSITORY, Home
from punctual.use_case import UseCase

# Only functions that open a store or load a domain import Feast, which takes seconds.
if TYPE_CHECKING:
    from feast import FeatureStore
    from feast.base_feature_view import BaseFeatureView
    from feast.repo_config import RepoConfig

    from punctual.loaded_domain import LoadedDomain

_SQLITE = "sqlite:///"


def feature_store(home: Home) -> FeatureStore:
    """The repository's Feast store in this data folder, which is created if it is missing.

    Raises `DataFolderError` if the folder cannot be created.
    """
    try:
        home.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataFolderError(
            f"cannot create {home.folder}: {error.strerror}. Correct its permissions or choose"
            " another --home."
        ) from error
    from feast import FeatureStore

    return FeatureStore(config=_repo_config(home))


def _repo_config(home: Home) -> RepoConfig:
    from feast.repo_config import RepoConfig

    config = RepoConfig(**store_settings(home))
    config.repo_path = home.repository
    return config


def store_settings(home: Home) -> dict[str, Any]:
    """`feature_store.yaml` with environment variables substituted, `PUNCTUAL_HOME` from `home`.

    Feast substitutes variables of the process, and in the text before it is parsed: one process
    could use only one home, and a folder's name would be parsed as YAML.

    Raises `UnknownName` where the repository has no such file.
    """
    path = home.repository / "feature_store.yaml"
    if not path.is_file():
        raise UnknownName(
            f"the feature repository has no {path}. Copy {INSTALLED_REPOSITORY / path.name}, or"
            " choose another --repository."
        )
    settings = msgspec.yaml.decode(path.read_bytes())
    return dict(_expanded(settings, {**os.environ, **home.environment}))


def _expanded(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _expanded(each, variables) for name, each in value.items()}
    if isinstance(value, list):
        return [_expanded(each, variables) for each in value]
    if not isinstance(value, str):
        return value
    if value.startswith(_SQLITE):
        # SQLAlchemy percent-decodes the path in a database URL once, and SQLite decodes it again.
        file = quote(quote(_substituted(value.removeprefix(_SQLITE), variables)))
        return f"{_SQLITE}file:{file}?uri=true"
    return _substituted(value, variables)


def _substituted(text: str, variables: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: variables.get(found[1], found[0]), text)


def domain_names(home: Home) -> list[str]:
    """The names of the repository's folders with a `use_case.py`, sorted."""
    return sorted(path.parent.name for path in home.repository.glob("*/use_case.py"))


def load_domain(home: Home, name: str) -> LoadedDomain:
    """Import a domain folder, collect its declarations and check them.

    Raises `UnknownDomain`, or `InvalidDeclaration` with every problem.
    """
    from punctual.checks import problems_of

    known = domain_names(home)
    if name not in known:
        is_folder = any(path.name == name for path in home.repository.glob("*/"))
        hint = " Its folder has no use_case.py." if is_folder else ""
        raise UnknownDomain(unknown_name("domain", name, known, f"{home.repository.name}/") + hint)
    loaded, repeated = _imported(home, name)
    problems = repeated + problems_of(loaded, _others(home, name))
    if problems:
        raise InvalidDeclaration(f"domain '{name}'", problems)
    return loaded


def _others(home: Home, name: str) -> list[LoadedDomain]:
    """The other domains, whose names must not conflict; without those that cannot be loaded."""
    found = []
    for other in domain_names(home):
        if other != name:
            with contextlib.suppress(Exception):
                found.append(_imported(home, other)[0])
    return found


def load_all(home: Home) -> list[LoadedDomain]:
    """All domains of the repository, checked. Raises `InvalidDeclaration`."""
    return [load_domain(home, name) for name in domain_names(home)]


def find_use_case(home: Home, name: str) -> tuple[LoadedDomain, UseCase]:
    """A use case and its domain. Raises `UnknownUseCase`, which lists all names."""
    domains = load_all(home)
    for loaded in domains:
        if name in loaded.use_cases:
            return loaded, loaded.use_cases[name]
    known = [use_case for loaded in domains for use_case in loaded.use_cases]
    raise UnknownUseCase(unknown_name("use case", name, known, f"{home.repository.name}/"))


def _package(repository: Path) -> str:
    """The name of the package from which a repository's domains are imported.

    Each repository other than the installed one has its own package in `sys.modules`. The `feast`
    command imports the same files as top-level modules, in another process.
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
    """Whether the object is a projection of a view: another name, other keys or fewer features."""
    read = view.projection
    return bool(read.name_alias or read.join_key_map) or len(read.features) < len(view.features)


def _imported(home: Home, name: str) -> tuple[LoadedDomain, list[str]]:
    """The objects that the modules of a domain define, and a problem for each repeated name."""
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
        except Exception as error:  # a domain's code may raise anything
            broken[_import_problem(home.repository / name, path, error)] = error
            continue
        for item in vars(module).values():
            for kind, by_name in found.items():
                if isinstance(item, kind) and not isinstance(item, RequestSource):
                    if isinstance(item, BaseFeatureView) and _is_projected(item):
                        continue
                    its_name = item.name  # type: ignore[attr-defined]
                    if _differs(by_name.get(its_name, item), item):
                        repeated[
                            f"two {kind.__name__} objects have the name '{its_name}'; rename one."
                        ] = None
                    by_name[its_name] = item
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
    """The error that a module raised at import, with the line of the domain's code."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).parent == folder
    ]
    where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else path.name
    text = str(error) if isinstance(error, PunctualError) else f"{type(error).__name__}: {error}"
    return f"{where}: {text}"


def _differs(first: object, second: object) -> bool:
    """Whether two objects with the same name are different declarations."""
    from feast import FeatureView

    if first is second:
        return False
    if isinstance(first, FeatureView) and isinstance(second, FeatureView):
        return (first.features, first.entities) != (second.features, second.entities)
    return bool(first != second)
