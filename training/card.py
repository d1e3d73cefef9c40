"""What goes beside a model in the registry: its card's rows, test predictions, reference rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from punctual.loaded_domain import LoadedDomain
from punctual.model_card import (
    PREDICTION_COLUMN,
)
from punctual.plain import plain
from punctual.use_case import UseCase
from stores.tables import EVENT
from training.evaluate import Metrics
from training.split import Part
from training.training_set import (
    LABEL,
    LABEL_TIMESTAMP,
)

# Enough for some hundred rows a day of a year: what is usual of a day is asked of the reference too.
REFERENCE_ROWS = 60_000


PARITY_ROWS = 20


def parity_rows(test: Part, predicted: np.ndarray) -> list[dict[str, Any]]:
    """Some rows of the test part with their predictions, by which a server knows that it has loaded the same model."""
    chosen = np.linspace(0, len(predicted) - 1, min(PARITY_ROWS, len(predicted))).astype(int)
    inputs = test.inputs.iloc[chosen].to_dict("records")
    return [
        {"features": plain(row), "prediction": float(predicted[at])}
        for row, at in zip(inputs, chosen, strict=True)
    ]


def write_predictions(
    path: Path, use_case: UseCase, domain: LoadedDomain, test: Part, predicted: np.ndarray
) -> Path:
    keys = dict.fromkeys(
        [
            *use_case.requests.id,
            *domain.join_keys(use_case.feature_service),
            EVENT,
            LABEL,
            LABEL_TIMESTAMP,
        ]
    )
    pq.write_table(
        test.rows.select(list(keys)).append_column(PREDICTION_COLUMN, pa.array(predicted)), path
    )
    return path


def write_reference(path: Path, features: list[str], train: Part, predicted: np.ndarray) -> Path:
    """A sample of the training part, evenly over its time: what drift is measured against."""
    rows = train.rows.select([*features, EVENT, LABEL]).append_column(
        PREDICTION_COLUMN, pa.array(predicted)
    )
    chosen = np.unique(
        np.linspace(0, rows.num_rows - 1, min(REFERENCE_ROWS, rows.num_rows)).astype(int)
    )
    pq.write_table(rows.take(chosen), path, compression="zstd")
    return path


def flat_metrics(metrics: dict[str, Metrics], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        label = f"{prefix}{name}".replace(" ", "_")
        if isinstance(value, dict):
            flat.update(flat_metrics(value, f"{label}."))
        else:
            flat[label] = float(value)
    return flat
