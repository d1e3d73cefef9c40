"""Schedule and server as processes: they survive a kill, stop on request and run nothing twice."""

import json
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from orchestration.cli import main
from orchestration.ledger import Ledger
from orchestration.server import HOST
from punctual.home import Home

# A schedule of the tiny stage with a fixed clock.
SCHEDULER = """
import datetime, time
from functools import partial
from orchestration.ledger import SCHEDULE, Ledger
from orchestration.schedule import Scheduler
from orchestration.step_run import run_step
from orchestration.steps import Step
from punctual.home import Home
from punctual.locks import exclusive_lock
command = ("tiny", "materialize", "--as-of", "{as_of}")
step = Step("materialize", "shop", "shop", "0 * * * *", (command,), 60)
now = datetime.datetime(2013, 12, 5, 20, tzinfo=datetime.UTC)
wall = lambda: datetime.datetime.now(datetime.UTC)
with exclusive_lock(Home.at(), SCHEDULE, 3.0) as lock:
    run = partial(
        run_step,
        home=Home.at(),
        sleep=lambda seconds: time.sleep(min(seconds, 0.05)),
        inherited_fds=(lock,),
    )
    scheduler = Scheduler(
        [step],
        Ledger(Home.at()),
        lambda: now,
        run,
        time.sleep,
        wall=wall,
        has_champion=lambda _: True,
    )
    scheduler.recover()
    for run in scheduler.run_due():
        print(run.status, flush=True)
"""


def wait_for(what, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return found


def test_a_killed_scheduler_ends_its_step_and_the_next_one_repeats_the_run(tiny, alive):
    tiny.plan("materialize", "sleep")
    first = subprocess.Popen([sys.executable, "-c", SCHEDULER])
    step = wait_for(tiny.calls)[0]["pid"]
    first.kill()
    first.wait()
    wait_for(lambda: not alive(step), 2)

    second = subprocess.run(
        [sys.executable, "-c", SCHEDULER], capture_output=True, text=True, timeout=30, check=True
    )
    assert second.stdout == "succeeded\n"
    assert [(call["what"], call["argv"][2]) for call in [*tiny.calls(), *tiny.calls("ends")]] == [
        ("begins", "2013-12-05T20:00:00Z"),
        ("begins", "2013-12-05T20:00:00Z"),
        ("ends", "2013-12-05T20:00:00Z"),
    ]
    assert [(run.attempt, run.status) for run in Ledger(Home.at()).recent(5)] == [
        (2, "succeeded"),
        (1, "interrupted"),
    ]


def test_two_schedulers_at_once_run_nothing_twice(tiny):
    tiny.plan("materialize", "sleep")
    first = subprocess.Popen([sys.executable, "-c", SCHEDULER])
    try:
        wait_for(tiny.calls)
        second = subprocess.run(
            [sys.executable, "-c", SCHEDULER],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert "AlreadyRunning" in second.stderr
        assert len(tiny.calls()) == 1
    finally:
        first.kill()
        first.wait()


class Up:
    """`punctual up` as a process, with its output so far."""

    def __init__(self, folder, *arguments):
        self.out = folder / "up.out"
        with self.out.open("wb") as out:
            command = [sys.executable, "-m", "orchestration.cli", "up", *arguments]
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def said(self, pattern):
        return re.search(pattern, self.out.read_text())

    def wait_for(self, pattern, seconds=100.0):
        end = time.monotonic() + seconds
        while not self.said(pattern):
            assert self.process.poll() is None and time.monotonic() < end, (
                f"no {pattern!r} in:\n{self.out.read_text()}"
            )
            time.sleep(0.1)


@pytest.fixture
def up(tmp_path):
    started = []

    def start(*arguments):
        started.append(Up(tmp_path, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind((HOST, 0))
        return free.getsockname()[1]


@pytest.fixture
def punctual(capsys):
    """Runs a command in this process; returns its exit code, output and errors."""

    def run(*arguments):
        capsys.readouterr()
        code = main(list(arguments))
        return code, *capsys.readouterr()

    return run


def answers(port):
    with socket.socket() as client:
        return client.connect_ex((HOST, port)) == 0


@pytest.fixture
def scheduled_shop(small_shop, tmp_path):
    """The shop with all steps, short periods and a gate that any model passes."""
    repository = tmp_path / "repository" / "shop"
    declared = (repository / "shop.py").read_text()
    schedule = '{"materialize": "0 0 * * *", "batch": "0 6 * * *", "train": "0 7 * * 1"}'
    assert '{"materialize": "0 0 * * *"}' in declared
    (repository / "shop.py").write_text(declared.replace('{"materialize": "0 0 * * *"}', schedule))
    split, gate = (
        'TimeSplit(train="10d", validation="6d", test="9d")',
        "Gate(minimum_rows=100, beats_baseline_by=-1e9)",
    )
    use_case = re.sub(r"TimeSplit\(.*\)", split, (repository / "use_case.py").read_text())
    use_case = re.sub(r"Gate\(.*\)", gate, use_case)
    (repository / "use_case.py").write_text(use_case)
    return small_shop


def test_up_builds_trains_predicts_and_serves_a_new_domain_day_after_day(
    scheduled_shop, up, port, punctual
):
    running = up("--port", str(port), "--as-of", "2020-12-01T00:00:00Z", "--speed", "3600")
    running.wait_for("materialize shop as of 2020-12-01 00:00: done")
    running.wait_for("train next_sales as of 2020-11-30 07:00: done")
    running.wait_for(f"Serving at http://127.0.0.1:{port}")
    # However long the first runs took, the days that passed meanwhile become one run.
    running.wait_for(r"materialize shop as of 2020-12-0[2-9] 00:00: done")

    code, _, refusal = punctual("up", "--port", str(port))
    assert (code, refusal.startswith("AlreadyRunning: 'schedule' runs in ")) == (75, True)

    status = json.loads(punctual("status", "--json")[1])
    assert status["scheduler"] == "running"
    assert status["champion"]["version"] == "1"
    assert status["champion"]["metrics"]["test"]["rmse"] > 0

    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=20) == 0
    assert running.said(r"Stopped at 2020-12-")
    assert not answers(port)
    after = json.loads(punctual("status", "--json")[1])
    assert after["scheduler"] == "stopped"
    # The folder's clock continues from its last time.
    assert after["as_of"] >= status["as_of"] > "2020-12-02"


def test_a_taken_port_is_reported_before_anything_runs(scheduled_shop, port, punctual):
    with socket.create_server((HOST, port)):
        code, _, refusal = punctual("up", "--port", str(port))
    assert (code, refusal) == (
        2,
        f"PortInUse: another program listens at {HOST}:{port}. Stop it or choose another --port.\n",
    )
    assert not (scheduled_shop / "schedule.db").exists()


def test_domains_in_different_times_need_an_option(scheduled_shop, tmp_path, punctual):
    copy = tmp_path / "repository" / "market"
    copy.mkdir()
    for name in ("__init__.py", "use_case.py"):
        (copy / name).write_text("")
    (copy / "domain.py").write_text(
        "from punctual import Domain\nmarket = Domain(name='market', description='Live')\n"
    )
    code, _, refusal = punctual("up")
    assert code == 2
    assert (
        "the domains have different demo moments: market in the present, shop 2020-12-01T06:00:00Z."
        in refusal
    )


def test_the_present_cannot_be_sped_up(scheduled_shop, punctual):
    code, _, refusal = punctual("up", "--as-of", "now", "--speed", "60")
    assert (code, "the present cannot go faster" in refusal) == (2, True)


@pytest.mark.parametrize("command", ["up", "status"])
def test_its_help_has_an_example(command, punctual):
    code, helped, _ = punctual(command, "--help")
    assert (code, f"Example: punctual {command}" in helped) == (0, True)
