"""The load on servers: what is counted, from when on, and what the requests are."""

import json
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks import load, serving
from benchmarks.harness import Measurement, NoData, as_json, repeat
from benchmarks.load import Load, Target, closed_loop, drive
from benchmarks.serving import ConcurrentLoad
from benchmarks.serving_data import SERVICE, bodies, prepare


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.append(body)
        time.sleep(self.server.takes.pop(0) if self.server.takes else 0)
        answer = b'{"answer": 1}' * 10_000
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        self.close_connection = self.server.closes

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A server that may be slow, fail or close the connection after each answer."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.asked, server.takes, server.status, server.closes, server.daemon_threads = (
            [],
            [],
            200,
            False,
            True,
        )
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def target(server, tmp_path):
    (tmp_path / "bodies.txt").write_text('{"row": 1}\n{"row": 2}\n')
    return Target(server.server_port, "/predict", str(tmp_path / "bodies.txt"))


def test_a_closed_loop_sends_the_bodies_in_turn_and_counts_answers(server, target):
    done = drive(target, connections=1, seconds=0.3, rate=None)
    assert (done.answers, done.failed) == (len(server.asked), 0)
    assert server.asked[:3] == [b'{"row": 1}', b'{"row": 2}', b'{"row": 1}']
    assert 0 < done.p50_ms <= done.p99_ms <= done.p999_ms < 300
    assert done.per_second == pytest.approx(done.answers / done.seconds)


def test_in_an_open_loop_latency_counts_from_the_time_a_request_is_due(server, target):
    server.takes = [0.4]
    done = drive(target, connections=1, seconds=0.5, rate=40)
    assert (done.answers, done.failed) == (20, 0)
    # One request in twenty is slow, and later requests wait for the only connection.
    assert done.p50_ms > 100 and done.p999_ms > 390


def test_an_open_loop_keeps_its_rate(server, target):
    done = drive(target, connections=4, seconds=0.5, rate=100)
    assert done.answers == 50
    assert done.seconds == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("rate", [None, 20])
def test_answers_other_than_200_count_as_failed(server, target, rate):
    server.status = 503
    done = drive(target, connections=2, seconds=0.2, rate=rate)
    assert done.answers == 0 and done.failed == len(server.asked) > 0


def test_a_connection_that_the_server_closes_is_reopened(server, target):
    server.closes = True
    done = drive(target, connections=1, seconds=0.3, rate=20)
    assert done.answers + done.failed == 6 and done.answers >= 3


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_reports_the_same_figures(server, target):
    done = closed_loop(target, 1, 1)
    assert done.failed == 0 and 0 < done.answers <= len(server.asked)
    assert set(server.asked) == {b'{"row": 1}', b'{"row": 2}'}
    server.status = 503
    assert closed_loop(target, 1, 1).failed > 0


def test_without_wrk_a_process_of_our_own_sends_the_requests(server, target, monkeypatch):
    monkeypatch.setattr(load.shutil, "which", lambda _: None)
    assert closed_loop(target, 1, 0.2).answers > 0


def test_a_measurement_has_the_figures_of_all_three_loads_or_says_what_failed():
    alone, most, half = (
        Load(100, 0, 1.0, 1.0, 2.0, 3.0),
        Load(300, 0, 2.0, 4.0, 5.0, 6.0),
        Load(75, 0, 1.0, 7.0, 8.0, 9.0),
    )
    one = serving._measurement("ours", 100, alone, ConcurrentLoad(16, most, 1.5), half, 50.0)
    assert (one.seconds, one.cpu_seconds, one.rows_per_s) == (
        pytest.approx(1 / 150),
        pytest.approx(1.5 / 300),
        pytest.approx(15_000),
    )
    said = json.loads(as_json({"predict_100": [one]}))["cases"]["predict_100"]["ours"]
    assert (said["p50_ms"], said["p99_ms"], said["requests_per_s"], said["connections"]) == (
        1.0,
        2.0,
        150,
        16,
    )
    assert (said["open_rate"], said["open_p50_ms"], said["open_p99_ms"], said["open_p999_ms"]) == (
        75,
        7.0,
        8.0,
        9.0,
    )
    failed = serving._measurement(
        "ours", 100, alone, ConcurrentLoad(4, Load(300, 7, 2.0, 4.0, 5.0, 6.0), 1.5), half, 50.0
    )
    assert failed.failed == "7 requests did not get status 200"
    nothing = Load(0, 0, 2.0, 0.0, 0.0, 0.0)
    assert (
        "no request was answered"
        in serving._measurement(
            "ours", 100, alone, ConcurrentLoad(4, nothing, 1.5), nothing, 50.0
        ).failed
    )


def test_the_command_prints_a_table_and_json_and_names_what_it_could_not_measure(
    monkeypatch, capsys, tmp_path
):
    def measured(run, contender, rows):
        return Measurement(contender, seconds=1.0 + rows, rows=rows, more={"p50_ms": 0.5})

    monkeypatch.setattr(serving, "make_home", lambda *_: None)
    monkeypatch.setattr(serving, "measure", lambda *_, **__: Measurement("features_alone"))
    monkeypatch.setattr(serving.Run, "measured", measured)
    assert (
        serving.main(
            ["--home", str(tmp_path), "--contender", "ours", "--contender", "fastapi_empty"]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith(
            "POST with 100 rows, one worker, keep-alive, ours with its log; closed loop by "
        )
        for line in lines
    )
    cases = json.loads(lines[-1])["cases"]
    assert list(cases) == ["predict_1", "predict_100"] and list(cases["predict_1"]) == [
        "ours",
        "fastapi_empty",
    ]

    monkeypatch.setattr(
        serving,
        "measure",
        lambda *_, **__: Measurement("features_alone", failed="FileNotFoundError: no table"),
    )
    assert serving.main(["--home", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert (
        said.err.endswith(f"{NoData.__name__}: FileNotFoundError: no table\n")
        and '{"cases"' not in said.out
    )


def test_feasts_store_holds_the_views_values_and_all_servers_get_the_same_requests(
    built_shop, tmp_path
):
    from feast import FeatureStore

    folder = tmp_path / "stock"
    folder.mkdir()
    at = "2020-12-01T06:00:00+00:00"
    work = prepare(str(built_shop), str(folder), "next_sales", at, [1, 3])
    assert Measurement("", **repeat(work, 1, 60.0)).rows == 24
    ours, feast = (
        [json.loads(line) for line in bodies(folder, name, 3).read_text().splitlines()]
        for name in ("ours", "feast_serve")
    )
    assert len(ours) == len(feast) > 100
    assert feast[0]["entities"]["shop_id"] == [row["shop_id"] for row in ours[0]["rows"]]
    assert set(ours[0]["rows"][0]) == {"shop_id", "opens"} and ours[0]["rows"][0]["opens"].endswith(
        "Z"
    )
    store = FeatureStore(repo_path=str(folder))
    answer = store.get_online_features(
        store.get_feature_service(SERVICE), feast[0]["entities"], full_feature_names=True
    ).to_dict()
    assert "last_day__cents" in answer and None not in answer["shop_sales__cents_mean_7d"]
