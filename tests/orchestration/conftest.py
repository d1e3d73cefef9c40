"""A tiny stage, and a scheduler whose clocks are set by hand."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestration.ledger import Ledger
from orchestration.schedule import Scheduler
from orchestration.step_run import Stopped, run_step
from orchestration.steps import Step
from punctual.home import Home

# Records each call and obeys the next line of `<first argument>.plan`: an exit code and a text,
# or `sleep`.
TINY_STAGE = """
import json, os, pathlib, sys, time

folder = pathlib.Path(os.environ["TINY"])

def note(what):
    with (folder / "calls").open("a") as file:
        file.write(json.dumps({"what": what, "argv": sys.argv[1:], "pid": os.getpid()}) + "\\n")

plan = folder / f"{sys.argv[1]}.plan"
lines = plan.read_text().splitlines() if plan.exists() else []
code, _, text = (lines or ["0"])[0].partition(" ")
if lines:
    plan.write_text("\\n".join(lines[1:]))
# Last: a test may end this process as soon as it sees the note.
note("begins")
if code == "sleep":
    time.sleep(60)
print(text, file=sys.stderr, end="\\n" if text else "")
note("ends")
sys.exit(int(code))
"""


class Tiny:
    """The stage `tiny`: the plan of its next calls and a record of its past ones."""

    def __init__(self, folder):
        self.folder = folder

    def step(self, name="materialize", cron="0 * * * *", stages=None, options=(), **others):
        return Step(
            name,
            "shop",
            f"{name}-target",
            cron,
            tuple(("tiny", each, "--as-of", "{as_of}", *options) for each in stages or (name,)),
            **{"timeout_seconds": 60, "retry_delay_seconds": 10, **others},
        )

    def batch(self, **others):
        others = {"after": ("materialize",), "needs": "champion", **others}
        return self.step("batch", "0 6 * * *", **others)

    def train(self, **others):
        others = {"after": ("materialize",), "first_run_without": "champion", **others}
        return self.step("train", "0 7 * * 1", **others)

    def plan(self, stage, *lines):
        (self.folder / f"{stage}.plan").write_text("\n".join(lines))

    def calls(self, what="begins"):
        path = self.folder / "calls"
        found = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )
        return [call for call in found if call["what"] == what]

    def ran(self):
        """(stage, timestamp) of each call, in order."""
        return [(call["argv"][0], call["argv"][2]) for call in self.calls()]


@pytest.fixture
def tiny(tmp_path, monkeypatch, home):
    (tmp_path / "tiny.py").write_text(TINY_STAGE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TINY", str(tmp_path))
    return Tiny(tmp_path)


class World:
    """A scheduler with both clocks set by hand; `champions` are the use cases with a champion."""

    def __init__(self, steps, now, champions=()):
        self.now = datetime.fromisoformat(now)
        self.wall = datetime(2025, 1, 1, tzinfo=UTC)
        self.champions = set(champions)
        self.shown = []
        self.stop_after = None
        self.ledger = Ledger(Home.at())
        self.scheduler = Scheduler(
            steps,
            self.ledger,
            lambda: self.now,
            lambda step, moment, log: run_step(step, moment, log, home=Home.at(), sleep=self.sleep),
            self.sleep,
            wall=lambda: self.wall,
            has_champion=lambda use_case: use_case in self.champions,
            show=self.shown.append,
        )

    def sleep(self, seconds):
        if self.stop_after is not None and self.stop_after():
            raise Stopped
        time.sleep(min(seconds, 0.01))

    def at(self, now):
        """Runs what is due at a time; returns (step, timestamp, status) of the finished runs."""
        self.now = datetime.fromisoformat(now)
        return [
            (run.step, f"{run.scheduled:%d %H:%M}", run.status) for run in self.scheduler.run_due()
        ]

    def wait(self, seconds):
        self.wall += timedelta(seconds=seconds)


@pytest.fixture
def world(home):
    return World


@pytest.fixture
def small_shop(shop):
    """The shop domain with the sales of November 2020 only, since a year's tables take seconds."""
    sales = shop / "raw" / "sales.csv"
    header, *rows = sales.read_text().splitlines()
    sales.write_text(
        "\n".join([header, *(row for row in rows if row.split(",")[1] >= "2020-11")]) + "\n"
    )
    return shop


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


@pytest.fixture
def alive():
    return is_alive
