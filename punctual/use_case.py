"""What a domain may say about a use case, and where the platform keeps what it writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from punctual.errors import InvalidDeclaration, unknown_name
from punctual.events import Events
from punctual.times import aware, duration, duration_text

Task = Literal["binary", "regression"]
Metric = Literal["average_precision", "roc_auc", "log_loss", "brier", "rmse", "mae", "r2"]
LOWER_IS_BETTER = frozenset({"log_loss", "brier", "rmse", "mae"})
ParameterValue = int | float
_COUNT = "a whole number of at least 1"
_SHARE = "a number above 0 and at most 1"
_NOT_NEGATIVE = "a number of at least 0"
_IS_EXPECTED: dict[str, Callable[[ParameterValue], bool]] = {
    _COUNT: lambda value: isinstance(value, int) and value >= 1,
    _SHARE: lambda value: 0 < value <= 1,
    _NOT_NEGATIVE: lambda value: value >= 0,
}
# XGBoost's parameters that a recipe may give.
_RECIPE_PARAMETERS = {
    "n_estimators": _COUNT,
    "early_stopping_rounds": _COUNT,
    "learning_rate": _SHARE,
    "max_depth": _COUNT,
    "max_leaves": _COUNT,
    "max_bin": _COUNT,
    "min_child_weight": _NOT_NEGATIVE,
    "gamma": _NOT_NEGATIVE,
    "subsample": _SHARE,
    "colsample_bytree": _SHARE,
    "colsample_bylevel": _SHARE,
    "colsample_bynode": _SHARE,
    "reg_alpha": _NOT_NEGATIVE,
    "reg_lambda": _NOT_NEGATIVE,
    "max_delta_step": _NOT_NEGATIVE,
    "scale_pos_weight": _NOT_NEGATIVE,
}


@dataclass(frozen=True)
class Label:
    """What is to be predicted: a column of events that share the requests' id.

    `horizon` is how long after the prediction moment a label is waited for. It must cover the share
    `coverage` of label delays, or the quickly known outcomes would be over-represented. `reason`
    names the column that says why an outcome has no label.
    """

    column: str
    of: Events
    horizon: timedelta
    coverage: float = 0.995
    reason: str | None = None


@dataclass(frozen=True)
class TimeSplit:
    """Train, validation and test in order of time, with an embargo of the label's horizon between
    them.

    Durations count back from `as_of` minus the horizon. Whoever reports on fixed periods gives
    `until` instead: the ends of the three parts (aware UTC, exclusive).
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

        The training part is shorter at its end by the embargo, and so is the validation part, since
        their last labels become known only then.
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
class Recipe:
    """How the model of a use case is fitted.

    `parameters` are XGBoost's, by its names; a parameter that is left out has the value of
    `training/fit.py`, which suits data of any kind.
    """

    parameters: Mapping[str, ParameterValue] = field(default_factory=dict, hash=False)

    def problems(self) -> list[str]:
        """What is wrong with the parameters, a sentence each."""
        problems = []
        for name, value in self.parameters.items():
            expected = _RECIPE_PARAMETERS.get(name)
            if expected is None:
                problems.append(unknown_name("parameter", name, _RECIPE_PARAMETERS, "a recipe"))
            elif not _is_finite(value) or not _IS_EXPECTED[expected](value):
                problems.append(f"recipe parameter '{name}' is {value!r}, expected {expected}.")
        return problems


@dataclass(frozen=True)
class UseCase:
    """The one declaration the stages read.

    `requests` are the moments at which a prediction is asked for: an event each, with the join keys
    and the request columns; its `event_timestamp` is the prediction moment. The label's events bear
    the same ids.
    """

    name: str
    description: str
    task: Task
    feature_service: str
    requests: Events
    label: Label
    split: TimeSplit
    metric: Metric
    gate: Gate = Gate()
    recipe: Recipe = Recipe()
    threshold: float = 0.5
    optional_keys: tuple[str, ...] = ()
    describe_columns: tuple[str, ...] = ()
    limits: str = ""

    def better_by(self, challenger: float, other: float) -> float:
        """How much better the challenger is; positive is better, whichever way the metric points."""
        return other - challenger if self.metric in LOWER_IS_BETTER else challenger - other


def check_horizon(use_case: UseCase, delays_microseconds: Sequence[int]) -> None:
    """Raise `InvalidDeclaration` if the label's horizon covers too few of the delays seen
    (microseconds).
    """
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
                f"label horizon {duration_text(label.horizon)} covers {_percent(covered)} of label"
                " delays, "
                f"coverage asks for {_percent(label.coverage)}: use {needed} or more."
            ],
        )


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _percent(share: float) -> str:
    """A share that is too small never reads like the one asked for: cut, not rounded, and without
    needless zeros.
    """
    return f"{math.floor(share * 10_000 + 1e-9) / 100:g}%"
