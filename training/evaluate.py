"""Metrics of predictions, and feature importances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import metrics as skm
from sklearn.pipeline import Pipeline

from punctual.model_card import ConfusionMatrix, Decisions, Metrics
from punctual.use_case import UseCase
from training.fit import predict
from training.split import Part


def evaluate(use_case: UseCase, labels: np.ndarray, predictions: np.ndarray) -> Metrics:
    """All metrics of a set of predictions; those of decisions are grouped by threshold.

    Definitions are scikit-learn's; `brier` is the mean squared error of the probability (Brier
    1950).
    """
    if use_case.task == "regression":
        return Metrics(
            rows=len(labels),
            rmse=float(np.sqrt(skm.mean_squared_error(labels, predictions))),
            mae=float(skm.mean_absolute_error(labels, predictions)),
            r2=float(skm.r2_score(labels, predictions)),
        )
    return Metrics(
        rows=len(labels),
        positive_share=float(labels.mean()),
        roc_auc=float(skm.roc_auc_score(labels, predictions)),
        average_precision=float(skm.average_precision_score(labels, predictions)),
        log_loss=float(skm.log_loss(labels, predictions, labels=[0, 1])),
        brier=float(skm.brier_score_loss(labels, predictions)),
        at_threshold={
            f"{threshold:g}": _decisions(labels, predictions >= threshold)
            for threshold in sorted({0.5, use_case.threshold})
        },
    )


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a model and of the baselines, and their metrics, by part of the training set.

    `predictions` covers all parts; metrics and baselines cover validation and test.
    """

    predictions: dict[str, np.ndarray]
    metrics: dict[str, Metrics]
    baseline_predictions: dict[str, dict[str, np.ndarray]]
    baselines: dict[str, dict[str, Metrics]]


def evaluation(
    use_case: UseCase,
    parts: Mapping[str, Part],
    pipeline: Pipeline,
    baselines: Mapping[str, Pipeline],
) -> Evaluation:
    """Predict with the model and the baselines, and compute all metrics of the predictions."""
    held_out = {name: parts[name] for name in ("validation", "test")}

    def metrics(predictions: Mapping[str, np.ndarray]) -> dict[str, Metrics]:
        return {
            name: evaluate(use_case, part.labels, predictions[name])
            for name, part in held_out.items()
        }

    predictions = {name: predict(use_case, pipeline, part) for name, part in parts.items()}
    baseline_predictions = {
        baseline: {name: predict(use_case, model, part) for name, part in held_out.items()}
        for baseline, model in baselines.items()
    }
    return Evaluation(
        predictions,
        metrics(predictions),
        baseline_predictions,
        {baseline: metrics(predicted) for baseline, predicted in baseline_predictions.items()},
    )


def _decisions(labels: np.ndarray, decided: np.ndarray) -> Decisions:
    # scikit-learn's order: true negatives, false positives, false negatives, true positives.
    counts = map(int, skm.confusion_matrix(labels, decided, labels=[0, 1]).ravel())
    return Decisions(
        accuracy=float(skm.accuracy_score(labels, decided)),
        precision=float(skm.precision_score(labels, decided, zero_division=0)),
        recall=float(skm.recall_score(labels, decided, zero_division=0)),
        f1=float(skm.f1_score(labels, decided, zero_division=0)),
        confusion_matrix=ConfusionMatrix(*counts),
    )


def importances(pipeline: Any, names: list[str]) -> list[tuple[str, float]]:
    """Each feature's share of the booster's total gain, largest first."""
    gain = pipeline.named_steps["model"].get_booster().get_score(importance_type="total_gain")
    ordered = [
        name
        for _, _, group in pipeline.named_steps["preprocess"].transformers_
        for name in group
        if name in names
    ]
    shares = {
        ordered[int(key[1:])] if key.startswith("f") and key[1:].isdigit() else key: value
        for key, value in gain.items()
    }
    total = sum(shares.values()) or 1.0
    return sorted(
        ((name, float(value) / total) for name, value in shares.items()), key=lambda pair: -pair[1]
    )
