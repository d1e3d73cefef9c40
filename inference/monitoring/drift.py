"""Data drift and prediction drift: the distance of current rows from the training rows.

The population stability index (PSI) of a feature is `sum((current - reference) * ln(current /
reference))` over the shares of its bins. The bins are deciles of the reference for numbers, values
for categories, and one more for missing values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from punctual.model_card import ModelFeature
from punctual.times import micros

# Common limits of the PSI (Siddiqi, Credit Risk Scorecards, 2006): no significant change below
# 0.1, a large one from 0.25 on.
PSI_MODERATE, PSI_LARGE = 0.1, 0.25
# Without drift the expected PSI of 11 bins is about 10 / rows: 0.02 here, well below 0.1.
LEAST_ROWS = 500
# With this many rows in a window of the reference, the same noise is at most PSI_MODERATE.
_LEAST_WINDOW_ROWS = 100
_LEAST_WINDOWS = 5
# A quantile and not the maximum: a single extreme week must not hide later drift.
_USUAL = 0.95
_RARE = 0.01
# The logarithm needs a lower limit for empty bins. If it depended on the number of rows, longer
# windows would have a higher PSI.
_LEAST_SHARE = 0.001

Verdict = Literal["stable", "moderate", "large"]
_SEVERITY: dict[Verdict, int] = {"stable": 0, "moderate": 1, "large": 2}


@dataclass(frozen=True)
class Drift:
    """One feature's drift, or the prediction's.

    `usual` is the 95th percentile of the PSI of the reference's own windows with the length of the
    current window: a week differs from a year by its season, and a day by its weekday, without
    drift. It is None if the reference has too few rows or windows. The verdict is about the excess
    of `psi` over `usual`. `ks` is the Kolmogorov-Smirnov statistic, None for categories.
    """

    name: str
    kind: Literal["number", "category"]
    psi: float
    usual: float | None
    ks: float | None
    missing_reference: float
    missing_current: float
    verdict: Verdict


def drift(
    reference: pa.Table,
    current: pa.Table,
    features: Sequence[ModelFeature],
    moments: str,
    span: timedelta,
) -> list[Drift]:
    """Each feature's drift, the worst verdicts first, then the greatest PSI.

    `moments` is the reference's column of prediction moments, `span` the length of the current
    window.
    """
    windows = _windows(reference[moments], span)
    found = [
        _drift(feature, reference[feature.name], current[feature.name], windows)
        for feature in features
    ]
    return sorted(found, key=lambda each: (-_SEVERITY[each.verdict], -each.psi, each.name))


def verdict_of(excess: float) -> Verdict:
    """The verdict on a PSI minus its usual value."""
    return "stable" if excess < PSI_MODERATE else "moderate" if excess < PSI_LARGE else "large"


def psi(reference: np.ndarray, current: np.ndarray) -> float:
    """The PSI of two arrays of counts over the same bins; shares are at least 0.001."""
    shares = [np.maximum(counts / counts.sum(), _LEAST_SHARE) for counts in (reference, current)]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def ks(reference: np.ndarray, current: np.ndarray) -> float | None:
    """The greatest distance between two empirical distributions; None if one is empty."""
    if not len(reference) or not len(current):
        return None
    reference, current = np.sort(reference), np.sort(current)
    both = np.concatenate([reference, current])
    below = [
        np.searchsorted(values, both, side="right") / len(values) for values in (reference, current)
    ]
    return float(np.abs(below[0] - below[1]).max())


def psi_text(found: Drift) -> str:
    """The PSI and its usual value in words."""
    usual = (
        "its usual value is not known"
        if found.usual is None
        else f"usual in training is up to {found.usual:.2f}"
    )
    return f"PSI {found.psi:.2f}; {usual}"


def _drift(
    feature: ModelFeature,
    reference: pa.ChunkedArray,
    current: pa.ChunkedArray,
    windows: np.ndarray | None,
) -> Drift:
    sides = [_values(column, feature.kind) for column in (reference, current)]
    codes = _number_codes(*sides) if feature.kind == "number" else _category_codes(*sides)
    bins = int(max(side.max(initial=0) for side in codes)) + 1
    counts = [np.bincount(side, minlength=bins).astype(float) for side in codes]
    usual: float | None = None
    if windows is not None:
        size = int(windows.max()) + 1
        table = (
            np.bincount(windows * bins + codes[0], minlength=size * bins)
            .reshape(size, bins)
            .astype(float)
        )
        usual = float(
            np.quantile(
                [psi(counts[0], row) for row in table if row.sum() >= _LEAST_WINDOW_ROWS], _USUAL
            )
        )
    found = psi(counts[0], counts[1])
    missing = [float(np.mean(side == 0)) for side in codes]
    distance = ks(*(side[~np.isnan(side)] for side in sides)) if feature.kind == "number" else None
    return Drift(
        feature.name,
        feature.kind,
        found,
        usual,
        distance,
        missing[0],
        missing[1],
        verdict_of(found - (usual or 0.0)),
    )


def _values(column: pa.ChunkedArray, kind: str) -> np.ndarray:
    if kind == "number":
        return np.asarray(
            column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64
        )
    return np.array(column.to_pylist(), dtype=object)


def _number_codes(reference: np.ndarray, current: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bin 0 for missing values, then the reference's deciles; equal limits are merged."""
    present = reference[~np.isnan(reference)]
    limits = (
        np.unique(np.quantile(present, np.linspace(0.1, 0.9, 9))) if len(present) else np.array([])
    )
    codes = [
        np.where(np.isnan(side), 0, np.searchsorted(limits, side, side="left") + 1)
        for side in (reference, current)
    ]
    return codes[0], codes[1]


def _category_codes(reference: np.ndarray, current: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bin 0 for missing values, 1 for rare or unknown values of the reference, then each value."""
    values, counts = np.unique(
        [value for value in reference if value is not None], return_counts=True
    )
    frequent = [
        value
        for value, count in zip(values, counts, strict=True)
        if count >= _RARE * len(reference)
    ]
    number: dict[Any, int] = {None: 0, **{value: code for code, value in enumerate(frequent, 2)}}
    codes = [
        np.array([number.get(value, 1) for value in side], dtype=np.int64)
        for side in (reference, current)
    ]
    return codes[0], codes[1]


def _windows(moments: pa.ChunkedArray, span: timedelta) -> np.ndarray | None:
    """The number of each reference row's window of length `span`.

    None if too few windows have enough rows.
    """
    at = moments.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy(zero_copy_only=False)
    if not len(at) or span <= timedelta(0):
        return None
    windows = (at - at.min()) // micros(span)
    filled = np.bincount(windows) >= _LEAST_WINDOW_ROWS
    return windows if filled.sum() >= _LEAST_WINDOWS else None


def span_of(moments: pa.ChunkedArray) -> timedelta:
    """The time from the first moment to the last."""
    ends = pc.min_max(moments).as_py()
    first: datetime | None = ends["min"]
    return ends["max"] - first if first is not None else timedelta(0)
