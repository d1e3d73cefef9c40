"""Runs the README's commands on the real flights and compares their output."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.cli import COMMANDS, module_command

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"<!-- walkthrough: (\w+) -->\n```\w+\n(.*?)```", re.DOTALL)


def block(name):
    """A code block of the README, by the name in the comment above it."""
    return dict(BLOCK.findall(README))[name]


def masked(line):
    """A line with its numbers and spacing masked."""
    return re.sub(r"\s+", " ", re.sub(r"[\d][\d,.:TZ-]*", "#", line)).strip()


def assert_shows(output, expected):
    """Asserts that the output has the expected lines in order; `…` matches the rest of a line."""
    lines = [masked(line) for line in output.splitlines()]
    at = 0
    for wanted in expected:
        start = masked(wanted.split("…")[0])
        whole = "…" not in wanted
        while at < len(lines) and not (
            lines[at] == start if whole else lines[at].startswith(start)
        ):
            at += 1
        assert at < len(lines), (
            f"the README shows {wanted!r}, which is not in the output (any more, or not in this"
            f" place):\n{output}"
        )
        at += 1


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("walkthrough")
    return {
        **os.environ,
        "PUNCTUAL_HOME": str(folder / "data"),
        "HOME": str(folder),
    }


def punctual(environment, *arguments, codes=(0,)):
    command = [sys.executable, "-m", "orchestration.cli", *arguments]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode in codes, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.timeout(600)
def test_the_readme_from_raw_flights_to_a_live_prediction(environment):
    before = set(os.listdir(ROOT))
    command, *expected = block("demo").splitlines()
    assert command == "$ punctual demo --once"
    assert_shows(punctual(environment, "demo", "--once", "--port", free_port()), expected)

    command, *expected = block("status").splitlines()
    assert command == "$ punctual status"
    assert_shows(punctual(environment, "status"), expected)
    status = json.loads(punctual(environment, "status", "--json"))
    assert 0.65 < status["champion"]["metrics"]["test"]["roc_auc"] < 0.85
    assert all(view["fresh"] for view in status["views"].values())

    code = block("notebook").replace('home="data"', f"home={environment['PUNCTUAL_HOME']!r}")
    code += (
        "\nassert len(rows) > 290_000 and rows.event_timestamp.max() <"
        " __import__('pandas').Timestamp('2013-12-01', tz='UTC')"
    )
    code += "\nassert features.shape[0] == 1 and 0 < predicted.probability[0] < 1"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr

    batch = json.loads(punctual(environment, "batch", "arrival_delay", "--json"))
    assert Path(batch["path"]).is_relative_to(environment["PUNCTUAL_HOME"])
    # December is colder than the rest of the year, so monitoring ends with its exit code for drift.
    monitored = json.loads(punctual(environment, "monitor", "arrival_delay", "--json", codes=(1,)))
    assert "features have drifted" in monitored["reasons"][0]
    # The second demo builds nothing, keeps the champion, and its server answers as before.
    again = json.loads(punctual(environment, "demo", "--once", "--json", "--port", free_port()))
    assert [set(row) >= {"probability", "is_late"} for row in again["predictions"]] == [True] * len(
        again["predictions"]
    )
    # Nothing was written outside the data folder.
    made = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"}
    assert set(os.listdir(ROOT)) - before <= made
    assert set(os.listdir(environment["HOME"])) == {"data"}


def test_the_readmes_table_names_every_command():
    rows = dict(re.findall(r"^\| `([^`]+)` \| `([^`]+)`", README, re.MULTILINE))
    rows.pop("punctual …", None)
    for words, target in COMMANDS.items():
        name = " ".join(words)
        found = [
            stage
            for command, stage in rows.items()
            if command == name or command.startswith(f"{name} ")
        ]
        assert found, f"the README's table has no `{name}`"
        if target.module in ("pipelines", "training", "inference"):
            assert found[0].startswith(module_command(words)), name
    assert len(rows) == len(COMMANDS)


def test_the_makefile_has_the_targets_that_the_readme_names():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)", README)) - {"an"} <= targets
