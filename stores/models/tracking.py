"""Writes to MLflow's tracking store and model registry, pinned to the data folder."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from punctual.home import Home
from stores.models.paths import artifact_location, tracking_file, tracking_uri
from stores.models.registry import broken_registry

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOGGERS = ("mlflow", "alembic")


@contextmanager
def model_registry(home: Home) -> Iterator[MlflowClient]:
    """MLflow's client on the data folder's registry, which is made where it is missing.

    Within the block MLflow sees none of the process's MLFLOW_* variables, reports no errors below
    `ERROR`, and sends no telemetry; afterwards environment and log levels are what they were.
    Raises `BrokenRegistry`, also for what the block asks of the client.
    """
    with _own_environment():
        # MLflow configures its loggers when it is first imported, as for any other importer.
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
        from sqlalchemy.exc import SQLAlchemyError

        uri = tracking_uri(home)
        home.folder.mkdir(parents=True, exist_ok=True)
        with _quiet():
            try:
                if not tracking_file(home).exists():
                    # The client would give the default experiment the current directory.
                    SqlAlchemyStore(uri, artifact_location())
                yield MlflowClient(tracking_uri=uri, registry_uri=uri)
            except (MlflowException, SQLAlchemyError) as error:
                reason = getattr(error, "orig", None) or getattr(error, "message", error)
                raise broken_registry(home, reason) from error
            finally:
                _remove_folder_of_escapes(uri)


def _remove_folder_of_escapes(uri: str) -> None:
    """Remove the empty folder that MLflow makes where it takes the escapes of an address literally."""
    folder = Path(uri.removeprefix("sqlite:///")).parent
    if "%" in str(folder) and folder.is_dir() and not any(folder.iterdir()):
        os.removedirs(folder)


@contextmanager
def _own_environment() -> Iterator[None]:
    before = _mlflow_variables()
    for name in before:
        del os.environ[name]
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    try:
        yield
    finally:
        for name in _mlflow_variables():
            del os.environ[name]
        os.environ.update(before)


def _mlflow_variables() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name.lstrip("_").startswith("MLFLOW_")
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what MLflow logs of each step, and its warning that a pickle can run code."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # SQLAlchemy 2.1 says so of MLflow's own code.
            warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
