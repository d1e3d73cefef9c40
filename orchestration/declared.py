"""What `status` needs of a domain's declarations, kept in the data folder between two calls.

Loading a domain imports Feast, which takes more than a CPU second. What is kept is used as long as
the domain's files, the modules that read them and Feast are the same.
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
    """A stream of events or a feature view: its table, and the fingerprint of its definition."""

    name: str
    table: str
    fingerprint: str


@dataclass(frozen=True)
class DeclaredView(DeclaredTable):
    """A feature view; `keys` and `features` are names with Feast's types as text."""

    every: timedelta
    available_after: timedelta
    keys: tuple[tuple[str, Any], ...]
    features: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class DeclaredDomain:
    """A domain's declarations without Feast's objects; `key` changes when they might."""

    key: str
    name: str
    demo_at: datetime | None
    use_cases: tuple[str, ...]
    views: tuple[DeclaredView, ...]
    events: tuple[DeclaredTable, ...]
    steps: tuple[Step, ...]


def declared_domain(home: Home, name: str) -> DeclaredDomain:
    """A domain's declarations, as they were kept if nothing has changed. Raises as `load_domain`.

    They are kept only where the data folder has tables, so that an empty folder stays empty.
    """
    path, key = home.path("cache", "declared", f"{name}.json"), _key(home.repository / name)
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        kept = msgspec.json.decode(path.read_bytes(), type=DeclaredDomain)
        if kept.key == key:
            return kept
    found = _loaded(home, name, key)
    if home.tables.is_dir():
        with contextlib.suppress(OSError):  # somebody else's folder is shown as well
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(f".{os.getpid()}")
            aside.write_bytes(msgspec.json.encode(found))
            aside.replace(path)
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
    """A digest of all that a domain's declarations depend on."""
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
            # What a module may read when it is imported; it can be large.
            found = path.stat()
            yield f"{path} {found.st_size} {found.st_mtime_ns}".encode()
