"""Where the tracking database and the files of the models are in a data folder.

MLflow stores locations relative to the data folder, so that the folder can be moved or copied.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from punctual.home import Home

# The scheme of locations relative to the data folder; `artifacts.py` resolves them for MLflow.
SCHEME = "punctual"
_MODELS = "models"


def tracking_file(home: Home) -> Path:
    """The SQLite file of MLflow's tracking store and model registry."""
    return home.path("mlflow.db")


def tracking_uri(home: Home) -> str:
    """The same as MLflow's address, in which `?` begins a query and `%` an escape."""
    path = str(tracking_file(home))
    return f"sqlite:///{path.replace('%', '%25').replace('?', '%3F')}"


def artifact_location(use_case: str | None = None) -> str:
    """Where MLflow's runs of a use case have their files, as MLflow stores it."""
    return "/".join([f"{SCHEME}://", _MODELS, *([quote(use_case, safe="")] if use_case else [])])


def artifact_folder(home: Home, use_case: str, run_id: str) -> Path:
    """The files of a run; `<artifact_location>/<run_id>/artifacts` is MLflow's layout."""
    return home.path(_MODELS, use_case, run_id, "artifacts")
