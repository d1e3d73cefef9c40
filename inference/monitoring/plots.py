"""The plots of a monitoring report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from inference.monitoring.drift import PSI_LARGE, PSI_MODERATE, Drift, psi_text
from inference.monitoring.live import LEAST_LABELLED, Outcomes
from punctual.model_card import PREDICTION_COLUMN, ModelCard

REFERENCE_COLOUR, CURRENT_COLOUR, USUAL_COLOUR = "#8a8f98", "#1f4e8c", "#c9ccd1"
VERDICT_COLOURS = {"stable": "#7d9cc4", "moderate": "#d99a2b", "large": "#b5352b"}
_BARS = 20
_SMALL = 6
_VALUES = 8


def draw(
    folder: Path,
    card: ModelCard,
    reference: pa.Table,
    current: pa.Table,
    prediction: Drift | None,
    data: Sequence[Drift],
    found: Outcomes,
) -> list[Path]:
    """Draw the plots for which there are enough rows into the folder; return the files."""
    paths: list[Path] = []
    if prediction is not None:
        paths.append(_predictions(folder / "predictions.png", card, reference, current, prediction))
        paths.append(_data_drift(folder / "data_drift.png", data))
        paths.append(_features(folder / "features.png", reference, current, data[:_SMALL]))
    if len(found.labels) >= LEAST_LABELLED:
        paths.append(_live(folder / "live.png", card, found))
    return paths


def _axes(figure: Any, position: tuple[int, int, int], title: str, x: str, y: str) -> Any:
    axis = figure.add_subplot(*position)
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)
    return axis


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=120, bbox_inches="tight", facecolor="white")
    return path


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    values = np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    return values[np.isfinite(values)]


def _histograms(
    axis: Any, sides: Sequence[np.ndarray], limits: tuple[float, float], bins: int
) -> None:
    """Histograms of shares of rows; values outside the limits are in the first or last bin."""
    edges = np.linspace(*limits, bins + 1)
    for values, colour, label in zip(
        sides, (REFERENCE_COLOUR, CURRENT_COLOUR), ("training", "now"), strict=True
    ):
        if not len(values):
            continue
        shares = np.histogram(np.clip(values, *limits), edges)[0] / len(values)
        filled = colour == REFERENCE_COLOUR
        axis.stairs(
            shares,
            edges,
            color=colour,
            fill=filled,
            alpha=0.45 if filled else 1.0,
            linewidth=1.6,
            label=f"{label} ({len(values):,})",
        )


def _predictions(
    path: Path, card: ModelCard, reference: pa.Table, current: pa.Table, found: Drift
) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2))
    title = f"Predictions of version {card.version}: {psi_text(found)}"
    axis = _axes(
        figure,
        (1, 1, 1),
        title,
        "Predicted probability" if card.task == "binary" else "Prediction",
        "Share of rows",
    )
    sides = [_numbers(table[PREDICTION_COLUMN]) for table in (reference, current)]
    together = np.concatenate(sides)
    limits = (
        (0.0, 1.0)
        if card.task == "binary"
        else (float(np.quantile(together, 0.005)), float(np.quantile(together, 0.995)))
    )
    _histograms(
        axis, sides, limits if limits[1] > limits[0] else (limits[0] - 0.5, limits[0] + 0.5), 40
    )
    if card.task == "binary":
        axis.axvline(
            card.threshold,
            color="#333333",
            linewidth=1,
            linestyle="--",
            label=f"threshold {card.threshold:g}",
        )
    axis.legend(frameon=False)
    return _save(figure, path)


def _data_drift(path: Path, data: Sequence[Drift]) -> Path:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shown = list(data[:_BARS])[::-1]
    figure = Figure(figsize=(9, 0.3 * len(shown) + 1.4))
    title = f"Data drift: the first {len(shown)} of {len(data)} features"
    axis = _axes(figure, (1, 1, 1), title, "Population stability index, on a square-root scale", "")
    positions = np.arange(len(shown))
    axis.barh(
        positions,
        [each.psi for each in shown],
        color=[VERDICT_COLOURS[each.verdict] for each in shown],
        height=0.62,
    )
    mark: dict[str, Any] = {"color": "black", "marker": "|", "s": 110, "linewidths": 1.6}
    known = [
        (each.usual, position)
        for each, position in zip(shown, positions, strict=True)
        if each.usual is not None
    ]
    axis.scatter(
        [usual for usual, _ in known], [position for _, position in known], zorder=3, **mark
    )
    axis.set_xscale("function", functions=(_root, np.square))
    longest = max(max(each.psi, each.usual or 0.0) for each in shown)
    axis.set_xlim(0, 1.05 * max(longest, PSI_LARGE))
    axis.set_xticks(
        [
            tick
            for tick in (0, 0.02, PSI_MODERATE, PSI_LARGE, 0.5, 1, 2, 4, 8)
            if tick <= 1.05 * max(longest, PSI_LARGE)
        ]
    )
    axis.set_yticks(positions, [each.name for each in shown], fontsize=8)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    axis.set_ylim(-0.7, len(shown) - 0.3)
    keys: list[Any] = [
        Patch(color=colour, label=_MEANING[name]) for name, colour in VERDICT_COLOURS.items()
    ]
    if known:
        keys.append(
            axis.scatter(
                [],
                [],
                label="usual: 95th percentile of training windows of the same length",
                **mark,
            )
        )
    axis.legend(handles=keys, frameon=False, loc="lower right", fontsize=8)
    return _save(figure, path)


def _root(values: Any) -> Any:
    return np.sqrt(np.maximum(values, 0.0))


_MEANING = {
    "stable": f"less than {PSI_MODERATE:g} above usual",
    "moderate": f"{PSI_MODERATE:g} to {PSI_LARGE:g} above usual",
    "large": f"{PSI_LARGE:g} or more above usual",
}


def _features(path: Path, reference: pa.Table, current: pa.Table, data: Sequence[Drift]) -> Path:
    from matplotlib.figure import Figure

    rows = -(-len(data) // 3)
    figure = Figure(figsize=(12, 2.9 * rows))
    figure.subplots_adjust(hspace=0.5, wspace=0.28)
    for number, each in enumerate(data, start=1):
        axis = _axes(figure, (rows, 3, number), "", "", "Share" if number % 3 == 1 else "")
        view, _, feature = each.name.partition("__")
        axis.set_title(f"{feature}\n", loc="left", fontsize=9, fontweight="bold")
        has_missing = max(each.missing_reference, each.missing_current) >= 0.005
        missing = (
            f", missing {each.missing_reference:.0%} in training, {each.missing_current:.0%} now"
            if has_missing
            else ""
        )
        axis.text(
            0,
            1.03,
            f"{view}: PSI {each.psi:.2f}{missing}",
            transform=axis.transAxes,
            fontsize=8,
            color="#555555",
        )
        if each.kind == "number":
            sides = [_numbers(table[each.name]) for table in (reference, current)]
            together = np.concatenate(sides)
            limits = (
                (float(np.quantile(together, 0.005)), float(np.quantile(together, 0.995)))
                if len(together)
                else (0.0, 1.0)
            )
            _histograms(
                axis,
                sides,
                limits if limits[1] > limits[0] else (limits[0] - 0.5, limits[0] + 0.5),
                30,
            )
        else:
            _categories(axis, [table[each.name].to_pylist() for table in (reference, current)])
        if number == 1:
            axis.legend(frameon=False, fontsize=8)
    return _save(figure, path)


def _categories(axis: Any, sides: Sequence[list[Any]]) -> None:
    """Bars of the shares of the most frequent values, among them missing values."""
    counts = [
        Counter("missing" if value is None else str(value) for value in side) for side in sides
    ]
    shares = [
        {name: count / len(side) for name, count in counted.items()}
        for counted, side in zip(counts, sides, strict=True)
    ]
    names = sorted(
        {*shares[0], *shares[1]},
        key=lambda name: (-max(share.get(name, 0.0) for share in shares), name),
    )[:_VALUES]
    positions = np.arange(len(names))
    styles = ((-0.2, REFERENCE_COLOUR, "training"), (0.2, CURRENT_COLOUR, "now"))
    for (offset, colour, label), share, side in zip(styles, shares, sides, strict=True):
        axis.bar(
            positions + offset,
            [share.get(name, 0.0) for name in names],
            0.38,
            color=colour,
            label=f"{label} ({len(side):,})",
        )
    axis.set_xticks(
        positions,
        [name if len(name) <= 10 else f"{name[:9]}…" for name in names],
        rotation=35,
        ha="right",
        fontsize=7,
    )


def _live(path: Path, card: ModelCard, found: Outcomes) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 5.2))
    binary = card.task == "binary"
    x, y = (
        ("Mean predicted probability", "Share of true labels")
        if binary
        else ("Mean prediction", "Mean label")
    )
    axis = _axes(
        figure,
        (1, 1, 1),
        f"Predictions and labels: {len(found.labels):,} predictions in ten groups",
        x,
        y,
    )
    groups = np.array_split(np.argsort(found.predictions, kind="stable"), 10)
    means = np.array([found.predictions[group].mean() for group in groups])
    label_means = np.array([found.labels[group].mean() for group in groups])
    errors = np.array([1.96 * found.labels[group].std() / np.sqrt(len(group)) for group in groups])
    ends = [min(0.0, *means, *(label_means - errors)), 1.05 * max(*means, *(label_means + errors))]
    axis.plot(ends, ends, color=REFERENCE_COLOUR, linewidth=1, linestyle="--", label="perfect")
    style: dict[str, Any] = {
        "color": CURRENT_COLOUR,
        "linewidth": 1.6,
        "marker": "o",
        "markersize": 4.5,
        "capsize": 2,
    }
    axis.errorbar(means, label_means, yerr=errors, label="live, with 95 % intervals", **style)
    axis.set_xlim(*ends)
    axis.set_ylim(*ends)
    axis.legend(frameon=False, loc="upper left")
    return _save(figure, path)
