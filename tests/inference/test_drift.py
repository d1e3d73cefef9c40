"""Drift is distinguished from chance and from seasonality."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from inference.monitoring.drift import drift, ks, psi, span_of, verdict_of
from punctual.model_card import ModelFeature

START = datetime(2024, 1, 1, tzinfo=UTC)
NUMBER, CATEGORY = ModelFeature("x", "number"), ModelFeature("x", "category")


def table(values, hours=1.0):
    return pa.table(
        {
            "x": pa.array(values),
            "at": pa.array(
                [START + timedelta(hours=hours * place) for place in range(len(values))]
            ),
        }
    )


def one(reference, current, feature=NUMBER, span=timedelta(0)):
    (found,) = drift(table(reference), table(current), [feature], "at", span)
    return found


def test_the_population_stability_index_equals_its_formula():
    by_hand = (0.2 - 0.5) * np.log(0.2 / 0.5) + (0.8 - 0.5) * np.log(0.8 / 0.5)

    assert psi(np.array([50.0, 50.0]), np.array([20.0, 80.0])) == pytest.approx(by_hand)
    assert psi(np.array([50.0, 50.0]), np.array([500.0, 500.0])) == 0.0


def test_an_empty_bin_counts_the_same_for_any_number_of_rows():
    few, many = (psi(np.array([50.0, 50.0]), np.array([0.0, rows])) for rows in (100.0, 1e6))

    assert few == pytest.approx(many)


def test_the_kolmogorov_smirnov_statistic_equals_a_loop_over_all_values():
    random = np.random.default_rng(1)
    left, right = random.integers(0, 20, 60).astype(float), random.integers(5, 30, 40).astype(float)

    by_hand = max(
        abs((left <= value).mean() - (right <= value).mean()) for value in [*left, *right]
    )

    assert ks(left, right) == pytest.approx(by_hand)
    assert ks(left, np.array([])) is None


def test_verdicts_change_at_a_tenth_and_a_quarter():
    assert [verdict_of(value) for value in (0.0999, 0.1, 0.2499, 0.25)] == [
        "stable",
        "moderate",
        "moderate",
        "large",
    ]


def test_the_same_rows_are_stable_and_shifted_ones_are_not():
    values = np.random.default_rng(2).normal(0, 1, 4_000)

    assert one(values, values[::2]).verdict == "stable"
    assert one(values, values + 0.4).verdict == "moderate"
    shifted = one(values, values + 1.5)
    assert (shifted.verdict, shifted.ks) == ("large", pytest.approx(ks(values, values + 1.5)))


def test_values_that_go_missing_are_drift():
    values = [float(number % 50) for number in range(2_000)]
    gone = [None if number % 2 else value for number, value in enumerate(values)]

    found = one(values, gone)

    assert (found.missing_reference, found.missing_current, found.verdict) == (0.0, 0.5, "large")
    assert one(gone, gone).verdict == "stable"


def test_a_feature_that_is_always_missing_or_constant_is_stable_until_it_is_not():
    nothing, constant = [None] * 600, [7.0] * 600

    assert one(pa.array(nothing, pa.float64()), pa.array(nothing, pa.float64())).verdict == "stable"
    assert one(constant, constant).psi == 0.0
    assert one(constant, [8.0] * 600).verdict == "large"
    assert one(constant, pa.array(nothing, pa.float64())).verdict == "large"


def test_values_beside_a_dominant_one_have_their_own_bin():
    dry, wet = [0.0] * 990 + [1.0] * 10, [0.0] * 500 + [1.0] * 500

    assert one(dry, dry).verdict == "stable"
    assert one(dry, wet).verdict == "large"


def test_a_category_that_training_never_saw_is_drift_and_rare_ones_are_one_bin():
    known = ["a"] * 600 + ["b"] * 395 + [f"rare {number}" for number in range(5)]

    assert one(known, known, CATEGORY).ks is None
    assert one(
        known, [*known[:-5], *(f"as rare {number}" for number in range(5))], CATEGORY
    ).psi == pytest.approx(0.0, abs=1e-9)
    assert one(known, ["c"] * 400 + known[:600], CATEGORY).verdict == "large"
    assert one(known, [None] * 400 + known[:600], CATEGORY).missing_current == 0.4


def test_a_shift_that_equally_long_training_windows_show_is_usual():
    # A seasonal value: the window of a day differs from all of training without being drift.
    wave = [np.sin(place / 24 / 10 * 2 * np.pi) * 10 for place in np.arange(0, 24 * 60, 0.2)]
    reference = table(wave, hours=0.2)
    one_day = table(wave[:120], hours=0.2)
    other = table([value + 40 for value in wave[:120]], hours=0.2)

    (found,) = drift(reference, one_day, [NUMBER], "at", span_of(one_day["at"]))
    (moved,) = drift(reference, other, [NUMBER], "at", span_of(other["at"]))

    assert found.psi > 1 and found.usual > 1 and found.verdict == "stable"
    assert moved.psi > moved.usual - 0.25


def test_a_small_reference_has_no_usual_shift():
    assert one([1.0, 2.0] * 300, [2.0] * 600, span=timedelta(hours=24)).usual is None


def test_the_worst_verdict_comes_first():
    random = np.random.default_rng(5)
    values = random.normal(0, 1, 3_000)
    reference = pa.table({"fine": values, "gone": values, "at": table(values)["at"]})
    current = pa.table({"fine": values[:600], "gone": values[:600] + 3})

    found = drift(
        reference,
        current,
        [ModelFeature("fine", "number"), ModelFeature("gone", "number")],
        "at",
        timedelta(0),
    )

    assert [each.name for each in found] == ["gone", "fine"]


def test_no_timestamps_span_no_time():
    assert span_of(pa.chunked_array([pa.array([], pa.timestamp("us", "UTC"))])) == timedelta(0)
