"""Plots of a model on the test part, for the model registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn import metrics as skm

from punctual.use_case import UseCase


def draw(
    folder: Path,
    use_case: UseCase,
    labels: np.ndarray,
    predictions: dict[str, np.ndarray],
    importances: list[tuple[str, float]],
) -> list[Path]:
    """Draw the plots of the test part into a folder; returns their paths.

    `predictions` maps the name of the model, then of each baseline, to its predictions.
    `importances` has (feature, share) pairs, largest first.
    """
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    colours = ["#1f4e8c", "#8a8f98", "#c9ccd1"]
    paths: list[Path] = []

    def save(figure: Figure, name: str) -> None:
        figure.savefig(folder / name, dpi=120, bbox_inches="tight", facecolor="white")
        paths.append(folder / name)

    def axes(figure: Figure, number: int, title: str, x: str, y: str) -> Any:
        axis = figure.add_subplot(1, 2, number) if number else figure.add_subplot()
        axis.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
        return axis

    if use_case.task == "binary":
        figure = Figure(figsize=(11, 4.6))
        roc = axes(figure, 1, "ROC", "False positive rate", "True positive rate")
        precision_recall = axes(figure, 2, "Precision and recall", "Recall", "Precision")
        figure.subplots_adjust(wspace=0.28)
        for (name, predicted), colour in zip(predictions.items(), colours, strict=False):
            label = name.replace("_", " ")
            false_positive, true_positive, _ = skm.roc_curve(labels, predicted)
            roc.plot(
                false_positive,
                true_positive,
                color=colour,
                linewidth=1.8,
                label=f"{label}  {skm.roc_auc_score(labels, predicted):.3f}",
            )
            precision, recall, _ = skm.precision_recall_curve(labels, predicted)
            average = skm.average_precision_score(labels, predicted)
            # scikit-learn appends a last point that belongs to no threshold.
            precision_recall.plot(
                recall[:-1],
                precision[:-1],
                color=colour,
                linewidth=1.8,
                label=f"{label}  {average:.3f}",
            )
        # A constant prediction has a single point; a horizontal line makes that point visible.
        precision_recall.axhline(float(labels.mean()), color=colours[1], linewidth=1.8)
        precision_recall.set_ylim(0, 1.02)
        roc.set_ylim(0, 1.02)
        roc.legend(title="Area under curve", frameon=False, loc="lower right", alignment="left")
        precision_recall.legend(
            title="Average precision", frameon=False, loc="upper right", alignment="left"
        )
        save(figure, "roc_and_precision_recall.png")
        save(
            _calibration(axes, labels, next(iter(predictions.values())), colours), "calibration.png"
        )
    else:
        figure = Figure(figsize=(5.6, 5.2))
        scatter = axes(figure, 0, "Predicted and true", "Predicted", "True")
        predicted = next(iter(predictions.values()))
        scatter.scatter(predicted, labels, s=6, alpha=0.3, color=colours[0], linewidths=0)
        ends = [min(predicted.min(), labels.min()), max(predicted.max(), labels.max())]
        scatter.plot(ends, ends, color=colours[1], linewidth=1, linestyle="--")
        save(figure, "predicted_and_true.png")
    shown = importances[:20][::-1]
    figure = Figure(figsize=(8.5, 0.29 * max(len(shown), 3) + 1))
    bars = axes(figure, 0, "Feature importance: share of total gain", "Share", "")
    bars.barh(
        [name for name, _ in shown], [value for _, value in shown], color=colours[0], height=0.7
    )
    bars.tick_params(axis="y", labelsize=8, length=0)
    bars.grid(axis="y", visible=False)
    save(figure, "feature_importance.png")
    return paths


def _calibration(axes: Any, labels: np.ndarray, predicted: np.ndarray, colours: list[str]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 5.2))
    axis = axes(
        figure,
        0,
        "Calibration: ten groups of equal size",
        "Mean predicted probability",
        "Share that was true",
    )
    groups = np.array_split(np.argsort(predicted, kind="stable"), 10)
    means = [predicted[group].mean() for group in groups if len(group)]
    shares = [labels[group].mean() for group in groups if len(group)]
    limit = 1.08 * max(*means, *shares)
    axis.plot(
        [0, limit], [0, limit], color=colours[1], linewidth=1, linestyle="--", label="perfect"
    )
    axis.plot(
        means, shares, color=colours[0], linewidth=1.8, marker="o", markersize=4.5, label="model"
    )
    axis.set_xlim(0, limit)
    axis.set_ylim(0, limit)
    axis.legend(frameon=False, loc="upper left")
    return figure
