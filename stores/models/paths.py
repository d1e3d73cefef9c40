"""Paths of the tracking database and of the model files in a data folder.

MLflow stores locations relative to the data folder, so that the folder can be moved or copied.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from punctual.home import Home

# The URI scheme of locations relative to the data folder; `artifacts.py` resolves them for MLflow.
SCHEME = "punctual"
_MODELS = "models"


def tracking_file(home: Home) -> Path:
    """The SQLite file of MLflow's tracking store and model registry."""
    return home.path("mlflow.db")


def tracking_uri(home: Home) -> str:
    """The URI of `tracking_file` for MLflow, with `%` and `?` in the path escaped."""
    path = str(tracking_file(home))
    return f"sqlite:///{path.replace('%', '%25').replace('?', '%3F')}"


def artifact_location(use_case: str | None = None) -> str:
    """The URI, as MLflow stores it, below which the runs of a use case have their files."""
    return "/".join([f"{SCHEME}://", _MODELS, *([quote(use_case, safe="")] if use_case else [])])


def artifact_folder(home: Home, use_case: str, run_id: str) -> Path:
    """The folder of a run's files; MLflow's layout is `<artifact_location>/<run_id>/artifacts`."""
    return home.path(_MODELS, use_case, run_id, "artifacts")
