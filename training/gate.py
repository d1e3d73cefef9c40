"""Decides whether a challenger becomes champion, on rows later than the training of both."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from punctual.definitions import changed_since, definitions_store, pinned_domain
from punctual.loaded_domain import AT
from punctual.model_card import ModelCard, Verdict, model_input
from punctual.times import micros, moment
from punctual.use_case import UseCase
from stores.models import read_card
from stores.offline import historical_features
from stores.tables import EVENT
from training.evaluate import Evaluation, evaluate
from training.fit import predict
from training.job import Job, Prepared
from training.publish import champion_version, load_pipeline
from training.split import Part


def verdict_on_later_rows(job: Job, prepared: Prepared, evaluated: Evaluation) -> Verdict:
    """Judge the challenger on the test rows that are later than both models' training."""
    use_case, test = job.use_case, prepared.parts["test"]
    version = champion_version(job.domain.home, use_case.name)
    champion = read_card(job.domain.home, use_case.name, version) if version else None
    since = prepared.trained_until
    if champion:
        since = max(since, moment(champion.trained_until))
    later = test.rows[EVENT].cast(pa.int64()).to_numpy() >= micros(since)
    labels = test.labels[later]
    if len(labels) == 0 or (use_case.task == "binary" and len(np.unique(labels)) < 2):
        return judge(use_case, float("nan"), {}, rows=len(labels))

    def score(predictions: np.ndarray) -> float:
        return evaluate(use_case, labels, predictions[later]).score(use_case.metric)

    return judge(
        use_case,
        score(evaluated.predictions["test"]),
        {name: score(parts["test"]) for name, parts in evaluated.baseline_predictions.items()},
        rows=len(labels),
        champion=score(_champion_predictions(job, prepared, champion)) if champion else None,
        champion_version=version,
    )


def _champion_predictions(job: Job, prepared: Prepared, champion: ModelCard) -> np.ndarray:
    """The champion's predictions for the test part, from the features that the champion reads."""
    test = prepared.parts["test"]
    rows = test.rows
    missing = {feature.name for feature in champion.features} - set(rows.column_names)
    if missing or changed_since(job.domain, champion.definitions):
        pinned = pinned_domain(job.domain, champion.definitions)
        rows = historical_features(
            definitions_store(pinned, job.store),
            rows.select([*job.use_case.requests.columns, EVENT, AT]),
            pinned.services[champion.feature_service],
            as_of=job.as_of,
        )
    inputs = model_input(rows, champion.features)
    part = Part(test.name, test.start, test.end, rows, inputs, test.labels)
    return predict(job.use_case, load_pipeline(job.domain.home, champion), part)


def judge(
    use_case: UseCase,
    challenger: float,
    baselines: dict[str, float],
    *,
    rows: int,
    champion: float | None = None,
    champion_version: str | None = None,
) -> Verdict:
    """Judge scores of the use case's metric on the same rows; the verdict names all problems."""
    gate = use_case.gate
    problems: list[str] = []
    if rows < gate.minimum_rows:
        problems.append(
            f"only {rows} rows are later than both models' training, the gate asks for"
            f" {gate.minimum_rows}"
        )
    if math.isnan(challenger):
        problems.append(f"{use_case.metric} has no value on them, for example for lack of a label")
    for name, score in baselines.items():
        # `not >=` instead of `<`, so that a score of NaN is refused.
        if not use_case.better_by(challenger, score) >= gate.beats_baseline_by:
            problems.append(
                f"baseline {name} scored {score:.4f}, the gate asks for a lead of"
                f" {gate.beats_baseline_by:g}"
            )
    if (
        champion is not None
        and not use_case.better_by(challenger, champion) >= gate.beats_champion_by
    ):
        problems.append(
            f"champion {champion_version} scored {champion:.4f}, the gate asks for a lead of"
            f" {gate.beats_champion_by:g}"
        )
    score_text = f"scored {challenger:.4f} {use_case.metric} on {rows:,} rows"
    message = f"{score_text}; {'; '.join(problems)}" if problems else score_text
    # Copied for the type checker: a dict of floats is not a dict of optional floats.
    return Verdict(
        not problems, message, use_case.metric, challenger, {**baselines}, champion, rows
    )
