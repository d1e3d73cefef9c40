"""A cache, in the data folder, of what `status` needs of a domain's declarations.

Loading a domain imports Feast, which takes more than a CPU second. An entry is valid until the
domain's files, the modules that read them, Feast or Python change.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

import punctual
from orchestration import steps
from orchestration.steps import Step
from punctual.home import Home
from punctual.repository import load_domain


@dataclass(frozen=True)
class DeclaredTable:
    """Events or a feature view: the name of its table and the fingerprint of its definition."""

    name: str
    table: str
    fingerprint: str


@dataclass(frozen=True)
class DeclaredView(DeclaredTable):
    """A feature view; `keys` and `features` are pairs of a name and a Feast type as text."""

    every: timedelta
    available_after: timedelta
    keys: tuple[tuple[str, Any], ...]
    features: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class DeclaredDomain:
    """A domain's declarations without Feast objects; `key` is the key of the cache entry."""

    key: str
    name: str
    demo_at: datetime | None
    use_cases: tuple[str, ...]
    views: tuple[DeclaredView, ...]
    events: tuple[DeclaredTable, ...]
    steps: tuple[Step, ...]


def declared_domain(home: Home, name: str) -> DeclaredDomain:
    """A domain's declarations, from the cache if it is valid. Raises the errors of `load_domain`.

    The cache is written only if the data folder has tables, so that an empty folder stays empty.
    """
    path, key = home.path("cache", "declared", f"{name}.json"), _key(home.repository / name)
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        cached = msgspec.json.decode(path.read_bytes(), type=DeclaredDomain)
        if cached.key == key:
            return cached
    found = _loaded(home, name, key)
    if home.tables.is_dir():
        with contextlib.suppress(OSError):  # the folder may be read-only
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}")
            temporary.write_bytes(msgspec.json.encode(found))
            temporary.replace(path)
    return found


def _loaded(home: Home, name: str, key: str) -> DeclaredDomain:
    from stores.online import OnlineView

    loaded = load_domain(home, name)
    views = []
    for declared in loaded.declarations:
        online = OnlineView.of("", loaded.views[declared.name])
        keys, features = (
            tuple((column, str(type_)) for column, type_ in columns)
            for columns in (online.keys, online.typed_features)
        )
        views.append(
            DeclaredView(
                declared.name,
                declared.name,
                declared.fingerprint,
                declared.every,
                declared.available_after,
                keys,
                features,
            )
        )
    return DeclaredDomain(
        key,
        name,
        loaded.domain.demo_at,
        tuple(loaded.use_cases),
        tuple(views),
        tuple(
            DeclaredTable(each.name, f"{name}.{each.name}", each.fingerprint)
            for each in loaded.events
        ),
        tuple(steps.steps_of(loaded)),
    )


def _key(folder: Path) -> str:
    """A digest of everything that a domain's declarations depend on."""
    digest = hashlib.sha256(f"{sys.version} {version('feast')}".encode())
    for part in _parts(folder):
        digest.update(part)
        digest.update(b"\0")
    return digest.hexdigest()


def _parts(folder: Path) -> Iterator[bytes]:
    platform = [*Path(punctual.__path__[0]).rglob("*.py"), Path(__file__), Path(steps.__file__)]
    for path in sorted([*folder.rglob("*"), *platform]):
        if path.suffix == ".py":
            yield str(path).encode()
            yield path.read_bytes()
        elif path.is_file() and path.parent.name != "__pycache__":
            # Data that a module may read at import; size and time suffice, since it can be large.
            found = path.stat()
            yield f"{path} {found.st_size} {found.st_mtime_ns}".encode()
