"""Splits rows by time into train, validation and test, with an embargo of the label's horizon."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa

from punctual.errors import NotEnoughData
from punctual.model_card import ModelFeature, SplitPart, model_input
from punctual.times import iso, micros
from punctual.use_case import UseCase
from stores.tables import EVENT
from training.training_set import LABEL, TrainingSet

# With fewer rows in a part, its scores are mostly noise.
MIN_ROWS = 50


@dataclass(frozen=True)
class Part:
    """One part of a training set: the rows with a prediction time in `[start, end)`.

    `inputs` are the model's input columns, `labels` are float64; both in row order.
    """

    name: str
    start: datetime
    end: datetime
    rows: pa.Table
    inputs: pd.DataFrame
    labels: np.ndarray

    def describe(self) -> SplitPart:
        """The part as a model card describes it."""
        mean = float(self.labels.mean()) if len(self.labels) else None
        return SplitPart(iso(self.start), iso(self.end), self.rows.num_rows, mean)


def split(
    dataset: TrainingSet,
    use_case: UseCase,
    features: list[ModelFeature],
    until: tuple[datetime, datetime, datetime] | None = None,
) -> dict[str, Part]:
    """The three parts of a training set by the use case's split, or by the given ends.

    Raises `NotEnoughData` if a part has too few rows, or only one value of a binary label.
    """
    parts = use_case.split.parts(dataset.as_of, use_case.label.horizon, until)
    times_us = dataset.rows[EVENT].cast(pa.int64()).to_numpy()
    split_parts: dict[str, Part] = {}
    problems: list[str] = []
    for name, (start, end) in parts.items():
        rows = dataset.rows.filter(pa.array((times_us >= micros(start)) & (times_us < micros(end))))
        part = part_of(name, start, end, rows, features)
        split_parts[name] = part
        if rows.num_rows < MIN_ROWS:
            problems.append(
                f"{name} ({iso(start)} to {iso(end)}) has {rows.num_rows} rows, needs {MIN_ROWS}"
            )
        elif use_case.task == "binary" and len(np.unique(part.labels)) < 2:
            problems.append(
                f"{name} ({iso(start)} to {iso(end)}) has only the label {bool(part.labels[0])}"
            )
    if problems:
        raise NotEnoughData(
            f"the split of '{use_case.name}' has too little data: {'; '.join(problems)}. Choose"
            " other durations or a later --as-of."
        )
    return split_parts


def part_of(
    name: str, start: datetime, end: datetime, rows: pa.Table, features: list[ModelFeature]
) -> Part:
    """Rows as a part, with the model's input and labels as float64."""
    labels = rows[LABEL].cast(pa.float64()).to_numpy()
    return Part(name, start, end, rows, model_input(rows, features), labels)


def shuffled(parts: dict[str, Part], seed: int) -> dict[str, Part]:
    """The same rows assigned at random to parts of the same sizes, which leaks the future."""
    names = list(parts)
    inputs = pd.concat([parts[name].inputs for name in names], ignore_index=True)
    labels = np.concatenate([parts[name].labels for name in names])
    rows = pa.concat_tables([parts[name].rows for name in names])
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled_parts: dict[str, Part] = {}
    first = 0
    for name in names:
        chosen = order[first : first + len(parts[name].labels)]
        first += len(chosen)
        shuffled_parts[name] = Part(
            name,
            parts[name].start,
            parts[name].end,
            rows.take(chosen),
            inputs.iloc[chosen],
            labels[chosen],
        )
    return shuffled_parts
