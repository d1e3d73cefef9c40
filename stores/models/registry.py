"""Reads the model registry from MLflow's SQLite file and from the files of its runs.

This module does not import MLflow, which takes 2 CPU seconds; `tracking.py` writes with MLflow.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import quote

from punctual.errors import BrokenModel, BrokenRegistry, NoChampion, UnknownName, unknown_name
from punctual.home import Home
from punctual.model_card import CARD_FILE, CHAMPION, ModelCard, decode_card
from stores.models.paths import artifact_folder, tracking_file, tracking_uri

_DELETED = "Deleted_Internal"


class RegisteredVersion(NamedTuple):
    """A version of a use case's model, and the MLflow run that made it."""

    version: str
    run_id: str


def aliases(home: Home, use_case: str) -> dict[str, str]:
    """The version of each alias; empty if nothing is registered. Raises `BrokenRegistry`."""
    statement = """
        SELECT alias, version
        FROM registered_model_aliases
        WHERE name = ?
    """
    return {alias: str(version) for alias, version in _rows(home, statement, use_case)}


def registered_versions(home: Home, use_case: str) -> list[RegisteredVersion]:
    """All versions, oldest first. Raises `BrokenRegistry`."""
    statement = """
        SELECT version, run_id
        FROM model_versions
        WHERE name = ? AND current_stage <> ?
        ORDER BY version
    """
    found = _rows(home, statement, use_case, _DELETED)
    return [RegisteredVersion(str(version), str(run_id)) for version, run_id in found]


def registered_version(home: Home, use_case: str, version: str | None = None) -> RegisteredVersion:
    """The champion, or `version` if given.

    Raises `NoChampion`, `UnknownName` or `BrokenRegistry`.
    """
    wanted = aliases(home, use_case).get(CHAMPION) if version is None else version
    if wanted is None:
        raise no_champion(use_case)
    found = {each.version: each for each in registered_versions(home, use_case)}
    if wanted not in found:
        registry = f"the model registry of '{use_case}'"
        raise UnknownName(unknown_name("version", wanted, list(found), registry))
    return found[wanted]


def no_champion(use_case: str) -> NoChampion:
    """The error for a use case without a champion."""
    return NoChampion(f"use case '{use_case}' has no champion yet; run: punctual train {use_case}.")


def artifact(home: Home, use_case: str, run_id: str, name: str) -> bytes:
    """The content of a file of a run. Raises `OSError` if the file is missing."""
    return artifact_folder(home, use_case, run_id).joinpath(name).read_bytes()


def read_card(home: Home, use_case: str, version: str | None = None) -> ModelCard:
    """The model card of the champion, or of `version` if given.

    Raises the errors of `registered_version`, and `BrokenModel`.
    """
    found = registered_version(home, use_case, version)
    try:
        card = decode_card(artifact(home, use_case, found.run_id, CARD_FILE))
    except (OSError, ValueError) as error:  # msgspec raises ValueErrors
        raise BrokenModel(
            f"version {found.version} of '{use_case}' has no readable {CARD_FILE}: {error}."
            " Train again."
        ) from error
    # Version and run id come from the registry: the file may be a copy of another version's card.
    card.version, card.run_id = found
    return card


def broken_registry(home: Home, reason: object) -> BrokenRegistry:
    """The error for a registry that cannot be read because of `reason`."""
    return BrokenRegistry(
        f"the model registry {tracking_uri(home)} cannot be read:"
        f" {str(reason).strip().rstrip('.')}."
        " Restore it, or move it away; training then starts a new registry."
    )


def _rows(home: Home, statement: str, *values: str) -> list[tuple[Any, ...]]:
    path = tracking_file(home)
    if not path.exists():
        return []
    try:
        # Not read-only: after a crash the first reader rolls back the last transaction.
        uri = f"file:{quote(str(path))}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
            return connection.execute(statement, values).fetchall()
    except sqlite3.Error as error:
        raise broken_registry(home, error) from error
