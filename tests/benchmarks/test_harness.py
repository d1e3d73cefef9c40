"""The harness: a process for each contender, what it says of those that fail, and its form."""

import json
import time
from pathlib import Path

import pytest

from benchmarks.harness import Measurement, Outcome, UnequalResults, Work, as_json, measure, refuse_unequal, repeat, table


def of_its_own(hash, seconds=0.0, mb=0):
    """A contender of this test, told by its arguments."""

    def run():
        time.sleep(seconds)
        return bytearray(mb * 1_000_000)

    return Work(run, lambda _: Outcome(1000, hash, {"p50 us": 12.0}))


def failing():
    raise ValueError("no such file\nand a second line")


@pytest.fixture
def contender(tmp_path, monkeypatch):
    """Measures a contender of this file in a process of its own."""
    (tmp_path / "contenders_of_test.py").write_text(Path(__file__).read_text())
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(name, **options):
        arguments = options.pop("arguments", {})
        return measure(name, f"contenders_of_test:{name}", arguments, folder=tmp_path, **options)

    return run


def test_the_median_the_peak_and_the_hash_are_of_the_contenders_own_process(contender):
    small = contender("of_its_own", arguments={"hash": "a", "seconds": 0.01}, repetitions=3)
    large = contender("of_its_own", arguments={"hash": "a", "mb": 300}, repetitions=1)
    assert (small.repetitions, small.rows, small.hash, small.failed) == (3, 1000, "a", "")
    assert small.fastest <= small.seconds and small.seconds >= 0.01
    assert small.rows_per_s == pytest.approx(1000 / small.seconds)
    assert large.peak_mb - small.peak_mb > 250


def test_no_repetition_begins_when_patience_is_over(contender):
    assert contender("of_its_own", arguments={"hash": "a", "seconds": 0.3}, repetitions=5, patience=0.2).repetitions == 1


def test_a_contender_that_takes_too_long_is_ended(contender):
    one = contender("of_its_own", arguments={"hash": "a", "seconds": 60}, timeout=1.0)
    assert (one.failed, one.repetitions) == ("took more than 1 s", 0)


def test_a_contender_is_ended_before_the_machine_has_no_memory_left(contender):
    one = contender("of_its_own", arguments={"hash": "a", "seconds": 60}, spare_mb=1e9)
    assert "MB left" in one.failed


def test_a_failure_is_named_and_does_not_stop_the_others(contender):
    one = contender("failing")
    assert one.failed == "ValueError: no such file"
    assert "ValueError: no such file" in table("case", [one, Measurement("other", seconds=1.0, rows=5, hash="a", repetitions=1)])


def test_repetitions_that_differ_are_refused():
    numbers = iter("ab")
    with pytest.raises(UnequalResults, match="repetitions gave a, b"):
        repeat(Work(lambda: None, lambda _: Outcome(1, next(numbers))), 2, 60.0)


def test_contenders_that_differ_are_refused_and_named():
    one, other = Measurement("one", seconds=1.0, hash="a"), Measurement("other", seconds=1.0, hash="b")
    failed = Measurement("third", failed="no memory")
    refuse_unequal("deep", [[one, failed], [other]])
    with pytest.raises(UnequalResults, match="case 'deep': results that must be equal are not: one a, other b"):
        refuse_unequal("deep", [[one, other, failed]])


def test_the_last_line_has_one_form():
    one = Measurement(
        "ours", seconds=2.0, fastest=1.5, cpu_seconds=3.0, repetitions=5, peak_mb=100.04, rows=1000, hash="a", more={"p50 us": 12.0}
    )
    said = json.loads(as_json({"deep": [one, Measurement("other", peak_mb=9.0, failed="no memory")]}))
    ours = {
        "seconds": 2.0,
        "fastest": 1.5,
        "cpu_seconds": 3.0,
        "peak_mb": 100.0,
        "rows_per_s": 500.0,
        "hash": "a",
        "repetitions": 5,
        "p50 us": 12.0,
    }
    other = {"seconds": None, "peak_mb": 9.0, "rows_per_s": None, "hash": None, "failed": "no memory"}
    assert said == {"cases": {"deep": {"ours": ours, "other": other}}}
