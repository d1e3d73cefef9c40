"""The benchmark of predictions in miniature, through all its contenders."""

import json

import pytest

from benchmarks import predicting, predictors
from benchmarks.harness import Measurement, repeat
from benchmarks.predicting import CALLS, CONTENDERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("predicting")
    trees, nodes = predictors.make(made, rows=900, rounds=12)
    assert 1 <= trees <= 12 < nodes
    return made


@pytest.mark.parametrize("rows", CALLS)
def test_all_contenders_give_the_same_bits(folder, rows):
    calls = 3
    measured = [
        Measurement(
            name, **repeat(getattr(predictors, name)(str(folder), rows=rows, calls=calls), 2, 60.0)
        )
        for name in CONTENDERS
    ]

    assert len({one.hash for one in measured}) == 1
    assert {one.rows for one in measured} == {rows * calls}
    assert all(0 < one.more["p50_ms"] <= one.more["p99_ms"] for one in measured)


def test_each_call_predicts_other_rows():
    parts = predictors._parts(1, 50)

    assert len({part.start for part in parts}) == 50
    assert all(
        part.stop <= predictors.ASKED_ROWS
        for rows, calls in CALLS.items()
        for part in predictors._parts(rows, calls)
    )


def test_the_command_prints_a_table_and_ends_with_json(capsys):
    command = [
        "--case",
        "rows_10",
        "--contender",
        "inplace_predict",
        "--contender",
        "ours",
        "--quick",
        "--rows",
        "4500",
        "--rounds",
        "20",
    ]

    assert predicting.main([*command, "--repetitions", "2"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("| ours ") for line in lines)
    said = json.loads(lines[-1])["cases"]["rows_10"]
    assert list(said) == ["inplace_predict", "ours"]
    for one in said.values():
        assert {"seconds", "peak_mb", "rows_per_s", "hash", "p50_ms", "p99_ms"} <= set(one)
    assert said["ours"]["hash"] == said["inplace_predict"]["hash"]


def test_the_command_refuses_predictions_that_differ(monkeypatch, capsys):
    hashes = iter("abc")
    monkeypatch.setattr(predicting, "make", lambda *_, **__: (1, 3))
    monkeypatch.setattr(
        predicting,
        "measure",
        lambda name, *_, **__: Measurement(name, seconds=1.0, rows=60, hash=next(hashes)),
    )

    assert predicting.main(["--case", "rows_1"]) == 1
    said = capsys.readouterr()
    assert "UnequalResults: case 'rows_1'" in said.err
    assert '{"cases"' not in said.out
