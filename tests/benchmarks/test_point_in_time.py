"""Every case of the point-in-time benchmark in miniature, through all its contenders."""

import importlib
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import point_in_time
from benchmarks.data import DataSet, Progress, files
from benchmarks.harness import Measurement, repeat
from benchmarks.point_in_time import ALL_CONTENDERS, CASES, EVENT_TIME, TWO_TIME
from benchmarks.results import rows_hash


def contender_function(name):
    """Returns the contender's function as the harness finds it."""
    module, function = point_in_time._target(name).split(":")
    return getattr(importlib.import_module(module), function)


def tiny(data):
    """The same shape with few entities, steps, days, commits and entity rows."""
    views = [
        replace(
            view,
            entities=min(view.entities, 12),
            steps=min(view.steps, 20),
            days=20 if view.late else 2,
            commits=4,
            features=view.features[:4],
        )
        for view in data.views[:2]
    ]
    return DataSet(tuple(views), views[0].entities if data.asked == "each" else 60, data.asked)


@pytest.mark.parametrize("name", CASES)
def test_all_contenders_of_a_case_agree(name, tmp_path):
    case = replace(CASES[name], data=tiny(CASES[name].data))
    case.data.make(tmp_path, Progress())
    measurements = []
    for contender in case.contenders:
        work = contender_function(contender)(str(tmp_path))
        measurements.append(Measurement(contender, **repeat(work, 1, 60.0)))
        assert measurements[-1].rows == case.data.rows
    for group in case.groups(measurements):
        assert len({one.hash for one in group}) == 1, {one.contender: one.hash for one in group}
    assert len({one.hash for one in measurements}) == (2 if case.late else 1)


def test_every_contender_has_a_function_and_a_meaning():
    assert all(callable(contender_function(name)) for name in ALL_CONTENDERS)
    assert set(ALL_CONTENDERS) == {*EVENT_TIME, *TWO_TIME, "ours_4gb"}
    assert all(set(case.contenders) <= set(ALL_CONTENDERS) for case in CASES.values())


def test_data_are_made_once_and_again_only_when_incomplete(tmp_path):
    data = tiny(CASES["deep"].data)
    folder = tmp_path / "deep"

    def hashed():
        return repeat(contender_function("duckdb_asof")(str(folder)), 1, 60.0)["hash"]

    data.make(folder, Progress())
    before, first = files(folder, data.views[0]), hashed()
    data.make(folder, Progress())
    assert files(folder, data.views[0]) == before
    (folder / "dataset.json").unlink()
    data.make(folder, Progress())
    assert files(folder, data.views[0]) != before
    assert hashed() == first


def test_late_rows_are_published_when_they_become_known(tmp_path):
    data = tiny(CASES["late"].data)
    data.make(tmp_path, Progress())
    rows = pa.concat_tables([pq.read_table(path) for path in files(tmp_path, data.views[0])])
    created = rows["created_timestamp"].to_pylist()
    late = sum(
        known > event
        for known, event in zip(created, rows["event_timestamp"].to_pylist(), strict=True)
    )
    assert created == sorted(created)
    assert 0 < late < rows.num_rows / 5


def test_the_hash_depends_on_row_numbers_and_values_not_on_types():
    types = {"price": pa.float32()}
    rows = pa.table({"row": [0, 1, 2], "price": pa.array([1.5, None, 0.0], pa.float32())})
    same = pa.table({"row": [2, 0, 1], "price": pa.array([0.0, 1.5, None])})
    other = pa.table({"row": [0, 1, 2], "price": pa.array([1.5, 0.0, None])})
    repeated = pa.table({"row": [0, 1, 1, 2], "price": pa.array([1.5, None, None, 0.0])})
    one = rows_hash(rows, types)
    assert rows_hash(same, types) == one
    assert rows_hash(other, types) != one
    assert rows_hash(repeated, types) != one


COMMAND = [
    "--case",
    "deep",
    "--scale",
    "0.0001",
    "--contender",
    "duckdb_asof",
    "--contender",
    "polars",
    "--repetitions",
    "2",
]


def test_the_command_prints_a_table_and_ends_with_json(monkeypatch, capsys):
    small = replace(CASES["deep"], data=tiny(CASES["deep"].data))
    monkeypatch.setitem(CASES, "deep", small)
    assert point_in_time.main(COMMAND) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("| duckdb_asof") for line in lines)
    said = json.loads(lines[-1])["cases"]["deep"]
    assert list(said) == ["duckdb_asof", "polars"]
    for one in said.values():
        assert {"seconds", "peak_mb", "rows_per_s", "hash"} <= set(one)
        assert one["repetitions"] == 2
        assert one["peak_mb"] > 20


def test_the_command_refuses_results_that_differ(monkeypatch, capsys):
    monkeypatch.setitem(CASES, "deep", replace(CASES["deep"], data=tiny(CASES["deep"].data)))
    hashes = iter("ab")
    monkeypatch.setattr(
        point_in_time,
        "measure",
        lambda name, *_, **__: Measurement(name, seconds=1.0, rows=60, hash=next(hashes)),
    )
    assert point_in_time.main(COMMAND) == 1
    said = capsys.readouterr()
    assert "UnequalResults: case 'deep'" in said.err
    assert '{"cases"' not in said.out


def test_the_slope_is_shown_when_its_cases_were_run():
    def of(seconds):
        return [Measurement("ours", seconds=seconds, cpu_seconds=2 * seconds**2)]

    cases = {"slope_half": of(1.0), "slope_one": of(2.0), "slope_double": of(3.0)}
    assert (
        point_in_time._slope(cases)
        == "ours: history doubled twice, seconds 2.00 and 1.50 times, cpu s 4.00 and 2.25 times"
    )
    assert point_in_time._slope({"deep": of(1.0)}) == ""
