"""Metrics that name their thresholds, and the plots that go with a model."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import metrics as skm

from punctual.use_case import UseCase

Metrics = dict[str, Any]


def evaluate(use_case: UseCase, labels: np.ndarray, predictions: np.ndarray) -> Metrics:
    """Every metric of a set of predictions; those that need a decision stand under the threshold they were made with.

    Definitions are scikit-learn's; Brier (1950) is the mean squared error of the probability.
    """
    if use_case.task == "regression":
        return {
            "rows": len(labels),
            "rmse": float(np.sqrt(skm.mean_squared_error(labels, predictions))),
            "mae": float(skm.mean_absolute_error(labels, predictions)),
            "r2": float(skm.r2_score(labels, predictions)),
        }
    return {
        "rows": len(labels),
        "positive_share": float(labels.mean()),
        "roc_auc": float(skm.roc_auc_score(labels, predictions)),
        "average_precision": float(skm.average_precision_score(labels, predictions)),
        "log_loss": float(skm.log_loss(labels, predictions, labels=[0, 1])),
        "brier": float(skm.brier_score_loss(labels, predictions)),
        "at_threshold": {
            f"{threshold:g}": _decided(labels, predictions, threshold)
            for threshold in sorted({0.5, use_case.threshold})
        },
    }


def _decided(labels: np.ndarray, predictions: np.ndarray, threshold: float) -> Metrics:
    decided = predictions >= threshold
    true_negative, false_positive, false_negative, true_positive = skm.confusion_matrix(
        labels, decided, labels=[0, 1]
    ).ravel()
    return {
        "accuracy": float(skm.accuracy_score(labels, decided)),
        "precision": float(skm.precision_score(labels, decided, zero_division=0)),
        "recall": float(skm.recall_score(labels, decided, zero_division=0)),
        "f1": float(skm.f1_score(labels, decided, zero_division=0)),
        "confusion_matrix": {
            "true_negative": int(true_negative),
            "false_positive": int(false_positive),
            "false_negative": int(false_negative),
            "true_positive": int(true_positive),
        },
    }


def importances(pipeline: Any, names: list[str]) -> list[tuple[str, float]]:
    """Features by their share of the booster's total gain, greatest first."""
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
