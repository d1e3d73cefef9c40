"""The comparison of the fast model with the registered pipeline on real and synthetic rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from inference.fast.pipeline import FEW_ROWS
from punctual.model_card import ModelCard, model_input

# Enough rows to reach most leaves; the comparison takes about 0.1 s.
_REFERENCE_ROWS = 1_000
_CATEGORIES = 200
# All synthetic rows and this many real rows are also predicted one at a time.
_SINGLE_ROWS = 100
_HUGE = 1e300

Predict = Callable[[np.ndarray, Sequence[Sequence[str | None]]], np.ndarray]


@dataclass(frozen=True)
class Inputs:
    """The rows as inputs of the pipeline and of the fast model.

    `rows` has a description of each row. The first `made` rows are synthetic.
    """

    frame: pd.DataFrame
    numbers: np.ndarray
    categories: list[list[str | None]]
    rows: list[str]
    made: int


@dataclass(frozen=True)
class Difference:
    """The largest difference: its row and batch size, and how many rows differ at that size."""

    row: str
    batching: str
    fast: float
    registered: float
    rows: int


def parity_inputs(card: ModelCard, reference: pa.Table) -> Inputs:
    """The card's parity rows, an even sample of the reference, and synthetic rows.

    A synthetic row is a real row with one change: a feature is missing, all features are missing,
    a number is huge, or a category is one of the known ones or unknown.
    """
    features = card.features
    kept = {
        feature.name: [row.features.get(feature.name) for row in card.parity_rows]
        for feature in features
    }
    chosen = np.unique(
        np.linspace(
            0, max(reference.num_rows - 1, 0), min(_REFERENCE_ROWS, reference.num_rows)
        ).astype(int)
    )
    sample = model_input(reference.take(pa.array(chosen)), features)
    base = pd.concat([sample, model_input(kept, features)], ignore_index=True)
    names = [
        *(f"row {at} of the reference" for at in chosen),
        *(f"parity row {at} of the card" for at in range(len(card.parity_rows))),
    ]
    changes: list[tuple[str, dict[str, object]]] = []
    nothing = {feature.name: None if feature.kind == "category" else np.nan for feature in features}
    for feature in features:
        changes.append((f"without {feature.name}", {feature.name: nothing[feature.name]}))
        if feature.kind == "number":
            changes += [
                (f"with {feature.name} = {huge:g}", {feature.name: huge})
                for huge in (_HUGE, -_HUGE)
            ]
        else:
            known = reference[feature.name].unique().drop_null().to_pylist()[:_CATEGORIES]
            changes += [
                (f"with {feature.name} = {value!r}", {feature.name: value})
                for value in [*known, "", "unknown to the encoder"]
            ]
    changes.append(("without any feature", dict(nothing)))
    # The changes apply to different rows: in a single row a feature may have no effect.
    from_row = (
        np.linspace(0, len(base) - 1, len(changes)).astype(int) if len(base) else np.empty(0, int)
    )
    columns = {name: base[name].to_numpy()[from_row] for name in base.columns}
    for at, (_, change) in enumerate(changes[: len(from_row)]):
        for name, value in change.items():
            columns[name][at] = value
    frame = pd.concat([pd.DataFrame(columns), base], ignore_index=True)
    made = [f"{names[row]}, {change}" for row, (change, _) in zip(from_row, changes, strict=False)]
    numbers = frame[[feature.name for feature in features if feature.kind == "number"]].to_numpy(
        np.float64
    )
    categories = [
        frame[feature.name].tolist() for feature in features if feature.kind == "category"
    ]
    return Inputs(frame, numbers, categories, [*made, *names], len(made))


def difference(inputs: Inputs, registered: np.ndarray, predict: Predict) -> Difference | None:
    """The largest difference from the registered pipeline's predictions, None if all are equal.

    The rows are predicted all at once, a few at a time, and one at a time.
    """
    rows = len(inputs.rows)
    for batching, size, until in (
        ("predicted all at once", max(rows, 1), rows),
        (f"predicted {FEW_ROWS} at a time", FEW_ROWS, rows),
        ("predicted one at a time", 1, min(rows, inputs.made + _SINGLE_ROWS)),
    ):
        parts = [slice(start, min(start + size, until)) for start in range(0, until, size)]
        answers = [
            predict(inputs.numbers[part], [each[part] for each in inputs.categories])
            for part in parts
        ]
        predicted = np.concatenate(answers or [np.empty(0)])
        expected = registered[:until]
        # Compared as bits, so that NaN equals NaN and zero differs from its negative.
        other = predicted.view(np.int64) != expected.view(np.int64)
        if other.any():
            apart = np.where(other, np.nan_to_num(np.abs(predicted - expected), nan=np.inf), -1.0)
            worst = int(np.argmax(apart))
            return Difference(
                inputs.rows[worst],
                batching,
                float(predicted[worst]),
                float(expected[worst]),
                int(other.sum()),
            )
    return None
