"""What a domain may say about a use case, and where the platform keeps what it writes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from punctual.errors import InvalidDeclaration
from punctual.events import Events
from punctual.times import aware, duration, duration_text

Metric = Literal["average_precision", "roc_auc", "log_loss", "brier", "rmse", "mae", "r2"]
LOWER_IS_BETTER = frozenset({"log_loss", "brier", "rmse", "mae"})


@dataclass(frozen=True)
class Label:
    """What is to be predicted: a column of events that share the requests' id.

    `horizon` is how long after the prediction moment a label is waited for. It must cover the share `coverage`
    of label delays, or the quickly known outcomes would be over-represented. `reason` names the column that
    says why an outcome has no label.
    """

    column: str
    of: Events
    horizon: timedelta
    coverage: float = 0.995
    reason: str | None = None


@dataclass(frozen=True)
class TimeSplit:
    """Train, validation and test in order of time, with an embargo of the label's horizon between them.

    Durations count back from `as_of` minus the horizon. Whoever reports on fixed periods gives `until` instead:
    the ends of the three parts (aware UTC, exclusive).
    """

    train: str | timedelta
    validation: str | timedelta
    test: str | timedelta

    def parts(
        self,
        as_of: datetime,
        horizon: timedelta,
        until: tuple[datetime, datetime, datetime] | None = None,
    ) -> dict[str, tuple[datetime, datetime]]:
        """`[start, end)` of the prediction moments of each part.

        The training part is shorter at its end by the embargo, and so is the validation part, since their last
        labels become known only then.
        """
        train, validation, test = (
            duration(part) for part in (self.train, self.validation, self.test)
        )
        if until is None:
            test_end = aware(as_of) - horizon
            validation_end = test_end - test
            train_end = validation_end - validation
        else:
            train_end, validation_end, test_end = (aware(moment) for moment in until)
        return {
            "train": (train_end - train, train_end - horizon),
            "validation": (train_end, validation_end - horizon),
            "test": (validation_end, test_end),
        }


@dataclass(frozen=True)
class Gate:
    """What a challenger must show, on rows later than its own and the champion's training."""

    beats_champion_by: float = 0.0
    beats_baseline_by: float = 0.0
    minimum_rows: int = 500


@dataclass(frozen=True)
class UseCase:
    """The one declaration the stages read.

    `requests` are the moments at which a prediction is asked for: an event each, with the join keys and the
    request columns; its `event_timestamp` is the prediction moment. The label's events bear the same ids.
    """

    name: str
    description: str
    task: Literal["binary", "regression"]
    feature_service: str
    requests: Events
    label: Label
    split: TimeSplit
    metric: Metric
    gate: Gate = Gate()
    threshold: float = 0.5
    optional_keys: tuple[str, ...] = ()
    describe_columns: tuple[str, ...] = ()
    limits: str = ""

    def better_by(self, challenger: float, other: float) -> float:
        """How much better the challenger is; positive is better, whichever way the metric points."""
        return other - challenger if self.metric in LOWER_IS_BETTER else challenger - other


def check_horizon(use_case: UseCase, delays_microseconds: Sequence[int]) -> None:
    """Raise `InvalidDeclaration` if the label's horizon covers too few of the delays seen (microseconds)."""
    if not delays_microseconds:
        return
    label = use_case.label
    ordered = sorted(delays_microseconds)
    horizon = label.horizon // timedelta(microseconds=1)
    covered = sum(delay <= horizon for delay in ordered) / len(ordered)
    if covered < label.coverage:
        needed_micros = ordered[min(len(ordered) - 1, int(label.coverage * len(ordered)))]
        needed = duration_text(timedelta(hours=-(-needed_micros // 3_600_000_000)))
        raise InvalidDeclaration(
            f"use case '{use_case.name}'",
            [
                f"label horizon {duration_text(label.horizon)} covers {_percent(covered)} of label delays, "
                f"coverage asks for {_percent(label.coverage)}: use {needed} or more."
            ],
        )


def _percent(share: float) -> str:
    """A share that is too small never reads like the one asked for: cut, not rounded, and without needless zeros."""
    return f"{math.floor(share * 10_000 + 1e-9) / 100:g}%"
