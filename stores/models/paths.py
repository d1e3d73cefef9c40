"""Where the tracking store, the model registry and its artifacts are."""

from __future__ import annotations

from punctual.home import Home
from punctual.model_card import CHAMPION


def tracking_uri(home: Home) -> str:
    """MLflow's tracking store and model registry: SQLite in the data folder."""
    return f"sqlite:///{home.path('mlflow.db')}"


def artifact_location(home: Home) -> str:
    """Where MLflow keeps models and plots."""
    return f"file://{home.path('models')}"


def registered_model(use_case: str, alias: str = CHAMPION) -> str:
    """MLflow's name for the model of a use case behind an alias."""
    return f"models:/{use_case}@{alias}"
