"""The champion of a use case: found in the model registry, checked against its card, ready to
predict.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from inference.fast.parity import difference, parity_inputs
from inference.fast.pipeline import FastModel
from punctual.errors import BrokenModel
from punctual.home import Home
from punctual.loaded_domain import LoadedDomain
from punctual.model_card import MODEL_FILE, REFERENCE_FILE, ModelCard, model_input
from punctual.use_case import UseCase
from stores.models import artifact, read_card, registered_version

# Trees sum float32 leaves; another processor may round the last digits of the sum otherwise.
PARITY_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Champion:
    """A registered model with its card; it predicts what it predicted when it was registered.

    `fast` gives the same predictions to the bit, where the model's pipeline is of a shape that
    `FastModel` knows.
    """

    card: ModelCard
    model: Any
    fast: FastModel | None = None

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Probabilities of a binary label, or predicted values; float64, in the order of the rows
        of a `model_input`.
        """
        if self.fast is not None:
            numbers, categories = self._columns(frame)
            # What is neither text nor None, such as the NaN of somebody's own frame, the pipeline's
            # encoder judges.
            if all(set(map(type, values)) <= {str, type(None)} for values in categories):
                return self.fast.predict(numbers, categories)
        return self.predict_registered(frame)

    def predict_matrix(
        self, numbers: np.ndarray, categories: Sequence[Sequence[str | None]]
    ) -> np.ndarray:
        """What `predict` gives for the same rows as plain columns.

        `numbers` is float64, rows x the card's numeric features in its order, NaN for null;
        `categories` has a list for each of the card's categories in its order, None for null.
        Raises `ValueError` for an infinite number.
        """
        if self.fast is not None:
            return self.fast.predict(numbers, categories)
        if not len(numbers):
            return np.empty(0)
        number, category = iter(numbers.T), iter(categories)
        columns = {
            each.name: np.array(next(category), object) if each.kind == "category" else next(number)
            for each in self.card.features
        }
        return self.predict_registered(pd.DataFrame(columns))

    def predict_registered(self, frame: pd.DataFrame) -> np.ndarray:
        """The same by the registered pipeline itself, which takes some hundred times as long for a
        row.
        """
        if self.card.task == "binary":
            return np.asarray(self.model.predict_proba(frame)[:, 1], dtype=np.float64)
        return np.asarray(self.model.predict(frame), dtype=np.float64)

    def _columns(self, frame: pd.DataFrame) -> tuple[np.ndarray, list[list[Any]]]:
        names = {
            kind: [feature.name for feature in self.card.features if feature.kind == kind]
            for kind in ("number", "category")
        }
        return frame[names["number"]].to_numpy(np.float64), [
            frame[name].tolist() for name in names["category"]
        ]


def champion_version(home: Home, use_case: str) -> str:
    """The version behind the alias `champion`. Raises `NoChampion`."""
    return registered_version(home, use_case).version


def champion_card(domain: LoadedDomain, use_case: UseCase, version: str | None = None) -> ModelCard:
    """The card of the champion, or of a given version.

    Raises `NoChampion` or `UnknownName`; `BrokenModel` where there is no readable card.
    """
    return read_card(domain.home, use_case.name, version)


def load_champion(domain: LoadedDomain, use_case: UseCase, version: str | None = None) -> Champion:
    """The champion, or a given version, ready to predict.

    Raises what `champion_card` does, and `BrokenModel` where the model cannot be loaded, predicts
    otherwise than when it was registered, or otherwise in the fast way than by its pipeline.
    """
    card = champion_card(domain, use_case, version)
    model = _model(domain.home, card)
    champion = Champion(card, model, FastModel.of(card, model))
    _refuse_other_predictions(champion)
    _refuse_unfaithful_ways(domain.home, champion)
    return champion


def reference(home: Home, card: ModelCard) -> pa.Table:
    """A sample of the rows the model was trained on, with its predictions: what drift is measured
    against.
    """
    try:
        return pq.read_table(
            pa.BufferReader(artifact(home, card.use_case, card.run_id, REFERENCE_FILE))
        )
    except (OSError, pa.ArrowException) as error:
        raise BrokenModel(
            f"version {card.version} of '{card.use_case}' has no readable {REFERENCE_FILE}:"
            f" {error}. Train again."
        ) from error


def _model(home: Home, card: ModelCard) -> Any:
    try:
        model = pickle.loads(artifact(home, card.use_case, card.run_id, MODEL_FILE))
    except Exception as error:  # unpickling may raise anything
        raise BrokenModel(
            f"version {card.version} of '{card.use_case}' cannot be loaded: {error}."
            " Train again or roll back."
        ) from error
    for _, step in getattr(model, "steps", []):
        if hasattr(step, "get_booster"):
            # Threads cost more than they bring to requests of a few rows, and much more where
            # processors are busy.
            step.get_booster().set_param({"nthread": 1})
    return model


def _refuse_other_predictions(champion: Champion) -> None:
    card = champion.card
    if not card.parity_rows:
        return
    columns = {
        feature.name: [row.features.get(feature.name) for row in card.parity_rows]
        for feature in card.features
    }
    expected = np.array([row.prediction for row in card.parity_rows], dtype=np.float64)
    try:
        predicted = champion.predict_registered(model_input(columns, card.features))
    except Exception as error:  # whatever a model of other libraries raises
        raise BrokenModel(
            f"version {card.version} of '{card.use_case}' cannot predict: {error}. Train again or"
            " roll back."
        ) from error
    apart = np.abs(predicted - expected)
    if not np.all(apart <= PARITY_TOLERANCE * np.maximum(1.0, np.abs(expected))):
        worst = int(np.nanargmax(np.where(np.isnan(apart), np.inf, apart)))
        raise BrokenModel(
            f"version {card.version} of '{card.use_case}' predicts {predicted[worst]:.9g} where it"
            f" predicted {expected[worst]:.9g} when it "
            f"was registered; its card names the libraries: {_libraries(card)}. Install those,"
            " train again or roll back."
        )


def _refuse_unfaithful_ways(home: Home, champion: Champion) -> None:
    """Predictions are logged and repeated bit for bit: alone, among others and by the pipeline they
    must be the same.
    """
    if champion.fast is None:
        return
    card = champion.card
    inputs = parity_inputs(card, reference(home, card))
    if found := difference(
        inputs, champion.predict_registered(inputs.frame), champion.fast.predict
    ):
        raise BrokenModel(
            f"version {card.version} of '{card.use_case}' predicts {found.fast:.17g} in the fast"
            f" way and {found.registered:.17g} by its "
            f"registered pipeline for {found.row} ({found.manner}), the largest of {found.rows}"
            " differences; expected the same bits. "
            f"Its card names the libraries: {_libraries(card)}. Install those, train again or roll"
            " back."
        )


def _libraries(card: ModelCard) -> str:
    return ", ".join(f"{name} {number}" for name, number in card.libraries.items())
