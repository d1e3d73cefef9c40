"""The printed tables of the `predict` and `monitor` commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from punctual.command_line import show_table
from punctual.times import duration_text, iso

if TYPE_CHECKING:
    from inference.monitoring.report import Report

_DRIFTS_SHOWN = 10


def show_answer(answer: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows with their predictions; for a single row also the views it was made from."""
    predictions = answer["predictions"]
    outcome = [name for name in ("probability", "prediction", "decision") if name in predictions[0]]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    unknown = [
        ", ".join(
            f"{key} {value}" for entity in each["unknown"] for key, value in entity["keys"].items()
        )
        for each in predictions
    ]
    limit = f"; decided at {answer['threshold']:g}" if "threshold" in answer else ""
    show_table(
        f"{answer['use_case']}, version {answer['model']['version']}, at {answer['at']}{limit}",
        [*columns, *outcome, *(["unknown"] if any(unknown) else [])],
        [
            [
                *(_text(row.get(name)) for name in columns),
                *(_text(each[name]) for name in outcome),
                *([keys] if any(unknown) else []),
            ]
            for row, each, keys in zip(rows, predictions, unknown, strict=True)
        ],
    )
    if len(predictions) == 1:
        views = predictions[0]["views"]
        ages = [
            [name, view["status"], _hours(view["age_seconds"]), view["is_stale"]]
            for name, view in views.items()
        ]
        show_table("Views read", ["view", "status", "age", "stale"], ages)


def _text(value: Any) -> Any:
    # Integers as text: a flight number is a name, so it gets no thousands separators.
    return (
        f"{value:.3f}"
        if isinstance(value, float)
        else value
        if value is None or isinstance(value, bool)
        else str(value)
    )


def _hours(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 3600:.1f} h"


def show_report(report: Report) -> None:
    """Print drift, live score and freshness, then what needs attention."""
    drifts = ([report.prediction_drift] if report.prediction_drift else []) + report.data_drift
    judged = f"{report.rows:,} predictions ({report.source}) since {iso(report.since)}"
    click.echo(
        f"{report.use_case}, version {report.model_version}, at {iso(report.as_of)}: {judged}."
    )
    if drifts:
        show_table(
            "Drift: PSI; usual is the 95th percentile of training windows of the same length",
            ["", "PSI", "usual", "KS", "missing in training", "missing now", "verdict"],
            [
                [
                    each.name,
                    *map(
                        _digits,
                        (
                            each.psi,
                            each.usual,
                            each.ks,
                            each.missing_reference,
                            each.missing_current,
                        ),
                    ),
                    each.verdict,
                ]
                for each in drifts[:_DRIFTS_SHOWN]
            ],
        )
    live = report.live
    values = (
        live.score,
        live.low,
        live.high,
        live.test_score,
        live.label_mean,
        live.prediction_mean,
    )
    show_table(
        "Live score: predictions whose label is known",
        [
            "metric",
            "rows",
            "score",
            "from",
            "to",
            "on the test part",
            "label mean",
            "prediction mean",
        ],
        [[live.metric.replace("_", " "), live.rows, *(_digits(value) for value in values)]],
    )
    if live.left_out:
        click.echo(
            "Left out: "
            + ", ".join(f"{count:,} {reason}" for reason, count in live.left_out.items())
            + "."
        )
    show_table(
        "Freshness",
        ["view", "every", "built until", "online until", "stale"],
        [
            [
                each.view,
                duration_text(each.every) if each.every else "",
                each.built_until,
                each.materialized_until,
                each.is_stale(report.as_of),
            ]
            for each in report.freshness
        ],
    )
    for note in report.notes:
        click.echo(f"Note: {note}.")
    click.echo(f"Files: {', '.join(str(path) for path in report.files)}")
    click.secho(
        "\n".join(f"Needs attention: {reason}." for reason in report.reasons)
        or "Nothing needs attention.",
        bold=True,
    )


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
