"""An MLflow artifact repository whose locations are relative to the data folder.

MLflow loads the class through the entry point in `pyproject.toml`, so that MLflow's own commands
show the files of a run. The platform reads and writes these files without MLflow.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

# MLflow's server does not pass `tracking_uri`; it sets this variable for its workers.
_SERVER_DATABASE = "_MLFLOW_SERVER_FILE_STORE"


class DataFolderArtifacts(LocalArtifactRepository):
    """The files of a run, in the folder that contains the tracking database."""

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, **options: Any) -> None:
        """Resolve `punctual:///models/...`; raises `MlflowException` unless MLflow uses SQLite."""
        folder = _data_folder(
            tracking_uri or os.environ.get(_SERVER_DATABASE) or _current_tracking_uri()
        )
        path = folder / unquote(urlsplit(artifact_uri).path).lstrip("/")
        super().__init__(path.as_uri(), tracking_uri, **options)


def _current_tracking_uri() -> str:
    import mlflow

    return mlflow.get_tracking_uri()


def _data_folder(tracking_uri: str) -> Path:
    if not tracking_uri.startswith("sqlite:///"):
        raise MlflowException(
            "Punctual's model files are in the folder of its tracking database; expected the URI of"
            f" a SQLite file, got {tracking_uri}"
        )
    file = tracking_uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(unquote(file)).absolute().parent
