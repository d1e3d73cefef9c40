"""Makes the files beside a model in the registry: card, test predictions, reference rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.pipeline import Pipeline

from punctual.definitions import pinned_definitions
from punctual.loaded_domain import LoadedDomain
from punctual.model_card import PREDICTION_COLUMN, Metrics, ModelCard, ParityRow, Verdict
from punctual.plain import plain
from punctual.times import duration_text, iso
from punctual.use_case import ParameterValue, UseCase
from stores.tables import EVENT
from training.evaluate import Evaluation
from training.job import Job, Prepared
from training.publish import libraries
from training.split import Part
from training.training_set import LABEL, LABEL_TIMESTAMP

# Over 150 rows a day for a year, since drift compares with single days of the reference too.
REFERENCE_ROWS = 60_000
PARITY_ROWS = 20


def model_card(
    job: Job,
    prepared: Prepared,
    parameters: Mapping[str, ParameterValue],
    pipeline: Pipeline,
    evaluated: Evaluation,
    verdict: Verdict,
) -> ModelCard:
    """The card of a fitted model; `publish` fills in `version` and `run_id`."""
    use_case = job.use_case
    best_iteration = int(pipeline.named_steps["model"].best_iteration)
    return ModelCard(
        use_case=use_case.name,
        description=use_case.description,
        task=use_case.task,
        version="",
        run_id="",
        as_of=iso(job.as_of),
        trained_until=iso(prepared.trained_until),
        feature_service=use_case.feature_service,
        definitions=pinned_definitions(job.domain, use_case.feature_service),
        features=prepared.features,
        label=use_case.label.column,
        label_horizon=duration_text(use_case.label.horizon),
        threshold=use_case.threshold,
        metric=use_case.metric,
        training_set=prepared.dataset.manifest(),
        split={name: part.describe() for name, part in prepared.parts.items()},
        parameters={**parameters, "best_iteration": best_iteration},
        metrics=evaluated.metrics,
        baselines=evaluated.baselines,
        gate=verdict,
        libraries=libraries(),
        parity_rows=parity_rows(prepared.parts["test"], evaluated.predictions["test"]),
        limits=use_case.limits,
    )


def parity_rows(test: Part, predicted: np.ndarray) -> list[ParityRow]:
    """Rows of the test part with predictions, by which a server checks the model that it loads."""
    chosen = np.linspace(0, len(predicted) - 1, min(PARITY_ROWS, len(predicted))).astype(int)
    inputs = test.inputs.iloc[chosen].to_dict("records")
    return [
        ParityRow(plain(row), float(predicted[index]))
        for row, index in zip(inputs, chosen, strict=True)
    ]


def write_predictions(
    path: Path, use_case: UseCase, domain: LoadedDomain, test: Part, predicted: np.ndarray
) -> Path:
    """The test part's keys, labels and predictions as a Parquet file; returns its path."""
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
    """Write the reference for drift: training rows with predictions, evenly spaced in time."""
    rows = train.rows.select([*features, EVENT, LABEL]).append_column(
        PREDICTION_COLUMN, pa.array(predicted)
    )
    chosen = np.unique(
        np.linspace(0, rows.num_rows - 1, min(REFERENCE_ROWS, rows.num_rows)).astype(int)
    )
    pq.write_table(rows.take(chosen), path, compression="zstd")
    return path


def flat_metrics(metrics: Mapping[str, Metrics]) -> dict[str, float]:
    """All numbers of the metrics, by names such as `test.at_threshold.0.5.recall`."""
    flat: dict[str, float] = {}

    def add(name: str, value: object) -> None:
        if isinstance(value, dict):
            for part, each in value.items():
                add(f"{name}.{part}" if name else part, each)
        elif isinstance(value, (int, float)):
            flat[name] = float(value)

    add("", plain(dict(metrics)))
    return flat
