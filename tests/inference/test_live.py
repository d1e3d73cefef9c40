"""The live score uses labels only when all labels of a time are known, and reports the rest."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from inference.champion import champion_card
from inference.monitoring.live import Outcomes, live_score, outcomes
from stores.tables import known_events

NOW = datetime(2024, 2, 20, 12, 0, tzinfo=UTC)
OLD = NOW - timedelta(hours=49)


@pytest.fixture
def booked(domain, use_case):
    """The requests of the last days, newest last, each with its label."""
    labels = {
        row["parcel"]: row for row in known_events(domain, use_case.label.of, as_of=NOW).to_pylist()
    }
    rows = known_events(
        domain, use_case.requests, as_of=NOW, since=NOW - timedelta(days=5)
    ).to_pylist()
    return [
        {
            **row,
            "label": labels.get(row["parcel"], {}).get("is_late"),
            "lost": row["parcel"] % 97 == 0,
        }
        for row in rows
    ]


def predictions(rows, **changes):
    """Predictions as the log returns them: timestamps of request columns are text."""
    columns = {
        "at": pa.array([row["event_timestamp"] for row in rows], pa.timestamp("us", "UTC")),
        "prediction": pa.array([row["parcel"] / 10_000 for row in rows], pa.float64()),
        **{
            name: pa.array([row[name] for row in rows])
            for name in ("parcel", "courier", "depot", "route", "weight_grams")
        },
        "promised": pa.array([row["promised"].isoformat() for row in rows]),
    }
    return pa.table({**columns, **changes})


def test_predictions_are_joined_by_their_ids(domain, use_case, booked):
    old = [row for row in booked if row["event_timestamp"] <= OLD and not row["lost"]]

    found = outcomes(domain, use_case, predictions(old), NOW)

    assert found.predictions.tolist() == [row["parcel"] / 10_000 for row in old]
    assert found.labels.tolist() == [float(row["label"]) for row in old]
    assert found.left_out == {}


def test_predictions_without_ids_are_joined_by_their_request_columns(domain, use_case, booked):
    old = [row for row in booked if row["event_timestamp"] <= OLD and not row["lost"]]
    nameless = predictions(old, parcel=pa.nulls(len(old), pa.int64()))
    # Requests without the optional depot, some time after the booking.
    later = predictions(
        old,
        depot=pa.nulls(len(old), pa.string()),
        at=pa.array([row["event_timestamp"] + timedelta(hours=1) for row in old]),
    ).drop_columns(["parcel"])

    for table in (nameless, later):
        found = outcomes(domain, use_case, table, NOW)
        assert found.labels.tolist() == [float(row["label"]) for row in old]
        assert found.left_out == {}


def test_requests_within_the_horizon_are_not_scored_even_with_a_label(domain, use_case, booked):
    young = [row for row in booked if row["event_timestamp"] > NOW - timedelta(hours=48)]
    assert any(row["label"] is not None for row in young)

    found = outcomes(domain, use_case, predictions(young), NOW)

    assert len(found.labels) == 0
    assert found.left_out == {"waiting for the label": len(young)}


def test_left_out_predictions_are_counted_by_reason(domain, use_case, booked):
    old = [row for row in booked if row["event_timestamp"] <= OLD]
    lost = [row for row in old if row["lost"]]
    kept = [row for row in old if not row["lost"]]
    hindsight = {**kept[1], "event_timestamp": NOW - timedelta(hours=2)}
    stranger = {**kept[2], "parcel": 999_999}
    assert lost

    found = outcomes(
        domain, use_case, predictions([*lost, kept[0], kept[0], hindsight, stranger]), NOW
    )

    assert len(found.labels) == 1
    assert found.left_out == {
        "without a label": len(lost),
        "repeated": 1,
        "made when the label was known": 1,
        "of no known request": 1,
    }


def test_the_last_of_several_predictions_for_a_request_counts(domain, use_case, booked):
    first = next(row for row in booked if row["event_timestamp"] <= OLD and not row["lost"])
    table = predictions([first, first, first], prediction=pa.array([0.1, 0.2, 0.3]))

    assert outcomes(domain, use_case, table, NOW).predictions.tolist() == [0.3]


def test_an_empty_log_has_no_outcomes(domain, use_case):
    assert len(outcomes(domain, use_case, predictions([]), NOW).labels) == 0


def test_too_few_labels_are_reported_and_not_scored(domain, use_case):
    card = champion_card(domain, use_case)

    few = live_score(use_case, card, Outcomes(np.full(199, 0.5), np.arange(199) % 2.0, {}))
    alike = live_score(use_case, card, Outcomes(np.full(300, 0.5), np.ones(300), {}))

    assert (few.score, few.note, few.is_worse) == (
        None,
        "199 predictions have a label; a score needs 200",
        False,
    )
    assert (alike.score, alike.note) == (None, "all 300 labels are the same")


def test_a_score_is_worse_where_chance_does_not_explain_it(domain, use_case):
    card = champion_card(domain, use_case)  # it says 0.7 of the test part
    random = np.random.default_rng(4)
    labels = (random.random(1_000) < 0.4).astype(float)

    blind = live_score(use_case, card, Outcomes(random.random(1_000), labels, {}))
    sighted = live_score(use_case, card, Outcomes(labels * 0.5 + random.random(1_000), labels, {}))

    assert blind.is_worse and blind.low < blind.score < blind.high < 0.7
    assert not sighted.is_worse and sighted.score > 0.7
    assert live_score(use_case, card, Outcomes(random.random(1_000), labels, {})).rows == 1_000


def test_an_error_is_worse_where_it_is_greater(domain):
    delay = domain.use_cases["parcel_delay"]
    card = champion_card(domain, delay)  # it says a root mean square error of 90 minutes
    labels = np.random.default_rng(4).normal(0, 200, 500)

    assert live_score(delay, card, Outcomes(np.zeros(500), labels, {})).is_worse
    assert not live_score(delay, card, Outcomes(labels + 10, labels, {})).is_worse
