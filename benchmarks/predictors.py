"""A model like that of the flights, trained on generated data, and ways to predict with it."""

from __future__ import annotations

import hashlib
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd

from benchmarks.harness import Outcome, Work, latencies
from inference.fast.pipeline import FastModel
from punctual.model_card import ModelCard, ModelFeature

MODEL_FILE = "model.pickle"
NUMBERS = [f"number_{number:02d}" for number in range(60)]
CATEGORIES = [f"category_{number}" for number in range(5)]
FEATURES = [
    *(ModelFeature(name, "number") for name in NUMBERS),
    *(ModelFeature(name, "category") for name in CATEGORIES),
]
ASKED_ROWS = 3_000
# Calls before timing starts.
_WARM_UP_CALLS = 20


def make(folder: Path, *, rows: int, rounds: int) -> tuple[int, int]:
    """Train on generated rows for at most `rounds` rounds; write the pipeline and rows to predict.

    Returns the numbers of trees and nodes that predict.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder, StandardScaler
    from xgboost import XGBClassifier

    train, labels = _made(rows, seed=0)
    validation, seen = _made(rows // 3, seed=1)
    encode = OrdinalEncoder(
        handle_unknown="use_encoded_value",
        unknown_value=-1,
        encoded_missing_value=-2,
        min_frequency=20,
    )
    prepare = ColumnTransformer(
        [("numbers", StandardScaler(), NUMBERS), ("categories", encode, CATEGORIES)]
    )
    model = XGBClassifier(
        n_estimators=rounds,
        learning_rate=0.02,
        max_depth=9,
        min_child_weight=20,
        subsample=0.6,
        colsample_bytree=0.25,
        max_bin=128,
        early_stopping_rounds=40,
        random_state=0,
        n_jobs=1,
    )
    inputs = prepare.fit_transform(train)
    model.fit(inputs, labels, eval_set=[(prepare.transform(validation), seen)], verbose=False)
    folder.mkdir(parents=True, exist_ok=True)
    requested = _made(ASKED_ROWS, seed=2)[0]
    (folder / MODEL_FILE).write_bytes(
        pickle.dumps((Pipeline([("preprocess", prepare), ("model", model)]), requested))
    )
    trees = model.best_iteration + 1
    return trees, len(model.get_booster()[:trees].trees_to_dataframe())


def _made(rows: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows with 10% of the numbers missing and with rare categories, and labels that depend weakly
    on many columns.
    """
    random = np.random.default_rng(seed)
    numbers = random.normal(size=(rows, len(NUMBERS)))
    weights = np.random.default_rng(7).normal(size=len(NUMBERS)) * 0.3
    signal = (
        np.tanh(numbers) @ weights + numbers[:, 0] * numbers[:, 1] * 0.5 + np.sin(3 * numbers[:, 2])
    )
    frame = dict(zip(NUMBERS, (numbers * 40 + 100).T, strict=True))
    for values in frame.values():
        values[random.random(rows) < 0.1] = np.nan
    columns: dict[str, np.ndarray] = {**frame}
    for name in CATEGORIES:
        drawn = np.minimum(random.geometric(0.15, rows), 60)
        signal = signal + np.sin(drawn) * 0.3
        columns[name] = np.array(
            [None if code == 3 else f"kind {code}" for code in drawn.tolist()], object
        )
    labels = (signal + random.logistic(size=rows) > 1).astype(np.float64)
    return pd.DataFrame(columns), labels


def sklearn(folder: str, rows: int, calls: int) -> Work:
    """The registered pipeline on a prepared frame."""
    pipeline, requested = _model(folder)
    frames = [requested.iloc[part] for part in _parts(rows, calls)]
    return _work(lambda call: pipeline.predict_proba(frames[call])[:, 1], rows, calls)


def inplace_predict(folder: str, rows: int, calls: int) -> Work:
    """XGBoost alone, on a matrix that is already scaled and encoded."""
    pipeline, requested = _model(folder)
    model = pipeline.named_steps["model"]
    booster, until = model.get_booster(), model.best_iteration + 1
    matrix = np.ascontiguousarray(
        pipeline.named_steps["preprocess"].transform(requested), np.float32
    )
    parts = [matrix[part] for part in _parts(rows, calls)]
    return _work(
        lambda call: booster.inplace_predict(
            parts[call], iteration_range=(0, until), validate_features=False
        ),
        rows,
        calls,
    )


def ours(folder: str, rows: int, calls: int) -> Work:
    """Our fast model, from plain numbers and categories."""
    pipeline, requested = _model(folder)
    # `FastModel.of` reads only the task and the features of the card.
    fast = FastModel.of(
        cast("ModelCard", SimpleNamespace(task="binary", features=FEATURES)), pipeline
    )
    if fast is None:
        raise ValueError("the fast model does not know the shape of this pipeline")
    numbers, categories = (
        requested[NUMBERS].to_numpy(np.float64),
        [requested[name].tolist() for name in CATEGORIES],
    )
    parts = [
        (np.ascontiguousarray(numbers[part]), [each[part] for each in categories])
        for part in _parts(rows, calls)
    ]
    return _work(lambda call: fast.predict(*parts[call]), rows, calls)


def _model(folder: str) -> tuple[Any, pd.DataFrame]:
    pipeline, requested = pickle.loads((Path(folder) / MODEL_FILE).read_bytes())
    # As the server does: more threads slow down requests of a few rows.
    pipeline.named_steps["model"].get_booster().set_param({"nthread": 1})
    return pipeline, requested


def _parts(rows: int, calls: int) -> list[slice]:
    """The rows of each call: the same for all contenders, different in each call."""
    starts = [call * max(rows, 7) % (ASKED_ROWS - rows + 1) for call in range(calls)]
    return [slice(start, start + rows) for start in starts]


def _work(predict: Callable[[int], Any], rows: int, calls: int) -> Work:
    for call in range(min(_WARM_UP_CALLS, calls)):
        predict(call)

    def run() -> tuple[list[Any], list[float]]:
        answers, seconds = [], []
        for call in range(calls):
            start = time.perf_counter()
            answers.append(predict(call))
            seconds.append(time.perf_counter() - start)
        return answers, seconds

    def outcome(result: tuple[list[Any], list[float]]) -> Outcome:
        answers, seconds = result
        total = hashlib.sha256(np.concatenate(answers).astype(np.float64).tobytes())
        return Outcome(rows * calls, total.hexdigest()[:16], latencies(seconds))

    return Work(run, outcome)
