"""The champion of a use case, loaded from the model registry and checked against its card."""

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

# Trees sum float32 leaves; the rounding of the sum may differ between processors.
PARITY_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Champion:
    """A registered model with its card; it predicts the same as when it was registered.

    `fast` gives bit-identical predictions. It is None if `FastModel` does not support the pipeline.
    """

    card: ModelCard
    model: Any
    fast: FastModel | None = None

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Probabilities of a binary label, or predicted values; float64, one per row.

        `frame` is the result of `model_input`.
        """
        if self.fast is not None:
            numbers, categories = self._columns(frame)
            # The pipeline's encoder decides about other values, such as NaN.
            if all(set(map(type, values)) <= {str, type(None)} for values in categories):
                return self.fast.predict(numbers, categories)
        return self.predict_registered(frame)

    def predict_matrix(
        self, numbers: np.ndarray, categories: Sequence[Sequence[str | None]]
    ) -> np.ndarray:
        """The result of `predict` for the same rows as plain columns.

        `numbers` is float64, rows x the card's numeric features in its order, NaN for null;
        `categories` has a list for each of the card's categorical features in its order, None for
        null. Raises `ValueError` for an infinite number.
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
        """The predictions of the registered pipeline, about a hundred times slower for one row."""
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

    Raises `NoChampion` or `UnknownName`, and `BrokenModel` if the card cannot be read.
    """
    return read_card(domain.home, use_case.name, version)


def load_champion(domain: LoadedDomain, use_case: UseCase, version: str | None = None) -> Champion:
    """The champion, or a given version, loaded and checked.

    Raises the errors of `champion_card`, and `BrokenModel` if the model cannot be loaded, if it
    predicts differently than when it was registered, or if the fast model differs from its
    pipeline.
    """
    card = champion_card(domain, use_case, version)
    model = _model(domain.home, card)
    champion = Champion(card, model, FastModel.of(card, model))
    _refuse_other_predictions(champion)
    _refuse_fast_differences(domain.home, champion)
    return champion


def reference(home: Home, card: ModelCard) -> pa.Table:
    """A sample of the training rows with the model's predictions: the reference of drift."""
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
    except Exception as error:  # unpickling may raise any exception
        raise BrokenModel(
            f"version {card.version} of '{card.use_case}' cannot be loaded: {error}."
            " Train again or roll back."
        ) from error
    for _, step in getattr(model, "steps", []):
        if hasattr(step, "get_booster"):
            # For a few rows, starting threads takes longer than the prediction.
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
    except Exception as error:  # a model of another library may raise any exception
        raise BrokenModel(
            f"version {card.version} of '{card.use_case}' cannot predict: {error}. Train again or"
            " roll back."
        ) from error
    apart = np.abs(predicted - expected)
    if not np.all(apart <= PARITY_TOLERANCE * np.maximum(1.0, np.abs(expected))):
        worst = int(np.nanargmax(np.where(np.isnan(apart), np.inf, apart)))
        raise BrokenModel(
            f"version {card.version} of '{card.use_case}' predicts {predicted[worst]:.9g} where it"
            f" predicted {expected[worst]:.9g} when it"
            f" was registered with the libraries {_libraries(card)}. Install these versions, train"
            " again or roll back."
        )


def _refuse_fast_differences(home: Home, champion: Champion) -> None:
    """Raise `BrokenModel` unless the fast model equals the pipeline bit for bit.

    Logged predictions are reproduced exactly, for single rows and for any batch of rows.
    """
    if champion.fast is None:
        return
    card = champion.card
    inputs = parity_inputs(card, reference(home, card))
    if found := difference(
        inputs, champion.predict_registered(inputs.frame), champion.fast.predict
    ):
        raise BrokenModel(
            f"version {card.version} of '{card.use_case}' predicts {found.fast:.17g} with the"
            f" fast model and {found.registered:.17g} with its registered pipeline for {found.row}"
            f" ({found.batching}), the largest of {found.rows} differences; expected equal bits. It"
            f" was registered with the libraries {_libraries(card)}. Install these versions, train"
            " again or roll back."
        )


def _libraries(card: ModelCard) -> str:
    return ", ".join(f"{name} {number}" for name, number in card.libraries.items())
