"""One training run from a moment to a registered version, and the gate's verdict on it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureStore

from punctual.errors import GateRefused
from punctual.home import Home
from punctual.loaded_domain import LoadedDomain
from punctual.model_card import (
    REFERENCE_FILE,
    TEST_PREDICTIONS_FILE,
    ModelCard,
    model_features,
    model_input,
)
from punctual.plain import plain
from punctual.progress import Progress
from punctual.times import aware, duration_text, iso, micros, moment
from punctual.use_case import UseCase
from stores.models import read_card
from stores.offline import historical_features
from stores.tables import EVENT
from training import publish as registry
from training.card import flat_metrics, parity_rows, write_predictions, write_reference
from training.evaluate import evaluate, importances
from training.fit import PARAMETERS, fit, fit_baselines, predict
from training.gate import Verdict, judge
from training.plots import draw
from training.split import Part, shuffled, split
from training.training_set import (
    TrainingSet,
    training_set,
    view_fingerprints,
)


@dataclass(frozen=True)
class TrainingRun:
    """What a run made: the version's card, the gate's verdict, and whether it is champion now."""

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
    parameters: dict[str, Any] | None = None,
    random_split: bool = False,
) -> TrainingRun:
    """Train, evaluate, register, and promote if the gate lets it; a refused version stays as challenger.

    `until` gives the ends of the three parts for a report on fixed periods. `random_split` also scores the same
    model on rows dealt at random, as a warning of how a leak flatters.
    """
    as_of = aware(as_of)
    start = use_case.split.parts(as_of, use_case.label.horizon, until)["train"][0]
    progress.step("training set")
    made = training_set(store, domain, use_case, as_of=as_of, start=start)
    features = model_features(made.rows, made.features)
    parts = split(made, use_case, features, until)
    progress.step("baselines")
    baselines = fit_baselines(use_case, features, parts["train"])
    progress.step("model")
    pipeline = fit(use_case, features, parts, parameters)
    progress.step("evaluation")
    predictions = {name: predict(use_case, pipeline, part) for name, part in parts.items()}
    metrics = {
        name: evaluate(use_case, parts[name].labels, predictions[name])
        for name in ("validation", "test")
    }
    if random_split:
        progress.step("random split")
        dealt = shuffled(parts, seed=0)
        metrics["random_split_test"] = evaluate(
            use_case,
            dealt["test"].labels,
            predict(use_case, fit(use_case, features, dealt, parameters), dealt["test"]),
        )
    test_baselines = {
        name: predict(use_case, model, parts["test"]) for name, model in baselines.items()
    }
    baseline_metrics = {
        name: {
            part: evaluate(use_case, parts[part].labels, predict(use_case, model, parts[part]))
            for part in ("validation", "test")
        }
        for name, model in baselines.items()
    }
    trained_until = parts["validation"].end + use_case.label.horizon
    verdict = _verdict(
        store,
        domain,
        use_case,
        made,
        parts["test"],
        predictions["test"],
        test_baselines,
        trained_until,
    )
    card = ModelCard(
        use_case=use_case.name,
        description=use_case.description,
        task=use_case.task,
        version="",
        run_id="",
        as_of=iso(as_of) or "",
        trained_until=iso(trained_until) or "",
        feature_service=use_case.feature_service,
        view_fingerprints=view_fingerprints(domain, use_case),
        features=features,
        label=use_case.label.column,
        label_horizon=duration_text(use_case.label.horizon),
        threshold=use_case.threshold,
        metric=use_case.metric,
        training_set=made.manifest(),
        split={name: part.describe() for name, part in parts.items()},
        parameters={
            **PARAMETERS,
            **(parameters or {}),
            "best_iteration": int(pipeline.named_steps["model"].best_iteration),
        },
        metrics=plain(metrics),
        baselines=plain(baseline_metrics),
        gate=plain(verdict),
        libraries=registry.libraries(),
        parity_rows=parity_rows(parts["test"], predictions["test"]),
        limits=use_case.limits,
    )
    progress.step("registry")
    with tempfile.TemporaryDirectory() as folder:
        files = draw(
            domain.home,
            Path(folder),
            use_case,
            parts["test"].labels,
            {"model": predictions["test"], **test_baselines},
            importances(pipeline, made.features),
        )
        files.append(
            write_predictions(
                Path(folder) / TEST_PREDICTIONS_FILE,
                use_case,
                domain,
                parts["test"],
                predictions["test"],
            )
        )
        files.append(
            write_reference(
                Path(folder) / REFERENCE_FILE, made.features, parts["train"], predictions["train"]
            )
        )
        published = registry.publish(
            domain.home,
            card,
            pipeline,
            files,
            flat_metrics(metrics),
            [f"{name}=={number}" for name, number in card.libraries.items()],
        )
    if verdict.passed:
        registry.promote(domain.home, use_case.name, published.version)
    return TrainingRun(card, verdict, verdict.passed)


def raise_if_refused(home: Home, run: TrainingRun) -> None:
    """Raise `GateRefused` with the reasons, where the gate refused."""
    if not run.promoted:
        champion = registry.champion_version(home, run.card.use_case)
        fate = f"Champion {champion} unchanged" if champion else "There is still no champion"
        raise GateRefused(f"challenger {run.card.version} {run.verdict.message}. {fate}.")


def _verdict(
    store: FeatureStore,
    domain: LoadedDomain,
    use_case: UseCase,
    made: TrainingSet,
    test: Part,
    predicted: np.ndarray,
    baselines: dict[str, np.ndarray],
    trained_until: datetime,
) -> Verdict:
    """The gate's verdict on the rows of the test part that are later than the challenger's and the champion's training."""
    version = registry.champion_version(domain.home, use_case.name)
    champion = read_card(domain.home, use_case.name, version) if version else None
    since = max(trained_until, moment(champion.trained_until)) if champion else trained_until
    later = test.rows[EVENT].cast(pa.int64()).to_numpy() >= micros(since)
    labels = test.labels[later]
    if len(labels) == 0 or (use_case.task == "binary" and len(np.unique(labels)) < 2):
        return judge(use_case, float("nan"), {}, rows=len(labels))

    def score(values: np.ndarray) -> float:
        return float(evaluate(use_case, labels, values[later])[use_case.metric])

    champion_score = None
    if champion and version:
        rows = test.rows
        if any(feature.name not in rows.column_names for feature in champion.features):
            entity_rows = rows.select([*use_case.requests.columns, EVENT, "at"])
            rows = historical_features(
                store,
                entity_rows,
                store.get_feature_service(champion.feature_service),
                as_of=made.as_of,
            )
        part = Part(
            "test", test.start, test.end, rows, model_input(rows, champion.features), test.labels
        )
        champion_score = score(
            predict(use_case, registry.load_pipeline(domain.home, use_case.name, version), part)
        )
    return judge(
        use_case,
        score(predicted),
        {name: score(values) for name, values in baselines.items()},
        rows=int(later.sum()),
        champion=champion_score,
        champion_version=version,
    )
