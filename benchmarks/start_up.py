"""Measures whole commands as processes: `python -m benchmarks.start_up`.

See `benchmarks/README.md`. Prints a table and, as its last line, one JSON object. CPU seconds
are user and system time of the process and its children; MB are 10^6 bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

from benchmarks.harness import (
    MB,
    ROOT,
    Measurement,
    NoData,
    cpu_seconds_of,
    peak_mb_of,
    report,
)
from benchmarks.markdown import as_markdown
from benchmarks.servers import HOST, NoServer, end, free_port

# A child's peak starts at its parent's memory, so this module imports little.
BIN = Path(sys.executable).parent
DOMAIN = "flights"
CASE = "start_up"
# Limits in CPU seconds.
LIMITS = {
    "help": 0.3,
    "status": 2.0,
    "build_nothing_new": 4.0,
    "build_one_hour": 6.0,
    "materialize_one_hour": 6.0,
    "serve_ready": 8.0,
}
HOUR = timedelta(hours=1)
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Cost:
    """The cost of one run of a command."""

    cpu_seconds: float
    seconds: float
    peak_mb: float


class Commands:
    """The measured commands on a data folder, which they change: each run builds a new hour."""

    def __init__(self, home: Path, domain: str) -> None:
        self.domain = domain
        self.environment = {**os.environ, "PUNCTUAL_HOME": str(home)}
        # The uncounted first run writes the bytecode that the measured runs load.
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.now = datetime.fromisoformat(self._status()["clock"])

    def _status(self) -> dict:
        command = [str(BIN / "punctual"), "status", "--json"]
        shown = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if shown.returncode:
            raise NoData(f"punctual status: {shown.stderr.strip()}")
        return dict(json.loads(shown.stdout))

    def help(self) -> Cost:
        """`punctual --help`."""
        return self._finished("--help")

    def status(self) -> Cost:
        """`punctual status`."""
        return self._finished("status")

    def build_nothing_new(self) -> Cost:
        """A build up to the time to which everything is already built."""
        return self._finished("features", "build", self.domain, "--as-of", self.now.isoformat())

    def build_one_hour(self) -> Cost:
        """A build of one more hour."""
        self.now += HOUR
        return self.build_nothing_new()

    def materialize_one_hour(self) -> Cost:
        """The materialization of one more hour; its build is not measured."""
        self.build_one_hour()
        at = self.now.isoformat()
        return self._finished("features", "materialize", self.domain, "--as-of", at)

    def serve_ready(self) -> Cost:
        """The start of a server until `/readyz` answers 200."""
        port = free_port()
        start = time.perf_counter()
        with self._started("serve", "--port", str(port)) as process:
            try:
                _wait(process, f"http://{HOST}:{port}/readyz")
                seconds = time.perf_counter() - start
                return Cost(cpu_seconds_of(process.pid), seconds, peak_mb_of(process.pid))
            finally:
                end(process)

    def _started(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(BIN / "punctual"), *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def _finished(self, *arguments: str) -> Cost:
        start = time.perf_counter()
        with self._started(*arguments) as process:
            assert process.stderr is not None
            message = process.stderr.read()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise NoData(
                f"punctual {' '.join(arguments)}: {message.decode(errors='replace').strip()}"
            )
        unit = 1 if sys.platform == "darwin" else 1024
        return Cost(
            used.ru_utime + used.ru_stime, time.perf_counter() - start, used.ru_maxrss * unit / MB
        )


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    until, message = time.monotonic() + PATIENCE_SECONDS, ""
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError as error:  # not yet ready
            message = error.read().decode(errors="replace")
        except OSError:  # not yet listening
            pass
        time.sleep(0.02)
    raise NoServer(f"{url} was not ready: {message}")


def measured(name: str, run: Callable[[], Cost], repetitions: int) -> Measurement:
    """The medians of the runs after a first one that is not counted."""
    print(f"{name} …", file=sys.stderr, flush=True)
    run()
    costs = [run() for _ in range(repetitions)]
    return Measurement(
        name,
        seconds=median(one.seconds for one in costs),
        fastest=min(one.seconds for one in costs),
        cpu_seconds=median(one.cpu_seconds for one in costs),
        repetitions=repetitions,
        peak_mb=median(one.peak_mb for one in costs),
        more={"limit_cpu_s": LIMITS[name]},
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code of `report`."""
    options = _arguments().parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        return report(lambda: _measured(options, Path(folder).resolve() / "home"))


def _measured(options: argparse.Namespace, home: Path) -> dict[str, list[Measurement]]:
    if options.home:
        shutil.copytree(options.home, home)
    else:
        _make(home)
    commands = Commands(home, options.domain)
    names = dict.fromkeys(options.command or LIMITS)
    found = [measured(name, getattr(commands, name), options.repetitions) for name in names]
    print(table(found))
    return {CASE: found}


def _make(home: Path) -> None:
    """Make a data folder with a champion by `punctual demo --once`."""
    print(f"{home}: punctual demo --once …", file=sys.stderr, flush=True)
    subprocess.run(
        [str(BIN / "punctual"), "demo", "--once"],
        cwd=ROOT,
        env={**os.environ, "PUNCTUAL_HOME": str(home)},
        check=True,
        stdout=sys.stderr,
    )


def table(found: list[Measurement]) -> str:
    """The measurements as Markdown, CPU seconds first."""
    head = ["command", "cpu s", "limit", "seconds", "peak MB", "runs"]
    rows = [
        [
            one.contender,
            f"{one.cpu_seconds:.2f}",
            f"{one.more['limit_cpu_s']:g}",
            f"{one.seconds:.2f}",
            f"{one.peak_mb:,.0f}",
            str(one.repetitions),
        ]
        for one in found
    ]
    return "\n".join([f"### {CASE}", "", *as_markdown(head, rows), ""])


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start_up", description=__doc__)
    parser.add_argument(
        "--command", action="append", choices=[*LIMITS], help="may be repeated; default: all"
    )
    parser.add_argument("--home", type=Path, help="data folder to copy; default: a new one")
    parser.add_argument("--domain", default=DOMAIN, help="domain to build and materialize")
    parser.add_argument("--repetitions", type=int, default=5, help="number of counted runs (5)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
