"""Use cases: what is predicted, how the model is trained, and when it may be promoted."""

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
_POSITIVE_INTEGER = "a whole number of at least 1"
_POSITIVE_SHARE = "a number above 0 and at most 1"
_NOT_NEGATIVE = "a number of at least 0"
_IS_VALID: dict[str, Callable[[ParameterValue], bool]] = {
    _POSITIVE_INTEGER: lambda value: isinstance(value, int) and value >= 1,
    _POSITIVE_SHARE: lambda value: 0 < value <= 1,
    _NOT_NEGATIVE: lambda value: value >= 0,
}
# XGBoost's parameters that a recipe may set, and the values that each accepts.
_RECIPE_PARAMETERS = {
    "n_estimators": _POSITIVE_INTEGER,
    "early_stopping_rounds": _POSITIVE_INTEGER,
    "learning_rate": _POSITIVE_SHARE,
    "max_depth": _POSITIVE_INTEGER,
    "max_leaves": _POSITIVE_INTEGER,
    "max_bin": _POSITIVE_INTEGER,
    "min_child_weight": _NOT_NEGATIVE,
    "gamma": _NOT_NEGATIVE,
    "subsample": _POSITIVE_SHARE,
    "colsample_bytree": _POSITIVE_SHARE,
    "colsample_bylevel": _POSITIVE_SHARE,
    "colsample_bynode": _POSITIVE_SHARE,
    "reg_alpha": _NOT_NEGATIVE,
    "reg_lambda": _NOT_NEGATIVE,
    "max_delta_step": _NOT_NEGATIVE,
    "scale_pos_weight": _NOT_NEGATIVE,
}


@dataclass(frozen=True)
class Label:
    """The value to predict: a column of events that have the same `id` as the requests.

    - `column`: the column of `of` with the label: BOOLEAN or integer for a binary task; integer,
      DECIMAL, FLOAT or DOUBLE for a regression. A request whose label is null has no label.
    - `of`: the events with the outcomes; their `id` columns are those of the requests.
    - `horizon`: how long after the prediction moment a label is awaited, more than 0. A training
      set as of `t` has only requests made at `t - horizon` or earlier, and no label that becomes
      known after `t`.
    - `coverage`: the share of labels, above 0 and at most 1, that must become known within
      `horizon`; default 0.995. A build raises `InvalidDeclaration` if fewer do, since outcomes
      that become known quickly would be over-represented in training.
    - `reason`: the column of `of` that says why an outcome has no label. Training counts requests
      without a label by reason. Without one, also with the default None, the reason is "not known
      yet" if no outcome is known at `t`, else "no reason given".
    """

    column: str
    of: Events
    horizon: timedelta
    coverage: float = 0.995
    reason: str | None = None


@dataclass(frozen=True)
class TimeSplit:
    """The durations of the training, validation and test parts, in this order of time.

    Each is a timedelta or a text such as `"90d"` (a whole number and s, m, h, d or w). The test
    part ends at `as_of` minus the label's horizon, and each part ends where the next begins. At the
    end of `train` and of `validation`, an embargo as long as the horizon is left out, since the
    labels of its rows become known only during the next part. So these two durations must exceed
    the horizon, and `test` must exceed 0. Training raises `NotEnoughData` if a part has fewer than
    50 rows, or only one label value in a binary task.
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
        """The range `[start, end)` of prediction moments of each part, without the embargo.

        `until` replaces the ends that `as_of` determines: the ends of the three parts (aware), for
        reports on fixed periods.
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
    """What a challenger must achieve to become champion.

    All models are scored with the use case's metric on the rows of the test part that are later
    than the training of the challenger and of the champion. A margin is an absolute difference of
    the metric and positive if the challenger is better, also where lower is better.

    - `beats_champion_by`: the smallest margin over the champion; default 0.0, which accepts an
      equal score. Without a champion it does not apply.
    - `beats_baseline_by`: the smallest margin over each baseline; default 0.0. The baselines are
      the mean of the training labels and a linear model on the same features.
    - `minimum_rows`: the smallest number of rows to be scored, at least 1; default 500. With fewer
      rows the challenger is refused.
    """

    beats_champion_by: float = 0.0
    beats_baseline_by: float = 0.0
    minimum_rows: int = 500


@dataclass(frozen=True)
class Recipe:
    """How the model of a use case is fitted.

    `parameters`: XGBoost's name to value. A parameter that is left out has the platform's default,
    given here in brackets, or else XGBoost's:

    - whole numbers of at least 1: `n_estimators` (1000), `early_stopping_rounds` (50, on the
      validation part), `max_depth` (6), `max_leaves`, `max_bin`;
    - numbers above 0 and at most 1: `learning_rate` (0.05), `subsample` (0.8), `colsample_bytree`
      (0.8), `colsample_bylevel`, `colsample_bynode`;
    - numbers of at least 0: `min_child_weight` (5), `reg_lambda` (1.0), `reg_alpha`, `gamma`,
      `max_delta_step`, `scale_pos_weight`.
    """

    parameters: Mapping[str, ParameterValue] = field(default_factory=dict, hash=False)

    def problems(self) -> list[str]:
        """One sentence for each invalid parameter."""
        problems = []
        for name, value in self.parameters.items():
            expected = _RECIPE_PARAMETERS.get(name)
            if expected is None:
                problems.append(unknown_name("parameter", name, _RECIPE_PARAMETERS, "a recipe"))
            elif not _is_finite(value) or not _IS_VALID[expected](value):
                problems.append(f"recipe parameter '{name}' is {value!r}, expected {expected}.")
        return problems


@dataclass(frozen=True)
class UseCase:
    """What is predicted, from which features, and how the model is trained and promoted.

    - `name`: the name in commands, URLs and the model registry; unique in the repository.
    - `description`: one sentence, shown in the model card, the model registry and the API docs.
    - `task`: `"binary"` predicts the probability that the label is true, `"regression"` a number.
    - `feature_service`: the name of the Feast service whose features the model reads.
    - `requests`: one event per prediction: its `event_timestamp` is the prediction moment, its
      columns include the service's join keys and request columns.
    - `label`, `split`: see `Label` and `TimeSplit`.
    - `metric`: what the gate compares. For binary: `average_precision`, `roc_auc` (higher is
      better), `log_loss`, `brier` (lower is better); for regression: `r2` (higher), `rmse`, `mae`
      (lower).
    - `gate`, `recipe`: see `Gate` and `Recipe`; default: all of their defaults.
    - `threshold`: the smallest probability that is decided as true, from 0 to 1; default 0.5.
      A regression ignores it.
    - `optional_keys`: join keys that a request may omit or set to null, which leaves the features
      of their entities null; default none.
    - `describe_columns`: columns of `requests` by which `punctual demo` describes a request;
      default: the `id` of `requests`.
    - `limits`: what the model must not be used for, in words, for its model card; default empty.
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
        """The difference of two scores of the metric; positive if the challenger is better."""
        return other - challenger if self.metric in LOWER_IS_BETTER else challenger - other


def check_horizon(use_case: UseCase, delays_microseconds: Sequence[int]) -> None:
    """Raise `InvalidDeclaration` if the horizon covers less than `coverage` of the delays."""
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
                f" delays, coverage asks for {_percent(label.coverage)}: use {needed} or more."
            ],
        )


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _percent(share: float) -> str:
    """A percentage of at most two decimals, rounded down: 99.499 % is not shown as 99.5 %."""
    return f"{math.floor(share * 10_000 + 1e-9) / 100:g}%"
