"""Predictions bit-identical to a registered pipeline's, without the overhead of scikit-learn.

scikit-learn spends milliseconds on checks and frames before a row reaches the booster. This module
uses the fitted parameters instead: numbers are scaled as by StandardScaler, categories are looked
up in a table of OrdinalEncoder's codes. Other pipelines are not supported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from inference.fast.trees import Trees
from punctual.model_card import ModelCard

# Up to this many rows NumPy, with one step in all trees at a time, is faster than XGBoost.
FEW_ROWS = 32


@dataclass(frozen=True)
class Codes:
    """The encoder's code of each category of a feature; `column` is in the booster's matrix."""

    column: int
    known: dict[str | None, float]
    unknown: float


class FastModel:
    """Predicts as the registered pipeline does, from plain columns. Thread-safe."""

    def __init__(
        self,
        numbers: np.ndarray,
        mean: np.ndarray,
        scale: np.ndarray,
        codes: list[Codes],
        model: Any,
        rounds: int,
    ) -> None:
        self._number_columns: Any = numbers
        if len(numbers) and np.array_equal(
            numbers, np.arange(numbers[0], numbers[0] + len(numbers))
        ):
            # NumPy writes a slice faster than an array of indices.
            self._number_columns = slice(numbers[0], numbers[0] + len(numbers))
        self._mean, self._scale = mean, scale
        self._codes = codes
        self._booster, self._rounds = model.get_booster(), rounds
        self._width = len(numbers) + len(codes)
        self._trees = Trees.of(self._booster, rounds)

    @classmethod
    def of(cls, card: ModelCard, pipeline: Any) -> FastModel | None:
        """The fast model of a registered pipeline, or None if the pipeline is not supported.

        Supported is what training produces: a ColumnTransformer with a StandardScaler for numbers
        and an OrdinalEncoder for categories, then an XGBoost model of trees with one output, on
        exactly the features of the card.
        """
        steps = [step for _, step in getattr(pipeline, "steps", [])]
        if len(steps) != 2 or not _known_model(steps[1], card.task):
            return None
        fitted = _fitted(steps[0])
        names = {
            kind: [feature.name for feature in card.features if feature.kind == kind]
            for kind in ("number", "category")
        }
        if fitted is None or any(
            sorted(fitted[kind].columns) != sorted(names[kind]) for kind in names
        ):
            return None
        scale, encode = fitted["number"], fitted["category"]
        codes = _codes(encode)
        if codes is None or steps[1].n_features_in_ != len(card.features):
            return None
        order = [scale.columns.index(name) for name in names["number"]]
        return cls(
            np.array([scale.start + at for at in order], np.intp),
            scale.step.mean_[order] if order else np.empty(0),
            scale.step.scale_[order] if order else np.empty(0),
            [codes[encode.columns.index(name)] for name in names["category"]],
            steps[1],
            _rounds(steps[1]),
        )

    def predict(
        self, numbers: np.ndarray, categories: Sequence[Sequence[str | None]]
    ) -> np.ndarray:
        """Probabilities of a binary label, or predicted values; float64, in the order of the rows.

        `numbers` is float64, rows x the card's numeric features in its order, NaN for null;
        `categories` has a list for each of the card's categorical features in its order, None for
        null. A row's prediction does not depend on the other rows. Raises `ValueError` for an
        infinite number, as the pipeline does.
        """
        if np.isinf(numbers).any():
            raise ValueError(
                "a feature is infinite, which the model cannot take; a request-time feature may"
                " divide by zero."
            )
        if not len(numbers):
            return np.empty(0)
        matrix = np.empty((len(numbers), self._width), np.float32)
        # A huge number becomes infinite in float32, as in scikit-learn and XGBoost, without a
        # warning.
        with np.errstate(over="ignore"):
            matrix[:, self._number_columns] = (numbers - self._mean) / self._scale
        for codes, values in zip(self._codes, categories, strict=True):
            known, unknown = codes.known, codes.unknown
            matrix[:, codes.column] = [known.get(value, unknown) for value in values]
        if self._trees is not None and len(matrix) <= FEW_ROWS:
            return self._trees.predict(matrix).astype(np.float64)
        predicted = self._booster.inplace_predict(
            matrix, iteration_range=(0, self._rounds), validate_features=False
        )
        return np.asarray(predicted, np.float64)


@dataclass(frozen=True)
class _Fitted:
    """A fitted step of a ColumnTransformer, its input columns and its first output column.

    `step` is None without columns.
    """

    step: Any
    columns: list[str]
    start: int


def _known_model(model: Any, task: str) -> bool:
    from xgboost import XGBClassifier, XGBRegressor

    if task == "binary":
        known = (
            type(model) is XGBClassifier
            and model.objective == "binary:logistic"
            and model.n_classes_ == 2
        )
    else:
        known = type(model) is XGBRegressor and model.objective == "reg:squarederror"
    return known and model.booster in (None, "gbtree") and math.isnan(model.missing)


def _rounds(model: Any) -> int:
    """The number of boosting rounds for prediction: up to the best one after early stopping."""
    try:
        return int(model.best_iteration) + 1
    except AttributeError:
        return int(model.get_booster().num_boosted_rounds())


def _fitted(transformer: Any) -> dict[str, _Fitted] | None:
    """The scaler of the numbers and the encoder of the categories, None with any other step."""
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import OrdinalEncoder, StandardScaler

    found = {"number": _Fitted(None, [], 0), "category": _Fitted(None, [], 0)}
    if type(transformer) is not ColumnTransformer or transformer.transformer_weights:
        return None
    for name, step, columns in transformer.transformers_:
        if isinstance(step, str) and step == "drop":
            continue
        if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
            return None
        if not columns:
            continue
        if type(step) is StandardScaler and step.with_mean and step.with_std:
            kind = "number"
        elif type(step) is OrdinalEncoder and step.handle_unknown == "use_encoded_value":
            kind = "category"
        else:
            return None
        if found[kind].columns:
            return None
        found[kind] = _Fitted(step, columns, transformer.output_indices_[name].start)
    return found


def _codes(encode: _Fitted) -> list[Codes] | None:
    """Each feature's codes of all fitted categories and of null.

    None if a category is not text.
    """
    if encode.step is None:
        return []
    seen = [[value for value in values if value is not None] for values in encode.step.categories_]
    if not all(isinstance(value, str) for values in seen for value in values):
        return None
    longest = max(map(len, seen)) + 1
    padded = {
        name: np.array([*values, *[None] * (longest - len(values))], object)
        for name, values in zip(encode.columns, seen, strict=True)
    }
    answers = np.asarray(encode.step.transform(pd.DataFrame(padded)), np.float64).T.tolist()
    return [
        Codes(
            encode.start + number,
            dict(zip(padded[name].tolist(), answers[number], strict=True)),
            float(encode.step.unknown_value),
        )
        for number, name in enumerate(encode.columns)
    ]
