"""How time is split, and which models the gate accepts."""

from datetime import timedelta

import pytest

from punctual.errors import InvalidDeclaration
from punctual.home import Home
from punctual.repository import find_use_case
from punctual.times import moment
from punctual.use_case import TimeSplit, check_horizon
from training.gate import judge

HORIZON = timedelta(hours=36)
HOUR = 3_600_000_000


@pytest.fixture
def use_case():
    return find_use_case(Home.at(), "arrival_delay")[1]


def test_the_parts_are_separated_by_an_embargo_of_the_horizon():
    parts = TimeSplit("240d", "30d", "90d").parts(moment("2014-01-04"), HORIZON)
    assert parts["test"] == (moment("2013-10-04T12:00Z"), moment("2014-01-02T12:00Z"))
    assert parts["validation"] == (moment("2013-09-04T12:00Z"), moment("2013-10-03T00:00Z"))
    assert parts["train"] == (moment("2013-01-07T12:00Z"), moment("2013-09-03T00:00Z"))


def test_the_labels_of_a_part_are_known_before_the_next_begins():
    parts = TimeSplit("10d", "5d", "5d").parts(moment("2013-12-01"), HORIZON)
    assert parts["train"][1] + HORIZON == parts["validation"][0]
    assert parts["validation"][1] + HORIZON == parts["test"][0]
    assert parts["test"][1] + HORIZON == moment("2013-12-01")


def test_a_report_may_fix_the_ends():
    ends = (moment("2013-09-01"), moment("2013-10-01"), moment("2014-01-01"))
    parts = TimeSplit("240d", "30d", "90d").parts(moment("2014-01-04"), HORIZON, ends)
    assert parts["train"][1] == moment("2013-09-01") - HORIZON
    assert parts["test"] == (moment("2013-10-01"), moment("2014-01-01"))


def test_a_short_horizon_is_refused_and_a_sufficient_one_is_named(use_case):
    delays = [HOUR] * 750 + [20 * HOUR] * 249 + [90 * HOUR]
    check_horizon(use_case, delays)
    short = type(use_case)(
        **{
            **vars(use_case),
            "label": type(use_case.label)("is_late", use_case.label.of, timedelta(hours=6)),
        }
    )
    with pytest.raises(
        InvalidDeclaration,
        match=r"label horizon 6h covers 75% of label delays, coverage asks for 99.5%: use 20h or"
        r" more",
    ):
        check_horizon(short, delays)


def test_the_gate_lets_a_better_model_through(use_case):
    verdict = judge(
        use_case, 0.45, {"base_rate": 0.2}, rows=5_000, champion=0.44, champion_version="5"
    )
    assert verdict.passed
    assert verdict.message == "scored 0.4500 average_precision on 5,000 rows"


def test_the_gate_names_every_reason_for_a_refusal(use_case):
    verdict = judge(
        use_case,
        0.44,
        {"logistic_regression": 0.435},
        rows=900,
        champion=0.4395,
        champion_version="5",
    )
    assert not verdict.passed
    assert (
        "only 900 rows are later than both models' training, the gate asks for 1000"
        in verdict.message
    )
    assert (
        "baseline logistic_regression scored 0.4350, the gate asks for a lead of 0.01"
        in verdict.message
    )
    assert "champion 5 scored 0.4395, the gate asks for a lead of 0.002" in verdict.message


def test_a_missing_score_passes_no_gate(use_case):
    assert not judge(use_case, float("nan"), {"base_rate": 0.2}, rows=5_000).passed
    refused = judge(use_case, float("nan"), {}, rows=5_000)
    assert not refused.passed and "has no value on them" in refused.message
