"""The harness runs each contender in its own process, names failures and prints one form."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.harness import (
    Measurement,
    NoData,
    Outcome,
    UnequalResults,
    Work,
    as_json,
    compare,
    cpu_seconds_of,
    latencies,
    measure,
    peak_mb_of,
    refuse_unequal,
    repeat,
    report,
    table,
)
from benchmarks.servers import NoServer, end


def of_its_own(hash, seconds=0.0, mb=0):
    """A contender of this test, configured by its arguments."""

    def run():
        time.sleep(seconds)
        return bytearray(mb * 1_000_000)

    return Work(run, lambda _: Outcome(1000, hash, {"p50 us": 12.0}))


def failing():
    raise ValueError("no such file\nand a second line")


@pytest.fixture
def contender(tmp_path, monkeypatch):
    """Measures a contender of this file in its own process."""
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


def test_no_repetition_begins_after_the_time_limit(contender):
    assert (
        contender(
            "of_its_own", arguments={"hash": "a", "seconds": 0.3}, repetitions=5, patience=0.2
        ).repetitions
        == 1
    )


def test_a_contender_that_takes_too_long_is_ended(contender):
    one = contender("of_its_own", arguments={"hash": "a", "seconds": 60}, timeout=1.0)
    assert (one.failed, one.repetitions) == ("took more than 1 s", 0)


def test_a_contender_is_ended_before_the_machine_has_no_memory_left(contender):
    one = contender("of_its_own", arguments={"hash": "a", "seconds": 60}, spare_mb=1e9)
    assert "MB left" in one.failed


def test_a_failure_is_named_and_does_not_stop_the_others(contender):
    one = contender("failing")
    assert one.failed == "ValueError: no such file"
    assert "ValueError: no such file" in table(
        "case", [one, Measurement("other", seconds=1.0, rows=5, hash="a", repetitions=1)]
    )


def test_repetitions_that_differ_are_refused():
    numbers = iter("ab")
    with pytest.raises(UnequalResults, match="repetitions gave a, b"):
        repeat(Work(lambda: None, lambda _: Outcome(1, next(numbers))), 2, 60.0)


def test_contenders_that_differ_are_refused_and_named():
    one, other = (
        Measurement("one", seconds=1.0, hash="a"),
        Measurement("other", seconds=1.0, hash="b"),
    )
    failed = Measurement("third", failed="no memory")
    refuse_unequal("deep", [[one, failed], [other]])
    with pytest.raises(
        UnequalResults, match="case 'deep': results that must be equal are not: one a, other b"
    ):
        refuse_unequal("deep", [[one, other, failed]])


def test_contenders_are_compared_in_order_and_within_their_groups(capsys):
    def measured(name):
        return Measurement(name, seconds=1.0, hash=name[0])

    def by_letter(measurements):
        return [[one for one in measurements if one.contender[0] == letter] for letter in "ab"]

    assert [
        one.contender for one in compare("deep", ["a1", "b1", "a2"], measured, "a note", by_letter)
    ] == ["a1", "b1", "a2"]
    said = capsys.readouterr()
    assert said.err.splitlines() == ["deep: a1 …", "deep: b1 …", "deep: a2 …"]
    assert [line[:4] for line in said.out.splitlines() if line.startswith("| ")][2:] == [
        "| a1",
        "| b1",
        "| a2",
    ]
    with pytest.raises(UnequalResults, match="a1 a, b1 b"):
        compare("deep", ["a1", "b1"], measured, "a note")
    assert "| b1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UnequalResults("case 'deep': a, b"), 1, "UnequalResults: case 'deep': a, b"),
        (NoData("/data has 1 GB left"), 2, "NoData: /data has 1 GB left"),
        (NoServer("redis-server not found"), 2, "NoServer: redis-server not found"),
        (FileNotFoundError("no table"), 2, "FileNotFoundError: no table"),
    ],
)
def test_a_benchmark_that_cannot_end_says_why_and_prints_no_json(capsys, error, code, said):
    def failing_cases():
        raise error

    assert report(failing_cases) == code
    assert capsys.readouterr() == ("", f"{said}\n")


def test_a_benchmark_ends_with_its_cases_as_json(capsys):
    cases = {"deep": [Measurement("ours", seconds=1.0)]}
    assert report(lambda: cases) == 0
    assert capsys.readouterr() == (f"{as_json(cases)}\n", "")


def test_latencies_are_reported_in_milliseconds():
    assert latencies([0.001] * 99 + [0.1]) == {
        "p50_ms": pytest.approx(1.0),
        "p99_ms": pytest.approx(1.99),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_and_time_of_a_process_include_its_children():
    child = """
import time
data = bytearray(200_000_000)
while time.process_time() < 0.3:
    pass
print("done", flush=True)
input()
"""
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"done\n"
        assert peak_mb_of(process.pid) > 200
        assert 0.3 <= cpu_seconds_of(process.pid) < 5
    finally:
        process.stdin.close()
        process.stdout.close()
        end(process)


def test_the_last_line_has_one_form():
    one = Measurement(
        "ours",
        seconds=2.0,
        fastest=1.5,
        cpu_seconds=3.0,
        repetitions=5,
        peak_mb=100.04,
        rows=1000,
        hash="a",
        more={"p50 us": 12.0},
    )
    said = json.loads(
        as_json({"deep": [one, Measurement("other", peak_mb=9.0, failed="no memory")]})
    )
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
    other = {
        "seconds": None,
        "peak_mb": 9.0,
        "rows_per_s": None,
        "hash": None,
        "failed": "no memory",
    }
    assert said == {"cases": {"deep": {"ours": ours, "other": other}}}
