"""The online benchmark in miniature: contenders agree, and data and requests are reproducible."""

import json
import os
from dataclasses import asdict, replace

import numpy as np
import pytest

from benchmarks import online, online_rebuild, online_stores
from benchmarks.data import Progress
from benchmarks.harness import Measurement, repeat
from benchmarks.online import ALL_CONTENDERS, CASES, MATERIALIZERS, READERS, SETS, Run, store_of
from benchmarks.online_data import OnlineData, Reads, values_hash

TINY = OnlineData(views=2, features=3, entities=40)
READS = Reads(views=2, rows=4, requests=30, missing=True)


@pytest.fixture
def arguments(tmp_path, redis_server):
    """The arguments of every contender: a data folder and a Redis server."""
    folder = tmp_path / "data"
    TINY.make(folder, Progress())
    return {"folder": str(folder), "data": asdict(TINY), "redis_url": redis_server.url}


def outcome(work):
    return Measurement("", **repeat(work, 1, 60.0))


def test_all_readers_give_the_same_values(arguments):
    filled, found = set(), {}
    for contender in READERS:
        store = store_of(contender)
        if store not in filled:
            assert outcome(online_stores.fill(store=store, **arguments)).rows == 80
            filled.add(store)
        read = online_stores.via_feast if "feast" in contender else online_stores.direct
        one = outcome(read(store=store, reads=asdict(READS), **arguments))
        assert one.rows == READS.rows * READS.requests
        assert 0 < one.more["p50_ms"] <= one.more["p99_ms"]
        found[contender] = one.hash
    assert len(set(found.values())) == 1, found


def test_all_materializers_write_the_same_values_and_report_their_size(arguments):
    found = {}
    for contender in MATERIALIZERS:
        work = online_stores.materialize(
            store=store_of(contender), defaults=contender.endswith("_defaults"), **arguments
        )
        # Each repetition starts from an empty store.
        repetitions = 2 if contender in ("ours_sqlite", "ours_redis") else 1
        one = Measurement("", **repeat(work, repetitions, 60.0))
        assert (one.rows, one.repetitions) == (80, repetitions)
        assert one.more["used_memory_mb" if "redis" in contender else "file_mb"] > 0
        found[contender] = one.hash
    assert len(set(found.values())) == 1, found


@pytest.mark.parametrize("store", ["ours_sqlite", "ours_redis"])
def test_readers_continue_during_a_rebuild(arguments, monkeypatch, store):
    outcome(online_stores.fill(store=store, **arguments))
    ordinary = os.nice(0)
    monkeypatch.setattr(online_rebuild, "cores", lambda: 1)
    rebuild, priorities = online_rebuild.online_ours.rebuild, []

    def slowly(store, data):
        rows = rebuild(store, data)
        priorities.append(os.nice(0))
        online_rebuild.time.sleep(0.2)
        return rows

    monkeypatch.setattr(online_rebuild.online_ours, "rebuild", slowly)
    one = outcome(online_rebuild.readers_meanwhile(store=store, quiet_seconds=0.2, **arguments))
    assert (one.rows, one.more["failed_reads"], one.more["readers"]) == (80, 0, 1)
    assert (
        priorities == [min(ordinary + 10, 19)] and os.nice(0) == ordinary
    )  # in which the next readers are started
    assert one.more["reads_meanwhile"] > 20
    assert {"quiet_p50_ms", "quiet_p99_ms", "meanwhile_p50_ms", "meanwhile_p99_ms"} <= set(one.more)


def test_requests_are_the_same_each_time_and_a_third_of_their_keys_is_missing():
    asked = replace(READS, requests=1000)
    keys = asked.keys(1000)
    assert np.array_equal(keys, asked.keys(1000))
    assert (keys >= 1000).mean() == pytest.approx(1 / 3, abs=0.02)
    assert replace(asked, missing=False).keys(1000).max() == 999


def test_data_have_a_row_for_each_entity_both_types_and_a_few_nulls(tmp_path):
    data = OnlineData(views=2, features=2, entities=500)
    data.make(tmp_path / "data", Progress())
    rows = online_stores_rows(data, tmp_path / "data")
    assert sorted(rows["entity"].to_pylist()) == list(range(500))
    assert [str(rows[name].type) for name in data.feature_names(1)] == ["double", "int64"]
    assert 0 < rows["feature_2"].null_count < 50 and rows["feature_3"].null_count == 0
    assert max(rows["feature_3"].to_pylist()) < 2**53


def online_stores_rows(data, folder):
    from stores.tables import Table

    table = Table.current(data.tables(folder), "view_01")
    assert table.built_until is not None
    return table.read()


def test_the_hash_treats_all_nans_alike_and_depends_on_the_shape():
    one = np.array([[1.0, np.nan]])
    other = np.array([[1.0, -np.nan]])
    assert values_hash(iter([one])) == values_hash(iter([other]))
    assert values_hash(iter([one])) != values_hash(iter([one.T]))
    assert values_hash(iter([one])) != values_hash(iter([one, one]))


def test_every_case_has_contenders_that_there_are():
    assert {name for case in CASES.values() for name in case.contenders} == set(ALL_CONTENDERS)
    assert {store_of(name) for name in ALL_CONTENDERS} == {
        "feast_sqlite",
        "feast_redis",
        "ours_sqlite",
        "ours_redis",
    }
    assert len(SETS["reads"]) == 12 and len(SETS["redis"]) == 4
    assert CASES["materialize"].quick().data.entities == 100_000
    assert CASES["reads_5x1_found"].quick().reads.requests == 200


def test_the_command_prints_a_table_and_ends_with_json_and_refuses_results_that_differ(
    monkeypatch, capsys, tmp_path, redis_server
):
    hashes = iter("aaab")
    monkeypatch.setitem(CASES, "reads_5x1_found", replace(CASES["reads_5x1_found"], data=TINY))
    monkeypatch.setattr(
        Run,
        "_measured",
        lambda run, case, name, folder: Measurement(
            name, 1.0, rows=9, hash=next(hashes), more={"p50_ms": 0.5}
        ),
    )
    command = [
        "--case",
        "reads_5x1_found",
        "--contender",
        "ours",
        "--contender",
        "feast_redis",
        "--folder",
        str(tmp_path),
    ]
    assert online.main(command) == 0
    said = capsys.readouterr().out.splitlines()
    assert any(line.startswith("| ours ") for line in said)
    case = json.loads(said[-1])["cases"]["reads_5x1_found"]
    assert list(case) == ["feast_redis", "ours"] and case["ours"]["p50_ms"] == 0.5
    assert online.main(command) == 1
    assert "UnequalResults: case 'reads_5x1_found'" in capsys.readouterr().err


def test_cases_without_the_contender_that_is_asked_for_are_left_out_and_a_missing_server_is_named(
    monkeypatch, capsys, tmp_path
):
    assert (
        online.main(["--case", "redis", "--contender", "ours_sqlite", "--folder", str(tmp_path)])
        == 0
    )
    assert capsys.readouterr().out == '{"cases": {}}\n' and list(tmp_path.iterdir()) == []
    monkeypatch.setattr(online.RedisServer, "missing", lambda: "redis-server not found")
    assert online.main(["--folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "NoServer: redis-server not found\n"
