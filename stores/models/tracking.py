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
    """A client of the data folder's model registry, which is created if it is missing.

    Within the block MLflow sees no MLFLOW_* variable of the process, logs only errors, and sends
    no telemetry. The environment and the log levels are restored afterwards. Errors of MLflow and
    SQLAlchemy within the block are raised as `BrokenRegistry`.
    """
    with _own_environment():
        # Imported before `_quiet`: the first import of MLflow sets the levels of its loggers.
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        uri = tracking_uri(home)
        home.folder.mkdir(parents=True, exist_ok=True)
        with _quiet():
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            try:
                if not tracking_file(home).exists():
                    # MlflowClient would store the current directory as the default location.
                    SqlAlchemyStore(uri, artifact_location())
                yield MlflowClient(tracking_uri=uri, registry_uri=uri)
            except (MlflowException, SQLAlchemyError) as error:
                reason = getattr(error, "orig", None) or getattr(error, "message", error)
                raise broken_registry(home, reason) from error
            finally:
                _remove_escaped_folder(uri)


def _remove_escaped_folder(uri: str) -> None:
    """Remove the empty folder that MLflow creates at the URI's path without unescaping it."""
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
    """Silence MLflow's log messages below ERROR, and a warning about SQLAlchemy."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # SQLAlchemy 2.1 warns of this in MLflow's own code.
            warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
