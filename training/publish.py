"""Tracking and model registry on MLflow: publish a version with its card, promote it, roll back."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

from punctual.errors import NoChampion, UnknownName, unknown_name
from punctual.home import Home
from punctual.model_card import CARD_FILE, CHALLENGER, CHAMPION, ModelCard, encode_card
from stores.models import aliases, artifact_location, model_registry

# Versions that were champion, oldest first, as JSON in a tag of the registered model.
_REIGNS = "champions"
LIBRARIES = ("feast", "duckdb", "pyarrow", "pandas", "numpy", "scikit-learn", "mlflow-skinny")


@dataclass(frozen=True)
class Published:
    """A version in the registry."""

    version: str
    run_id: str


def publish(
    home: Home,
    card: ModelCard,
    pipeline: Any,
    files: list[Path],
    metrics: dict[str, float],
    pip_requirements: list[str],
) -> Published:
    """Log a run with parameters, metrics, files and the model, register it as the next version, and make it challenger.

    The card's `version` and `run_id` are filled in here.
    """
    registry = model_registry(home)
    import mlflow

    experiment = registry.get_experiment_by_name(card.use_case)
    number = (
        experiment.experiment_id
        if experiment
        else registry.create_experiment(card.use_case, artifact_location=artifact_location(home))
    )
    with mlflow.start_run(
        experiment_id=number, run_name=f"{card.use_case} as of {card.as_of}"
    ) as run:
        mlflow.log_params(
            {**card.parameters, "as_of": card.as_of, "feature_service": card.feature_service}
        )
        mlflow.log_metrics(metrics)
        for file in files:
            mlflow.log_artifact(str(file))
        logged = mlflow.sklearn.log_model(
            pipeline,
            name="model",
            serialization_format="cloudpickle",
            pip_requirements=pip_requirements,
        )
        if not registry.search_registered_models(f"name = '{card.use_case}'"):
            registry.create_registered_model(card.use_case, description=card.description)
        registered = registry.create_model_version(card.use_case, logged.model_uri, run.info.run_id)
        card.version, card.run_id = str(registered.version), run.info.run_id
        _log_card(card)
    registry.set_registered_model_alias(card.use_case, CHALLENGER, card.version)
    return Published(card.version, card.run_id)


def _log_card(card: ModelCard) -> None:
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CARD_FILE
        path.write_bytes(encode_card(card))
        mlflow.log_artifact(str(path), run_id=card.run_id)


def champion_version(home: Home, use_case: str) -> str | None:
    """The champion's version, if there is one."""
    return aliases(home, use_case).get(CHAMPION)


def load_pipeline(home: Home, use_case: str, version: str) -> Any:
    """The fitted pipeline of a version."""
    model_registry(home)
    import mlflow

    return mlflow.sklearn.load_model(f"models:/{use_case}/{version}")


def _reigns(registry: Any, use_case: str) -> list[str]:
    return json.loads(registry.get_registered_model(use_case).tags.get(_REIGNS, "[]"))


def promote(home: Home, use_case: str, version: str) -> None:
    """Make a version champion; the one before stays known for a rollback."""
    registry = model_registry(home)
    reigns = [past for past in _reigns(registry, use_case) if past != version]
    registry.set_registered_model_tag(use_case, _REIGNS, json.dumps([*reigns, version]))
    registry.set_registered_model_alias(use_case, CHAMPION, version)


def rollback(home: Home, use_case: str, to: str | None = None) -> tuple[str, str]:
    """Make the champion before this one, or a given version, champion again; returns (from, to).

    Both are the same when the given version is the champion already: nothing is changed then.

    Raises `NoChampion` where there is none to go back to, `UnknownName` for a version that does not exist.
    """
    now = champion_version(home, use_case)
    if now is None:
        raise NoChampion(
            f"use case '{use_case}' has no champion to roll back from; run: punctual train {use_case}."
        )
    if to == now:
        return now, now
    registry = model_registry(home)
    reigns = _reigns(registry, use_case)
    if to is None:
        earlier = [past for past in reigns if past != now]
        if not earlier:
            raise NoChampion(
                f"champion {now} of '{use_case}' is the first; there is no earlier one to roll back to."
            )
        to = earlier[-1]
    known = [str(found.version) for found in registry.search_model_versions(f"name = '{use_case}'")]
    if to not in known:
        raise UnknownName(unknown_name("version", to, known, f"the model registry of '{use_case}'"))
    # The version that is rolled back from is not gone back to by the next rollback.
    registry.set_registered_model_tag(
        use_case, _REIGNS, json.dumps([*(past for past in reigns if past not in (now, to)), to])
    )
    registry.set_registered_model_alias(use_case, CHAMPION, to)
    return now, to


def libraries() -> dict[str, str]:
    """Versions of what a model depends on."""
    import xgboost

    return {**{name: library_version(name) for name in LIBRARIES}, "xgboost": xgboost.__version__}
