"""The champion of a use case: found in the model registry, checked against its card, ready to predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.contract import UseCase
from feature_repo.domains import LoadedDomain
from feature_repo.errors import BrokenModel, StoreOutdated
from feature_repo.model_card import REFERENCE_FILE, ModelCard, model_input
from feature_repo.model_registry import artifact, read_card, registered_version

# Trees sum float32 leaves; another processor may round the last digits of the sum otherwise.
PARITY_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Champion:
    """A registered model with its card; it predicts what it predicted when it was registered."""

    card: ModelCard
    model: Any

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Probabilities of a binary label, or predicted values; float64, in the order of the rows."""
        if self.card.task == "binary":
            return np.asarray(self.model.predict_proba(frame)[:, 1], dtype=np.float64)
        return np.asarray(self.model.predict(frame), dtype=np.float64)


def champion_version(use_case: str) -> str:
    """The version behind the alias `champion`. Raises `NoChampion`."""
    return str(registered_version(use_case).version)


def champion_card(domain: LoadedDomain, use_case: UseCase, version: str | None = None) -> ModelCard:
    """The card of the champion, or of a given version.

    Raises `NoChampion` or `UnknownName`; `StoreOutdated` where the features are defined otherwise than those it was
    trained on; `BrokenModel` where there is no readable card.
    """
    card = read_card(use_case.name, version)
    _refuse_other_definitions(domain, card)
    return card


def load_champion(domain: LoadedDomain, use_case: UseCase, version: str | None = None) -> Champion:
    """The champion, or a given version, ready to predict.

    Raises what `champion_card` does, and `BrokenModel` where the model cannot be loaded or predicts otherwise than
    when it was registered.
    """
    card = champion_card(domain, use_case, version)
    champion = Champion(card, _model(use_case.name, card.version))
    _refuse_other_predictions(champion)
    return champion


def reference(card: ModelCard) -> pa.Table:
    """A sample of the rows the model was trained on, with its predictions: what drift is measured against."""
    try:
        return pq.read_table(pa.BufferReader(artifact(card.run_id, REFERENCE_FILE)))
    except Exception as error:  # a missing file is an MlflowException or an OSError, a torn one Arrow's
        raise BrokenModel(f"version {card.version} of '{card.use_case}' has no readable {REFERENCE_FILE}: {error}. Train again.") from error


def _refuse_other_definitions(domain: LoadedDomain, card: ModelCard) -> None:
    problems = []
    if card.feature_service not in domain.services:
        problems.append(f"feature service '{card.feature_service}' is gone")
    for name, fingerprint in sorted(card.view_fingerprints.items()):
        view = domain.views.get(name)
        if view is None:
            problems.append(f"view '{name}' is gone")
        elif view.tags.get("fingerprint", "") != fingerprint:
            problems.append(f"view '{name}' is defined otherwise")
    if problems:
        raise StoreOutdated(
            f"version {card.version} of '{card.use_case}' was trained on other features than domain '{domain.name}' declares now: "
            f"{'; '.join(problems)}. Train again (punctual train {card.use_case}) or restore the definitions."
        )


def _model(use_case: str, version: str) -> Any:
    import mlflow

    try:
        model = mlflow.sklearn.load_model(f"models:/{use_case}/{version}")
    except Exception as error:  # unpickling may raise anything
        raise BrokenModel(f"version {version} of '{use_case}' cannot be loaded: {error}. Train again or roll back.") from error
    for _, step in getattr(model, "steps", []):
        if hasattr(step, "get_booster"):
            # Threads cost more than they bring to requests of a few rows, and much more where processors are busy.
            step.get_booster().set_param({"nthread": 1})
    return model


def _refuse_other_predictions(champion: Champion) -> None:
    card = champion.card
    if not card.parity_rows:
        return
    columns = {feature.name: [row["features"].get(feature.name) for row in card.parity_rows] for feature in card.features}
    expected = np.array([row["prediction"] for row in card.parity_rows], dtype=np.float64)
    try:
        predicted = champion.predict(model_input(columns, card.features))
    except Exception as error:  # whatever a model of other libraries raises
        raise BrokenModel(f"version {card.version} of '{card.use_case}' cannot predict: {error}. Train again or roll back.") from error
    difference = np.abs(predicted - expected)
    if not np.all(difference <= PARITY_TOLERANCE * np.maximum(1.0, np.abs(expected))):
        worst = int(np.nanargmax(np.where(np.isnan(difference), np.inf, difference)))
        raise BrokenModel(
            f"version {card.version} of '{card.use_case}' predicts {predicted[worst]:.9g} where it predicted {expected[worst]:.9g} when it "
            f"was registered; its card names the libraries: {', '.join(f'{name} {number}' for name, number in card.libraries.items())}. "
            "Install those, train again or roll back."
        )
