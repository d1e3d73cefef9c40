"""Reads the model registry from MLflow's SQLite file and the files of its runs.

Nothing here imports MLflow, which takes 2 CPU seconds; `tracking.py` writes with it.
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
    """Alias to version; empty where nothing is registered. Raises `BrokenRegistry`."""
    statement = "SELECT alias, version FROM registered_model_aliases WHERE name = ?"
    return {alias: str(version) for alias, version in _rows(home, statement, use_case)}


def registered_versions(home: Home, use_case: str) -> list[RegisteredVersion]:
    """All versions, oldest first. Raises `BrokenRegistry`."""
    statement = """
        SELECT version, run_id FROM model_versions
        WHERE name = ? AND current_stage <> ?
        ORDER BY version
    """
    found = _rows(home, statement, use_case, _DELETED)
    return [RegisteredVersion(str(version), str(run_id)) for version, run_id in found]


def registered_version(home: Home, use_case: str, version: str | None = None) -> RegisteredVersion:
    """The champion, or a given version. Raises `NoChampion`, `UnknownName` or `BrokenRegistry`."""
    wanted = aliases(home, use_case).get(CHAMPION) if version is None else version
    if wanted is None:
        raise no_champion(use_case)
    found = {each.version: each for each in registered_versions(home, use_case)}
    if wanted not in found:
        registry = f"the model registry of '{use_case}'"
        raise UnknownName(unknown_name("version", wanted, list(found), registry))
    return found[wanted]


def no_champion(use_case: str) -> NoChampion:
    """The error that says what to do about it."""
    return NoChampion(f"use case '{use_case}' has no champion yet; run: punctual train {use_case}.")


def artifact(home: Home, use_case: str, run_id: str, name: str) -> bytes:
    """A file of a run. Raises `OSError` where it is missing."""
    return artifact_folder(home, use_case, run_id).joinpath(name).read_bytes()


def read_card(home: Home, use_case: str, version: str | None = None) -> ModelCard:
    """The model card of the champion, or of a given version.

    Raises what `registered_version` does, and `BrokenModel`.
    """
    found = registered_version(home, use_case, version)
    try:
        card = decode_card(artifact(home, use_case, found.run_id, CARD_FILE))
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise BrokenModel(
            f"version {found.version} of '{use_case}' has no readable {CARD_FILE}: {error}."
            " Train again."
        ) from error
    # The registry numbers versions; a card that was copied along says so here.
    card.version, card.run_id = found
    return card


def broken_registry(home: Home, reason: object) -> BrokenRegistry:
    """The error that names the database, and says what to do about it."""
    return BrokenRegistry(
        f"the model registry {tracking_uri(home)} cannot be read:"
        f" {str(reason).strip().rstrip('.')}."
        " Restore it, or move it away: models are registered anew then."
    )


def _rows(home: Home, statement: str, *values: str) -> list[tuple[Any, ...]]:
    path = tracking_file(home)
    if not path.exists():
        return []
    try:
        # Not read-only: after a crash the first reader has to roll the last transaction back.
        uri = f"file:{quote(str(path))}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
            return connection.execute(statement, values).fetchall()
    except sqlite3.Error as error:
        raise broken_registry(home, error) from error
