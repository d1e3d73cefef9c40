"""Writes to the model registry: publishes a version with its card, promotes, rolls back."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version as library_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from punctual.errors import NoChampion, UnknownName, unknown_name
from punctual.home import Home
from punctual.model_card import (
    CARD_FILE,
    CHALLENGER,
    CHAMPION,
    MODEL_FILE,
    ModelCard,
    encode_card,
)
from punctual.times import moment
from stores.models import (
    aliases,
    artifact,
    artifact_folder,
    artifact_location,
    model_registry,
    registered_versions,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Tag of a registered model: a JSON list of the versions that were champion, oldest first.
_CHAMPIONS_TAG = "champions"
LIBRARIES = ("feast", "duckdb", "pyarrow", "pandas", "numpy", "scikit-learn", "mlflow-skinny")


def publish(
    home: Home,
    card: ModelCard,
    pipeline: Any,
    files: Sequence[Path],
    metrics: Mapping[str, float],
) -> None:
    """Register a version with model, card and files; give it the alias `challenger`.

    The MLflow run has the card's parameters, and the metrics with the card's `as_of` as their
    timestamp. Sets the card's `version` and `run_id`. Raises `BrokenRegistry`.
    """
    with model_registry(home) as registry:
        run_id = _started_run(registry, card)
        status = "FAILED"
        try:
            _log(registry, run_id, card, metrics)
            folder = artifact_folder(home, card.use_case, run_id)
            _write_model(folder, card, pipeline)
            for file in files:
                shutil.copy(file, folder)
            card.version, card.run_id = _next_version(registry, card, run_id), run_id
            folder.joinpath(CARD_FILE).write_bytes(encode_card(card))
            status = "FINISHED"
        finally:
            registry.set_terminated(run_id, status)
        registry.set_registered_model_alias(card.use_case, CHALLENGER, card.version)


def _started_run(registry: MlflowClient, card: ModelCard) -> str:
    experiment = registry.get_experiment_by_name(card.use_case)
    number = (
        experiment.experiment_id
        if experiment
        else registry.create_experiment(card.use_case, artifact_location(card.use_case))
    )
    run = registry.create_run(number, run_name=f"{card.use_case} as of {card.as_of}")
    return str(run.info.run_id)


def _log(
    registry: MlflowClient, run_id: str, card: ModelCard, metrics: Mapping[str, float]
) -> None:
    from mlflow.entities import Metric, Param

    facts = {**card.parameters, "as_of": card.as_of, "feature_service": card.feature_service}
    as_of_ms = int(moment(card.as_of).timestamp() * 1000)
    registry.log_batch(
        run_id,
        [Metric(name, value, as_of_ms, 0) for name, value in metrics.items()],
        [Param(name, str(value)) for name, value in facts.items()],
    )


def _write_model(folder: Path, card: ModelCard, pipeline: Any) -> None:
    import mlflow.sklearn

    model_folder = (folder / MODEL_FILE).parent
    model_folder.parent.mkdir(parents=True)
    mlflow.sklearn.save_model(
        pipeline,
        str(model_folder),
        serialization_format="cloudpickle",
        pip_requirements=[f"{name}=={number}" for name, number in card.libraries.items()],
    )


def _next_version(registry: MlflowClient, card: ModelCard, run_id: str) -> str:
    if not registry.search_registered_models(f"name = '{card.use_case}'"):
        registry.create_registered_model(card.use_case, description=card.description)
    source = f"{registry.get_run(run_id).info.artifact_uri}/{Path(MODEL_FILE).parent}"
    return str(registry.create_model_version(card.use_case, source, run_id).version)


def champion_version(home: Home, use_case: str) -> str | None:
    """The champion's version; None if the use case has no champion."""
    return aliases(home, use_case).get(CHAMPION)


def load_pipeline(home: Home, card: ModelCard) -> Any:
    """The fitted pipeline of a version. Errors of unpickling are not caught."""
    return pickle.loads(artifact(home, card.use_case, card.run_id, MODEL_FILE))


def _past_champions(registry: MlflowClient, use_case: str) -> list[str]:
    return json.loads(registry.get_registered_model(use_case).tags.get(_CHAMPIONS_TAG, "[]"))


def promote(home: Home, use_case: str, version: str) -> None:
    """Make a version champion; the previous champion is remembered for a rollback."""
    with model_registry(home) as registry:
        champions = [past for past in _past_champions(registry, use_case) if past != version]
        registry.set_registered_model_tag(
            use_case, _CHAMPIONS_TAG, json.dumps([*champions, version])
        )
        registry.set_registered_model_alias(use_case, CHAMPION, version)


def rollback(home: Home, use_case: str, to: str | None = None) -> tuple[str, str]:
    """Make the previous champion, or version `to`, champion; returns (old, new) version.

    If `to` is the champion already, nothing changes and both are equal. Raises `NoChampion` if the
    use case has no champion or no earlier one, `UnknownName` for a version that does not exist.
    """
    current = champion_version(home, use_case)
    if current is None:
        raise NoChampion(
            f"use case '{use_case}' has no champion to roll back from; run: punctual train"
            f" {use_case}."
        )
    if to == current:
        return current, current
    known = [each.version for each in registered_versions(home, use_case)]
    with model_registry(home) as registry:
        champions = _past_champions(registry, use_case)
        if to is None:
            earlier = [past for past in champions if past != current]
            if not earlier:
                raise NoChampion(
                    f"champion {current} of '{use_case}' is the first; no earlier champion exists."
                )
            to = earlier[-1]
        if to not in known:
            raise UnknownName(
                unknown_name("version", to, known, f"the model registry of '{use_case}'")
            )
        # The abandoned version leaves the list, so that the next rollback does not restore it.
        registry.set_registered_model_tag(
            use_case,
            _CHAMPIONS_TAG,
            json.dumps([*(past for past in champions if past not in (current, to)), to]),
        )
        registry.set_registered_model_alias(use_case, CHAMPION, to)
    return current, to


def libraries() -> dict[str, str]:
    """The installed versions of the libraries that a model depends on."""
    import xgboost

    return {**{name: library_version(name) for name in LIBRARIES}, "xgboost": xgboost.__version__}
