"""Compares prediction servers over HTTP: `python -m benchmarks.serving`.

See `benchmarks/README.md`. Prints one table per case and, as the last line, one JSON object.
Figures in milliseconds are latencies, MB are 10^6 bytes; seconds and the server's CPU seconds are
per request at the highest throughput.
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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    ROOT,
    Measurement,
    NoData,
    compare,
    cores,
    cpu_seconds_of,
    measure,
    peak_mb_of,
    report,
)
from benchmarks.load import Load, Target, closed_loop, open_loop
from benchmarks.servers import HOST, NoServer, end, free_port
from benchmarks.serving_data import SERVICE, bodies

CONTENDERS = ("ours", "feast_serve", "fastapi_empty")
CASES = {"predict_1": 1, "predict_100": 100}
CONNECTIONS = (4, 16)
OPEN_CONNECTIONS = 64
DOMAIN, USE_CASE = "flights", "arrival_delay"
START_PATIENCE = 120.0
BIN = Path(sys.executable).parent
# No limit of requests, at which the only worker would restart.
FEAST_OPTIONS = (
    "--workers",
    "1",
    "--no-access-log",
    "--max-requests",
    "0",
    "--registry_ttl_sec",
    "3600",
)


@dataclass(frozen=True)
class ConcurrentLoad:
    """A closed loop on several connections, and the CPU seconds of the server during it."""

    connections: int
    load: Load
    cpu_seconds: float


@dataclass(frozen=True)
class Run:
    """The data folder, the time `at` which it is served, and the duration of each load."""

    home: Path
    folder: Path
    at: str
    seconds: float

    def case(self, name: str, contenders: Iterable[str]) -> list[Measurement]:
        """Measure a case's contenders."""
        rows = CASES[name]
        return compare(
            name, contenders, lambda contender: self.measured(contender, rows), _note(rows)
        )

    def measured(self, contender: str, rows: int) -> Measurement:
        """Measure a new server on one connection, on several, and in an open loop at half of its
        highest throughput.
        """
        with self.serving(contender) as (port, process):
            path = "/get-online-features" if contender.startswith("feast") else "/predict"
            target = Target(port, path, str(bodies(self.folder, contender, rows)))
            _check(target, contender, rows)
            closed_loop(target, 1, max(self.seconds / 5, 1.0))  # warm-up
            single = closed_loop(target, 1, self.seconds)
            concurrent = [
                self._concurrent_load(target, connections, process.pid)
                for connections in CONNECTIONS
            ]
            best = max(concurrent, key=lambda each: each.load.per_second)
            half = open_loop(target, OPEN_CONNECTIONS, self.seconds, best.load.per_second / 2)
            return _measurement(contender, rows, single, best, half, peak_mb_of(process.pid))

    def _concurrent_load(self, target: Target, connections: int, pid: int) -> ConcurrentLoad:
        before = cpu_seconds_of(pid)
        return ConcurrentLoad(
            connections,
            closed_loop(target, connections, self.seconds),
            cpu_seconds_of(pid) - before,
        )

    @contextmanager
    def serving(self, contender: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
        """A server with one worker on a free loopback port, ready to answer."""
        port = free_port()
        command, ready = {
            "ours": (
                [
                    sys.executable,
                    "-m",
                    "inference",
                    "serve",
                    USE_CASE,
                    "--port",
                    str(port),
                    "--as-of",
                    self.at,
                ],
                "readyz",
            ),
            "feast_serve": (
                [
                    str(BIN / "feast"),
                    "-c",
                    str(self.folder),
                    "serve",
                    "--port",
                    str(port),
                    *FEAST_OPTIONS,
                ],
                "health",
            ),
            "fastapi_empty": ([sys.executable, "-m", "benchmarks.floor", str(port)], "docs"),
        }[contender]
        log = self.folder / f"{contender}.log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "PUNCTUAL_HOME": str(self.home)},
                stdout=said,
                stderr=said,
            )
            try:
                _wait(process, f"http://{HOST}:{port}/{ready}", log)
                yield port, process
            finally:
                end(process)


def _measurement(
    contender: str, rows: int, single: Load, best: ConcurrentLoad, half: Load, peak: float
) -> Measurement:
    """Seconds are those of one request at the highest throughput, so that they, and not how long
    was options, are compare.
    """
    if failed := single.failed + best.load.failed + half.failed:
        return Measurement(
            contender, peak_mb=peak, failed=f"{failed} requests did not get status 200"
        )
    if not all((single.answers, best.load.answers, half.answers)):
        return Measurement(
            contender,
            peak_mb=peak,
            failed="no request was answered during a load; use more --seconds",
        )
    rate = best.load.per_second
    more = {
        "p50_ms": single.p50_ms,
        "p99_ms": single.p99_ms,
        "requests_per_s": rate,
        "connections": best.connections,
    }
    more |= {
        "open_rate": rate / 2,
        "open_p50_ms": half.p50_ms,
        "open_p99_ms": half.p99_ms,
        "open_p999_ms": half.p999_ms,
    }
    cpu = best.cpu_seconds / best.load.answers
    return Measurement(
        contender, 1 / rate, 1 / rate, cpu, repetitions=1, peak_mb=peak, rows=rows, more=more
    )


def _check(target: Target, contender: str, rows: int) -> None:
    """Raise `NoServer` if the first answer lacks the prediction or the features of a row."""
    request = urllib.request.Request(
        f"http://{HOST}:{target.port}{target.path}",
        data=Path(target.bodies).read_bytes().splitlines()[0],
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answered:
            answer: Any = json.load(answered)
    except urllib.error.HTTPError as error:
        raise NoServer(
            f"{contender} answered with {error.code}: {error.read().decode(errors='replace')[:300]}"
        ) from error
    if contender == "ours":
        given = len(answer["predictions"])
    elif contender.startswith("feast"):
        given = min(len(column["values"]) for column in answer["results"])
    else:
        given = rows
    if given != rows:
        raise NoServer(f"{contender} gave {given} results for {rows} rows")


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_PATIENCE
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:  # not yet listening, or not yet ready
            time.sleep(0.1)
    raise NoServer(f"{url} was not ready: {log.read_text(errors='replace')[-500:]}")


def make_home(home: Path, at: str) -> None:
    """Make a data folder with a champion by `punctual demo --once`, or materialize an existing one.

    Either way, the online store has the current format.
    """
    is_there = (home / "mlflow.db").exists()
    command = ["features", "materialize", DOMAIN, "--as-of", at] if is_there else ["demo", "--once"]
    print(f"{home}: punctual {' '.join(command)} …", file=sys.stderr, flush=True)
    environment = {**os.environ, "PUNCTUAL_HOME": str(home)}
    subprocess.run(
        [str(BIN / "punctual"), *command], cwd=ROOT, env=environment, check=True, stdout=sys.stderr
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code of `report`."""
    options = _arguments().parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        return report(lambda: _measured(options, Path(temporary).resolve()))


def _measured(options: argparse.Namespace, folder: Path) -> dict[str, list[Measurement]]:
    home = Path(options.home or folder / "home").resolve()
    make_home(home, options.as_of)
    names = {
        "home": str(home),
        "folder": str(folder),
        "use_case": USE_CASE,
        "at": options.as_of,
        "rows": list(CASES.values()),
    }
    prepared = measure(
        SERVICE, "benchmarks.serving_data:prepare", names, folder=folder, repetitions=1
    )
    if prepared.failed:
        raise NoData(prepared.failed)
    run = Run(home, folder, options.as_of, options.seconds or (2.0 if options.quick else 10.0))
    return {
        name: run.case(name, options.contender or CONTENDERS)
        for name in dict.fromkeys(options.case or CASES)
    }


def _note(rows: int) -> str:
    by = "wrk" if shutil.which("wrk") else "benchmarks/load.py"
    conditions = (
        f"POST with {rows} row{'s' if rows > 1 else ''}, one worker, keep-alive, ours with its"
        f" log; closed loop by {by}"
    )
    throughput = (
        f"`requests_per_s` and seconds on {' or '.join(map(str, CONNECTIONS))} `connections`,"
        " whichever was higher"
    )
    return (
        f"{conditions}: `p50_ms` and `p99_ms` on one connection, {throughput}; open loop"
        f" (`open_`) at half of that rate; {cores()} cores."
    )


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument(
        "--case", action="append", choices=[*CASES], help="may be repeated; default: all"
    )
    parser.add_argument(
        "--contender",
        action="append",
        choices=CONTENDERS,
        help="may be repeated; default: all",
    )
    parser.add_argument(
        "--home",
        type=Path,
        help="data folder with a champion, created if missing; default: temporary",
    )
    parser.add_argument(
        "--as-of",
        default="2013-12-05T20:00:00+00:00",
        help="time at which the data folder is served",
    )
    parser.add_argument("--seconds", type=float, help="duration of each load (10)")
    parser.add_argument("--quick", action="store_true", help="two seconds per load")
    return parser


if __name__ == "__main__":
    sys.exit(main())
