"""One training run: from the training set to a registered version and the gate's verdict."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from feast import FeatureStore
from sklearn.pipeline import Pipeline

from punctual.errors import GateRefused
from punctual.home import Home
from punctual.loaded_domain import LoadedDomain
from punctual.model_card import (
    REFERENCE_FILE,
    TEST_PREDICTIONS_FILE,
    Metrics,
    ModelCard,
    Verdict,
)
from punctual.progress import Progress
from punctual.times import aware
from punctual.use_case import ParameterValue, UseCase
from stores.models import refuse_changes
from training import publish as registry
from training.card import flat_metrics, model_card, write_predictions, write_reference
from training.evaluate import Evaluation, evaluate, evaluation, importances
from training.fit import fit, fit_baselines, parameters_of, predict
from training.gate import verdict_on_later_rows
from training.job import Job, Prepared, prepare
from training.plots import draw
from training.split import shuffled


@dataclass(frozen=True)
class TrainingRun:
    """The result of a run: the version's card, the gate's verdict, whether it became champion."""

    card: ModelCard
    verdict: Verdict
    promoted: bool


def train(
    store: FeatureStore,
    domain: LoadedDomain,
    use_case: UseCase,
    *,
    as_of: datetime,
    progress: Progress,
    until: tuple[datetime, datetime, datetime] | None = None,
    parameters: Mapping[str, ParameterValue] | None = None,
    random_split: bool = False,
) -> TrainingRun:
    """Train, evaluate and register a model; promote it if it passes the gate.

    A refused version stays as challenger. `until` gives the end times of the three parts for a
    report on fixed periods, `parameters` overrides the recipe for this run. `random_split` also
    scores the model on a random split, which shows how much a leak would inflate the score. Raises
    `ChangeRefused` if a champion reads definitions that have changed, and what `prepare` raises.
    """
    refuse_changes(domain.home, [domain])
    job = Job(store, domain, use_case, aware(as_of), until)
    progress.step("training set")
    prepared = prepare(job)
    progress.step("baselines")
    baselines = fit_baselines(use_case, prepared.features, prepared.parts["train"])
    progress.step("model")
    chosen = parameters_of(use_case, parameters)
    pipeline = fit(use_case, prepared.features, prepared.parts, chosen)
    progress.step("evaluation")
    evaluated = evaluation(use_case, prepared.parts, pipeline, baselines)
    if random_split:
        progress.step("random split")
        evaluated.metrics["random_split_test"] = _random_split_metrics(use_case, prepared, chosen)
    verdict = verdict_on_later_rows(job, prepared, evaluated)
    card = model_card(job, prepared, chosen, pipeline, evaluated, verdict)
    progress.step("registry")
    _register(job, prepared, pipeline, evaluated, card)
    if verdict.passed:
        registry.promote(domain.home, use_case.name, card.version)
    return TrainingRun(card, verdict, verdict.passed)


def raise_if_refused(home: Home, run: TrainingRun) -> None:
    """Raise `GateRefused` with the reasons, if the gate refused the version."""
    if not run.promoted:
        champion = registry.champion_version(home, run.card.use_case)
        outcome = f"Champion {champion} unchanged" if champion else "No champion yet"
        raise GateRefused(f"challenger {run.card.version} {run.verdict.message}. {outcome}.")


def _random_split_metrics(
    use_case: UseCase, prepared: Prepared, parameters: Mapping[str, ParameterValue]
) -> Metrics:
    parts = shuffled(prepared.parts, seed=0)
    pipeline = fit(use_case, prepared.features, parts, parameters)
    return evaluate(use_case, parts["test"].labels, predict(use_case, pipeline, parts["test"]))


def _register(
    job: Job, prepared: Prepared, pipeline: Pipeline, evaluated: Evaluation, card: ModelCard
) -> None:
    """Publish the model with its plots, test predictions and reference rows."""
    train_part, test = prepared.parts["train"], prepared.parts["test"]
    predicted = evaluated.predictions["test"]
    names = prepared.dataset.features
    baselines = {name: parts["test"] for name, parts in evaluated.baseline_predictions.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [
            *draw(
                folder,
                job.use_case,
                test.labels,
                {"model": predicted, **baselines},
                importances(pipeline, names),
            ),
            write_predictions(
                folder / TEST_PREDICTIONS_FILE, job.use_case, job.domain, test, predicted
            ),
            write_reference(
                folder / REFERENCE_FILE, names, train_part, evaluated.predictions["train"]
            ),
        ]
        registry.publish(job.domain.home, card, pipeline, files, flat_metrics(evaluated.metrics))
