"""How training and inference reach the model registry: MLflow on SQLite in the data folder, a registered model per use case."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from punctual.errors import BrokenModel, BrokenRegistry, NoChampion, UnknownName, unknown_name
from punctual.home import Home
from punctual.model_card import CARD_FILE, CHAMPION, ModelCard, decode_card
from stores.models import registry_file
from stores.models.paths import tracking_uri
from stores.models.registry_file import RegisteredVersion

if TYPE_CHECKING:
    from mlflow import MlflowClient

_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def has_registry(home: Home) -> bool:
    """Whether anything was ever registered; MLflow would make an empty registry where there is none, which takes seconds."""
    uri = tracking_uri(home)
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()


def model_registry(home: Home) -> MlflowClient:
    """MLflow's client on the data folder's registry, which is made where it is missing. Raises `BrokenRegistry`."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    # It says at length what it is doing and that pickles can run code; these come from our own data folder.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # SQLAlchemy 2.1 says so of MLflow's own code.
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
    home.folder.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(tracking_uri(home))
    with _readable(home):
        return mlflow.MlflowClient(tracking_uri(home))


def aliases(home: Home, use_case: str) -> dict[str, str]:
    """Alias to version; empty where nothing is registered. Raises `BrokenRegistry`."""
    if not has_registry(home):
        return {}
    if (found := registry_file.aliases(home, use_case)) is not None:
        return found
    registry = model_registry(home)
    from mlflow.exceptions import MlflowException

    with _readable(home):
        try:
            return {
                alias: str(version)
                for alias, version in registry.get_registered_model(use_case).aliases.items()
            }
        except MlflowException as error:
            if error.error_code not in _NOT_THERE:
                raise
            return {}


def registered_version(home: Home, use_case: str, version: str | None = None) -> RegisteredVersion:
    """The champion, or a given version. Raises `NoChampion`, `UnknownName` or `BrokenRegistry`."""
    if not has_registry(home):
        raise no_champion(use_case)
    found = (
        registry_file.version_of_alias(home, use_case, CHAMPION)
        if version is None
        else registry_file.registered_version(home, use_case, version)
    )
    return found or _asked_of_mlflow(home, use_case, version)


def _asked_of_mlflow(home: Home, use_case: str, version: str | None) -> RegisteredVersion:
    registry = model_registry(home)
    from mlflow.exceptions import MlflowException

    with _readable(home):
        try:
            found = (
                registry.get_model_version_by_alias(use_case, CHAMPION)
                if version is None
                else registry.get_model_version(use_case, version)
            )
            return RegisteredVersion(str(found.version), str(found.run_id))
        except MlflowException as error:
            if error.error_code not in _NOT_THERE:
                raise
            if version is None:
                raise no_champion(use_case) from error
            known = [
                str(each.version) for each in registry.search_model_versions(f"name = '{use_case}'")
            ]
            raise UnknownName(
                unknown_name("version", version, known, f"the model registry of '{use_case}'")
            ) from error


def no_champion(use_case: str) -> NoChampion:
    """The error that says what to do about it."""
    return NoChampion(f"use case '{use_case}' has no champion yet; run: punctual train {use_case}.")


def artifact(home: Home, run_id: str, name: str) -> bytes:
    """A file of a run."""
    if (content := registry_file.artifact(home, run_id, name)) is not None:
        return content
    # Without a folder of ours MLflow would copy the file to one that stays.
    with TemporaryDirectory() as folder:
        return Path(model_registry(home).download_artifacts(run_id, name, folder)).read_bytes()


def read_card(home: Home, use_case: str, version: str | None = None) -> ModelCard:
    """The model card of the champion, or of a given version. Raises what `registered_version` does, and `BrokenModel`."""
    found = registered_version(home, use_case, version)
    try:
        card = decode_card(artifact(home, found.run_id, CARD_FILE))
    except (
        Exception
    ) as error:  # a missing file is an MlflowException or an OSError, a torn one msgspec's
        raise BrokenModel(
            f"version {found.version} of '{use_case}' has no readable {CARD_FILE}: {error}. Train again."
        ) from error
    # The registry numbers versions; a card that was copied along says so here.
    card.version, card.run_id = found
    return card


@contextmanager
def _readable(home: Home) -> Iterator[None]:
    """Name the registry in what MLflow and SQLAlchemy say when it cannot be read."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        said = (
            str(getattr(error, "orig", None) or getattr(error, "message", error))
            .strip()
            .rstrip(".")
        )
        raise BrokenRegistry(
            f"the model registry {tracking_uri(home)} cannot be read: {said}. Restore it, or move it away: models are registered anew then."
        ) from error
