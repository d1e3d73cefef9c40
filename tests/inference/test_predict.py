"""Checked rows become an answer with its evidence, which is logged before it is returned."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from inference.features import PastNotKept
from inference.predict import ClockBehindStore, Predictor, predict_frame, predict_rows
from inference.request_rows import checked_rows
from punctual.errors import DataFolderError, InvalidRequest
from punctual.home import Home
from stores.predictions import PredictionLog, logged_predictions
from stores.predictions.log import read_log

NOW = datetime(2024, 2, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def ask(predictor, row):
    def answer(*rows, now=NOW, at=None):
        checked = checked_rows(predictor.row_model, rows or [row()])
        return predict_rows(
            predictor,
            checked,
            clock=lambda: now,
            at=at,
            log=PredictionLog(Home.at(), "parcel_lateness"),
        )

    return answer


def test_an_answer_names_its_model_and_time_and_decides_by_the_threshold(ask, row):
    answer = ask(row(weight_grams=50), row(courier="F", weight_grams=9_000))

    assert (answer.model, answer.feature_service) == (
        {"name": "parcel_lateness", "version": "1"},
        "parcels_v1",
    )
    assert (answer.at, answer.received, answer.threshold) == (NOW, NOW, 0.4)
    light, heavy = answer.predictions
    assert light.probability < 0.4 < heavy.probability
    assert (light.decision, heavy.decision) == (False, True)


def test_a_probability_at_the_threshold_is_a_positive_decision(predictor, row):
    card = predictor.champion.card
    checked = checked_rows(predictor.row_model, [row()])
    fresh = predictor.freshness()
    values = predictor.read(checked, NOW)
    predictions = predictor.predict(values)

    probability = float(predictions[0])
    for threshold, decision in ((probability, True), (probability + 1e-9, False)):
        card.threshold = threshold
        (logged,) = predictor.records(
            checked, values, predictions, at=NOW, received=NOW, fresh=fresh
        )
        assert logged.decision is decision


def test_two_models_predict_from_one_read(domain, predictor, row, monkeypatch):
    other = Predictor.load(domain, domain.use_cases["parcel_delay"])
    rows = checked_rows(predictor.row_model, [row(), row(courier="F", weight_grams=9_000)])
    alone = other.predict(other.read(rows, NOW))
    reads, records = [], predictor.features.database.records
    read_records = records.read_records
    monkeypatch.setattr(
        records, "read_records", lambda groups: reads.append(1) or read_records(groups)
    )

    values = predictor.read(rows, NOW)
    probabilities, delays = predictor.predict(values), other.predict(values)

    assert len(reads) == 1
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert delays.tolist() == alone.tolist()


def test_an_answer_names_unknown_entities_but_not_omitted_keys(ask, row):
    known, stranger, nowhere = ask(row(), row(courier="Z"), row(depot=None)).predictions

    assert (known.unknown, nowhere.unknown) == ([], [])
    assert [(entity.keys, entity.views) for entity in stranger.unknown] == [
        ({"courier": "Z"}, ["courier_deliveries", "last_delivery"]),
        ({"courier": "Z", "route": 2}, ["route_deliveries"]),
    ]


def test_an_answer_reports_each_views_age_and_staleness(ask):
    on_time = ask(now=NOW + timedelta(minutes=64)).predictions[0].views["courier_deliveries"]
    late = ask(now=NOW + timedelta(minutes=65)).predictions[0].views["courier_deliveries"]

    assert (on_time.status, on_time.is_stale) == ("PRESENT", False)
    # Built and materialized at 12:00, the next values were due at 13:05.
    assert (late.age_seconds, late.is_stale) == (on_time.age_seconds + 60, True)


def test_a_regression_answers_with_a_prediction_and_no_decision(domain, row):
    predictor = Predictor.load(domain, domain.use_cases["parcel_delay"])
    rows = checked_rows(predictor.row_model, [row()])

    answer = predict_rows(
        predictor, rows, clock=lambda: NOW, log=PredictionLog(Home.at(), "parcel_delay")
    )

    assert isinstance(answer.predictions[0].prediction, float)
    assert (
        not answer.threshold
        and not answer.predictions[0].probability
        and not answer.predictions[0].decision
    )


def test_a_future_time_is_refused_beyond_a_clock_tolerance(ask):
    assert ask(at=NOW + timedelta(seconds=59)).at == NOW + timedelta(seconds=59)
    with pytest.raises(
        InvalidRequest, match="at = 2024-02-20T12:02:00Z is later than now, 2024-02-20T12:00:00Z"
    ):
        ask(at=NOW + timedelta(minutes=2))


def test_a_lost_past_is_a_client_error_and_a_late_clock_a_server_error(ask):
    earlier = NOW - timedelta(days=3)
    with pytest.raises(PastNotKept):
        ask(at=earlier)
    with pytest.raises(
        ClockBehindStore, match="the clock is at 2024-02-17T12:00:00Z, behind the online store"
    ):
        ask(now=earlier)


def test_a_store_that_advances_during_a_read_is_read_again_at_a_later_time(predictor, row):
    moments = iter([NOW - timedelta(days=3), NOW])
    rows = checked_rows(predictor.row_model, [row()])

    answer = predict_rows(
        predictor,
        rows,
        clock=lambda: next(moments),
        log=PredictionLog(Home.at(), "parcel_lateness"),
    )

    assert (answer.at, answer.received) == (NOW, NOW)


def test_the_log_has_everything_a_prediction_was_computed_from(ask, row, predictor):
    answer = ask(row(parcel=17), at=NOW)

    (logged,) = read_log(Home.at(), "parcel_lateness")
    assert logged.prediction_id == answer.predictions[0].prediction_id
    assert (logged.prediction, logged.decision) == (
        answer.predictions[0].probability,
        answer.predictions[0].decision,
    )
    assert logged.row == {**row(), "parcel": 17}
    assert list(logged.features) == predictor.features.names
    shown = predictor.features.read(
        [{**row(), "promised": datetime(2024, 2, 21, 8, tzinfo=UTC)}], NOW
    )
    assert logged.features == shown.to_pylist()[0]
    assert logged.views["courier_deliveries"].event == NOW - timedelta(hours=1)
    assert logged.views["courier_deliveries"].created == NOW - timedelta(minutes=55)
    assert logged.views["courier_deliveries"].materialized_until == NOW
    assert (logged.model_name, logged.model_version, logged.feature_service) == (
        "parcel_lateness",
        "1",
        "parcels_v1",
    )


def test_an_answer_that_cannot_be_logged_is_not_returned(home, ask):
    (home / "predictions").write_text("a file where a folder belongs")

    with pytest.raises(
        DataFolderError,
        match="cannot write the prediction log in .*No prediction is returned without being logged",
    ):
        ask()


def test_a_frame_comes_back_with_predictions_which_are_logged(home, row):
    frame = pd.DataFrame([row(courier="Z", parcel=5), row(depot=None, parcel=6)]).assign(
        note="a column of my own"
    )
    frame["promised"] = pd.to_datetime(frame["promised"])

    predicted = predict_frame(Home.at(), "parcel_lateness", frame, NOW)

    assert predicted["unknown"].tolist() == ["courier=Z, courier=Z, route=2", ""]
    assert predicted["parcel"].tolist() == [5, 6]
    assert (
        predicted["probability"].tolist()
        == logged_predictions(Home.at(), "parcel_lateness")
        .sort_by("parcel")["prediction"]
        .to_pylist()
    )


def test_a_frame_may_have_more_rows_than_a_request(home, row):
    frame = pd.DataFrame(
        [row(parcel=number, weight_grams=100 + number % 9) for number in range(1_203)]
    )
    frame["promised"] = pd.to_datetime(frame["promised"])

    predicted = predict_frame(Home.at(), "parcel_lateness", frame, NOW)

    assert predicted["parcel"].tolist() == list(range(1_203))
    assert len(list(read_log(Home.at(), "parcel_lateness"))) == 1_203
    assert predict_frame(Home.at(), "parcel_lateness", frame.head(0), NOW).empty


def test_a_champion_of_an_earlier_feature_service_reads_that_service(domain, use_case, models):
    from punctual.loaded_domain import LoadedDomain
    from punctual.use_case import UseCase

    newer = UseCase(**{**vars(use_case), "feature_service": "parcels_v2"})
    services = {**domain.services, "parcels_v2": domain.services["parcels_v1"]}
    evolved = LoadedDomain(
        domain.home,
        domain.name,
        domain.domain,
        domain.entities,
        domain.views,
        domain.on_demand_views,
        services,
        {newer.name: newer},
    )

    assert Predictor.load(evolved, newer).features.service == "parcels_v1"
