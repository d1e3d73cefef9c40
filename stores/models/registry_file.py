"""Reads MLflow's registry from its SQLite file: importing MLflow takes 2 CPU seconds.

A function returns None for what is not in the file in the way it expects; the caller then asks
MLflow, which knows the other ways to keep it, and says what is wrong.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from punctual.home import Home
from stores.models.paths import tracking_uri

_DELETED = "Deleted_Internal"


class RegisteredVersion(NamedTuple):
    """A version of a registered model, and the run that made it."""

    version: str
    run_id: str


def aliases(home: Home, use_case: str) -> dict[str, str] | None:
    """Alias to version of a registered model."""
    rows = _rows(
        home, "SELECT alias, version FROM registered_model_aliases WHERE name = ?", use_case
    )
    return {alias: str(version) for alias, version in rows} if rows else None


def version_of_alias(home: Home, use_case: str, alias: str) -> RegisteredVersion | None:
    """The version behind an alias."""
    found = (aliases(home, use_case) or {}).get(alias)
    return None if found is None else registered_version(home, use_case, found)


def registered_version(home: Home, use_case: str, version: str) -> RegisteredVersion | None:
    """A given version."""
    rows = _rows(
        home,
        "SELECT version, run_id FROM model_versions"
        " WHERE name = ? AND CAST(version AS TEXT) = ? AND current_stage <> ?",
        *(use_case, version, _DELETED),
    )
    return RegisteredVersion(*map(str, rows[0])) if rows else None


def artifact(home: Home, run_id: str, name: str) -> bytes | None:
    """A file of a run whose artifacts are in a local folder."""
    rows = _rows(home, "SELECT artifact_uri FROM runs WHERE run_uuid = ?", run_id)
    uri = urlsplit(rows[0][0]) if rows else None
    if uri is None or uri.scheme != "file" or uri.netloc or uri.query or uri.fragment:
        return None
    try:
        return Path(unquote(uri.path), name).read_bytes()
    except OSError:
        return None


def _rows(home: Home, statement: str, *values: str) -> Sequence[tuple]:
    path = tracking_uri(home).removeprefix("sqlite:///")
    if not Path(path).is_file():
        return []
    try:
        uri = f"file:{quote(path)}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
            return connection.execute(statement, values).fetchall()
    except sqlite3.Error:
        return []
