"""MLflow's extension point for artifacts: locations that are relative to the data folder.

MLflow finds the class by the entry point in `pyproject.toml`, so that its own commands show the
files of a run. The platform itself reads and writes them without MLflow.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

# MLflow's server gives no address of its database; it keeps it in this variable for its workers.
_SERVER_DATABASE = "_MLFLOW_SERVER_FILE_STORE"


class DataFolderArtifacts(LocalArtifactRepository):
    """The files of a run, in the folder of the tracking database."""

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, **options: Any) -> None:
        """Resolve `punctual:///models/...`; raises `MlflowException` for a database of another
        kind.
        """
        folder = _data_folder(tracking_uri or os.environ.get(_SERVER_DATABASE) or _in_use())
        path = folder / unquote(urlsplit(artifact_uri).path).lstrip("/")
        super().__init__(path.as_uri(), tracking_uri, **options)


def _in_use() -> str:
    import mlflow

    return mlflow.get_tracking_uri()


def _data_folder(tracking_uri: str) -> Path:
    if not tracking_uri.startswith("sqlite:///"):
        raise MlflowException(
            f"the files of Punctual's models are beside its tracking database, expected the address"
            f" of a SQLite file: {tracking_uri}"
        )
    file = tracking_uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(unquote(file)).absolute().parent
