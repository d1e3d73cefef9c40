"""Logged predictions for rows, as the server, the command line and notebooks make them.

`Predictor` has the four parts: `read`, `predict`, `log` and `answer`. `predict_rows` does all four.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from feast.types import Bool, Int32, Int64, String, UnixTimestamp
from msgspec import UNSET, UnsetType

from inference.champion import Champion, load_champion
from inference.features import OnlineFeatures, OnlineValues, PastNotKept
from inference.json_types import MAX_ROWS
from inference.request_rows import checked_rows, row_columns, row_model
from punctual.definitions import changed_since, pinned_domain
from punctual.errors import (
    BrokenModel,
    ExitCode,
    InvalidRequest,
    NotBuilt,
    PunctualError,
    StoreOutdated,
)
from punctual.home import Home
from punctual.loaded_domain import LoadedDomain
from punctual.times import from_micros, iso, micros
from punctual.use_case import UseCase
from stores.online import Freshness, view_freshness
from stores.predictions import LoggedPrediction, PredictionLog, ViewRow, json_value

if TYPE_CHECKING:
    import pandas as pd

# The accepted difference between the clocks of a caller and of this server.
CLOCK_TOLERANCE = timedelta(minutes=1)
_ATTEMPTS = 3


class ClockBehindStore(PunctualError):
    """The clock is behind the online store, so predictions for the present are impossible."""

    exit_code = ExitCode.TRY_AGAIN


class ViewAnswer(msgspec.Struct, frozen=True):
    """The age of a view's values, and whether newer ones should have been online by the moment."""

    status: str
    age_seconds: float | None
    is_stale: bool


class UnknownEntity(msgspec.Struct, frozen=True):
    """Join keys of a row for which these views have no record."""

    keys: dict[str, Any]
    views: list[str]


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """A row's `probability` and `decision` for a binary label, else its `prediction`."""

    prediction_id: str
    id: dict[str, Any]
    probability: float | UnsetType = UNSET
    prediction: float | UnsetType = UNSET
    decision: bool | UnsetType = UNSET
    unknown: list[UnknownEntity]
    views: dict[str, ViewAnswer]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request: predictions in the order of its rows, with model and moment."""

    use_case: str
    model: dict[str, str]
    feature_service: str
    at: datetime
    received: datetime
    threshold: float | UnsetType = UNSET
    predictions: list[Prediction]


class Predictor:
    """A champion with the online features it reads. Thread-safe; it never changes its champion."""

    def __init__(
        self, domain: LoadedDomain, use_case: UseCase, champion: Champion, features: OnlineFeatures
    ) -> None:
        self.domain = domain
        self.use_case = use_case
        self.champion = champion
        self.features = features
        self._numbers = [
            feature.name for feature in champion.card.features if feature.kind == "number"
        ]
        self._categories = [
            feature.name for feature in champion.card.features if feature.kind == "category"
        ]
        # The other types have exact JSON values already; see `json_value`.
        self._floats = {
            name
            for name, type_ in features.types.items()
            if type_ not in (Int32, Int64, String, Bool, UnixTimestamp)
        }
        unavailable = [
            feature.name for feature in champion.card.features if feature.name not in features.types
        ]
        if unavailable:
            raise StoreOutdated(
                f"champion {champion.card.version} of '{use_case.name}' reads"
                f" {', '.join(unavailable)}, which feature service '{features.service}' does not"
                f" have. Restore the service or train again: punctual train {use_case.name}."
            )
        declared = features
        if features.service != use_case.feature_service:
            declared = OnlineFeatures(domain, use_case)
        self.row_columns = row_columns(declared)
        self.row_model = row_model(declared)
        missing = sorted(
            {column.name for column in row_columns(features) if not column.optional}
            - set(self.row_model.model_fields)
        )
        if missing:
            raise BrokenModel(
                f"champion {champion.card.version} of '{use_case.name}' reads feature service"
                f" '{features.service}', which needs {', '.join(missing)}; requests for"
                f" '{use_case.feature_service}' do not have that. Train a model of the declared"
                " service."
            )

    @classmethod
    def load(cls, domain: LoadedDomain, use_case: UseCase, version: str | None = None) -> Predictor:
        """The champion, or a given version, with its features; model and online store are checked.

        It reads by the definitions that it was trained with, even if the domain has changed them.
        """
        champion = load_champion(domain, use_case, version)
        pinned = pinned_domain(domain, champion.card.definitions)
        features = OnlineFeatures(pinned, use_case, champion.card.feature_service)
        try:
            features.check_store()
        except NotBuilt as error:
            if changed := changed_since(domain, champion.card.definitions):
                raise StoreOutdated(
                    f"version {champion.card.version} of '{use_case.name}' was trained before"
                    f" {', '.join(changed)} changed, and what it reads is not online: {error} If"
                    f" that does not help, train again (punctual train {use_case.name}) or revert"
                    " the change."
                ) from error
            raise
        return cls(domain, use_case, champion, features)

    def freshness(self) -> dict[str, Freshness]:
        """The freshness of every view that the champion reads."""
        return view_freshness(
            self.features.domain,
            self.features.database,
            [view.online for view in self.features.views],
        )

    def read(self, rows: Sequence[Mapping[str, Any]], at: datetime) -> OnlineValues:
        """The online features of checked rows at a moment.

        Any model on these features can predict from the result. Raises the errors of
        `OnlineFeatures.look_up`.
        """
        return self.features.look_up(rows, micros(at))

    def predict(self, values: OnlineValues) -> np.ndarray:
        """One float64 prediction per row. Raises `InvalidRequest` if a feature is infinite."""
        numbers = values.matrix(self._numbers)
        if np.isinf(numbers).any():
            row, column = np.argwhere(np.isinf(numbers))[0]
            raise InvalidRequest(
                f"rows[{row}]: feature '{self._numbers[column]}' is infinite, which the model"
                " cannot take; it is computed from the row, perhaps with a division by zero."
            )
        return self.champion.predict_matrix(
            numbers, [values.columns[name] for name in self._categories]
        )

    def log(
        self,
        log: PredictionLog,
        rows: Sequence[Mapping[str, Any]],
        values: OnlineValues,
        predictions: np.ndarray,
        *,
        at: datetime,
        received: datetime,
        fresh: Mapping[str, Freshness],
    ) -> list[LoggedPrediction]:
        """Append the predictions, with rows, features and views, to the log; return the records.

        All records are written or none. Raises `DataFolderError`.
        """
        logged = self.records(rows, values, predictions, at=at, received=received, fresh=fresh)
        log.append(logged)
        return logged

    def records(
        self,
        rows: Sequence[Mapping[str, Any]],
        values: OnlineValues,
        predictions: np.ndarray,
        *,
        at: datetime,
        received: datetime,
        fresh: Mapping[str, Freshness],
    ) -> list[LoggedPrediction]:
        """The log records of the predictions, one per row."""
        card, predicted = self.champion.card, predictions.tolist()
        until = {
            view.name: fresh[view.online.name].materialized_until for view in self.features.views
        }
        # Converted by column, which is faster than by row.
        columns = {
            name: list(map(json_value, column)) if name in self._floats else column
            for name, column in values.columns.items()
        }
        names, features = (
            list(columns),
            list(zip(*columns.values(), strict=True)) or [()] * len(rows),
        )
        moments = _Moments()
        views = {
            name: [
                ViewRow(status, moments[event], moments[created], until[name])
                for status, event, created in zip(
                    found.statuses, found.events, found.created, strict=True
                )
            ]
            for name, found in values.views.items()
        }
        return [
            LoggedPrediction(
                prediction_id=str(uuid.uuid4()),
                use_case=self.use_case.name,
                at=at,
                received=received,
                model_name=card.use_case,
                model_version=card.version,
                feature_service=card.feature_service,
                row=dict(row),
                features=dict(zip(names, features[number], strict=True)),
                views={name: found[number] for name, found in views.items()},
                prediction=predicted[number],
                decision=predicted[number] >= card.threshold if card.task == "binary" else None,
            )
            for number, row in enumerate(rows)
        ]

    def answer(
        self, predictions: Sequence[LoggedPrediction], fresh: Mapping[str, Freshness]
    ) -> Answer:
        """The answer for the logged predictions of one request."""
        card = self.champion.card
        first = predictions[0]
        stale = {
            view.name: fresh[view.online.name].is_stale(first.at) for view in self.features.views
        }
        return Answer(
            use_case=self.use_case.name,
            model={"name": card.use_case, "version": card.version},
            feature_service=card.feature_service,
            at=first.at,
            received=first.received,
            threshold=card.threshold if card.task == "binary" else UNSET,
            predictions=[self._prediction(each, stale) for each in predictions],
        )

    def _prediction(self, logged: LoggedPrediction, stale: Mapping[str, bool]) -> Prediction:
        binary = logged.decision is not None
        return Prediction(
            prediction_id=logged.prediction_id,
            id={name: logged.row.get(name) for name in self.use_case.requests.id},
            probability=logged.prediction if binary else UNSET,
            prediction=UNSET if binary else logged.prediction,
            decision=UNSET if logged.decision is None else logged.decision,
            unknown=self._unknown(logged),
            views={
                name: ViewAnswer(
                    view.status,
                    None if view.event is None else (logged.at - view.event).total_seconds(),
                    stale[name],
                )
                for name, view in logged.views.items()
            },
        )

    def _unknown(self, logged: LoggedPrediction) -> list[UnknownEntity]:
        """The entities without a record; omitted and null keys do not count."""
        unknown: dict[tuple[str, ...], list[str]] = {}
        for view in self.features.views:
            if logged.views[view.name].status == "NOT_FOUND" and all(
                logged.row.get(key) is not None for key in view.keys
            ):
                unknown.setdefault(view.keys, []).append(view.name)
        return [
            UnknownEntity({key: logged.row[key] for key in keys}, views)
            for keys, views in unknown.items()
        ]


class _Moments(dict[int | None, datetime | None]):
    """A cache of datetimes by their microseconds; a request has few distinct ones."""

    def __missing__(self, value: int | None) -> datetime | None:
        self[value] = None if value is None else from_micros(value)
        return self[value]


def predict_rows(
    predictor: Predictor,
    rows: Sequence[Mapping[str, Any]],
    *,
    clock: Callable[[], datetime],
    at: datetime | None = None,
    log: PredictionLog,
    fresh: Mapping[str, Freshness] | None = None,
) -> Answer:
    """Read, predict, log and answer for checked rows at a moment, by default the time of receipt.

    Raises `InvalidRequest` for a moment ahead of the clock, and `PastNotKept` for one whose values
    the online store has already replaced.
    """
    fresh = predictor.freshness() if fresh is None else fresh
    received = clock()
    if at is not None and at > received + CLOCK_TOLERANCE:
        raise InvalidRequest(
            f"at = {iso(at)} is later than now, {iso(received)}; its features are not known yet."
        )
    for attempt in range(_ATTEMPTS):
        try:
            values = predictor.read(rows, at or received)
            break
        except PastNotKept as error:
            # The store may have advanced between reading the clock and reading the store. The clock
            # is read again.
            if at is not None:
                raise
            if attempt == _ATTEMPTS - 1:
                raise ClockBehindStore(
                    f"the clock is at {iso(received)}, behind the online store: {error}"
                ) from error
            received = clock()
    logged = predictor.log(
        log,
        rows,
        values,
        predictor.predict(values),
        at=at or received,
        received=received,
        fresh=fresh,
    )
    return predictor.answer(logged, fresh)


def predict_frame(
    home: Home,
    use_case: str,
    rows: Any,
    at: datetime,
) -> pd.DataFrame:
    """Predict for the rows of a frame, and log the predictions.

    Returns the rows with the champion's prediction, decision and unknown keys. `rows` is what
    `OnlineFeatures.read` takes. Without rows the result is an empty frame.
    """
    import pandas as pd

    from punctual.repository import find_use_case

    domain, declared = find_use_case(home, use_case)
    predictor = Predictor.load(domain, declared)
    types = {column.name: column.type for column in predictor.row_columns}
    listed = predictor.features.typed(rows, types)
    log, records = PredictionLog(home, declared.name), []
    for start in range(0, len(listed), MAX_ROWS):
        checked = checked_rows(predictor.row_model, listed[start : start + MAX_ROWS])
        answer = predict_rows(predictor, checked, clock=lambda: at, at=at, log=log)
        records += [
            prediction_record(each, row)
            for each, row in zip(answer.predictions, checked, strict=True)
        ]
    log.close()
    outcome = ["probability", "decision"] if declared.task == "binary" else ["prediction"]
    return pd.DataFrame(records, columns=None if records else [*types, *outcome, "unknown"])


def prediction_record(prediction: Prediction, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its prediction as one flat record."""
    outcome = {
        "prediction": prediction.prediction,
        "probability": prediction.probability,
        "decision": prediction.decision,
    }
    unknown = ", ".join(
        f"{name}={value}" for entity in prediction.unknown for name, value in entity.keys.items()
    )
    return {
        **row,
        **{name: value for name, value in outcome.items() if value is not UNSET},
        "unknown": unknown,
    }
