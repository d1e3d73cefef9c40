"""Measures contenders, each in its own process, and reports the results; used by all benchmarks.

A contender is a function `module:name` that takes JSON values and returns a `Work`. Only `Work.run`
is timed, not the function itself (imports, opening a registry). The peak is the resident memory of
the whole process, imports included, after the first repetition and before its result is checked.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.markdown import as_markdown, figure, seconds
from benchmarks.servers import NoServer

if TYPE_CHECKING:
    import numpy as np

ROOT = Path(__file__).parent.parent
MB = 1_000_000


class UnequalResults(Exception):
    """Contenders that must agree do not, so that their times are meaningless."""


class NoData(Exception):
    """The data of a benchmark cannot be generated."""


@dataclass(frozen=True)
class Outcome:
    """The result of a repetition: the number of rows, a hash that is equal for equal results, and
    more figures by name.
    """

    rows: int
    hash: str
    more: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What is timed (`run`), and what is not: the check of its result (`outcome`) and the
    preparation of each repetition (`before`).
    """

    run: Callable[[], Any]
    outcome: Callable[[Any], Outcome]
    before: Callable[[], Any] = lambda: None


@dataclass(frozen=True)
class Measurement:
    """A contender's figures: seconds and CPU seconds of all cores (medians), peak in MB of 10^6
    bytes; or the reason for which it failed.
    """

    contender: str
    seconds: float = 0.0
    fastest: float = 0.0
    cpu_seconds: float = 0.0
    repetitions: int = 0
    peak_mb: float = 0.0
    rows: int = 0
    hash: str = ""
    more: dict[str, float] = field(default_factory=dict)
    failed: str = ""

    @property
    def rows_per_s(self) -> float:
        """Rows of the result per second (median)."""
        return self.rows / self.seconds if self.seconds else 0.0


def measure(
    contender: str,
    target: str,
    arguments: dict[str, Any],
    *,
    folder: Path,
    repetitions: int = 5,
    patience: float = 60.0,
    timeout: float = 1800.0,
    spare_mb: float = 1500.0,
) -> Measurement:
    """Run a contender's repetitions in a child process.

    The child's working directory is `folder`, since some libraries spill there. No repetition
    starts after `patience` seconds of work. The child is killed, and counts as failed, after
    `timeout` seconds or when the machine has less than `spare_mb` of free memory.
    """
    request = json.dumps(
        {"target": target, "arguments": arguments, "repetitions": repetitions, "patience": patience}
    )
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-m", "benchmarks.harness"]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=answer,
            stderr=errors,
            cwd=folder,
            env=environment,
        )
        assert child.stdin is not None
        with child.stdin as pipe:
            pipe.write(request.encode())
        try:
            reason, peak = _wait(child, timeout, spare_mb)
        finally:  # also after an interrupt
            child.kill()
            child.wait()
        answer.seek(0)
        output = answer.read().splitlines()
        if not reason and output:
            return Measurement(contender, **json.loads(output[-1]))
        errors.seek(0)
        sys.stderr.write(errors.read().decode(errors="replace"))
        return Measurement(
            contender, peak_mb=peak, failed=reason or f"ended with {child.returncode}"
        )


def _wait(child: subprocess.Popen[bytes], timeout: float, spare_mb: float) -> tuple[str, float]:
    """The reason for killing the child ("" if it ended by itself), and its peak memory in MB."""
    start, most = time.monotonic(), 0.0
    while True:
        try:
            child.wait(0.2)
            return "", most
        except subprocess.TimeoutExpired:
            most = max(most, _kilobytes(f"/proc/{child.pid}/status", "VmHWM") / 1000)
        left = _kilobytes("/proc/meminfo", "MemAvailable") / 1000
        elapsed = time.monotonic() - start
        reason = f"took more than {timeout:.0f} s" if elapsed > timeout else ""
        if 0 < left < spare_mb:
            reason = (
                f"killed after {elapsed:.0f} s at {most:.0f} MB: the machine had {left:.0f} MB left"
            )
        if reason:
            return reason, most


def _kilobytes(path: str, name: str) -> float:
    """A field of a /proc file in units of 1000 bytes; 0 if it does not exist."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0.0
    return next(
        (float(line.split()[1]) * 1.024 for line in lines if line.startswith(f"{name}:")), 0.0
    )


def peak_mb() -> float:
    """The peak resident memory of this process in MB.

    On Linux, unlike `ru_maxrss`, it does not include the peak of the parent process.
    """
    here = _kilobytes("/proc/self/status", "VmHWM") / 1000
    unit = 1 if sys.platform == "darwin" else 1024
    return here or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB


def peak_mb_of(pid: int) -> float:
    """The largest peak resident memory among a process and its children, in MB; 0 if unknown."""
    return max(_kilobytes(f"/proc/{each}/status", "VmHWM") / 1000 for each in _with_children(pid))


def cpu_seconds_of(pid: int) -> float:
    """The CPU seconds of a process and its living children until now; 0 if unknown."""
    ticks = 0
    for each in _with_children(pid):
        try:
            # The name in parentheses may contain spaces; user and system time are the 12th and 13th
            # field after it.
            ticks += sum(
                map(int, Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[11:13])
            )
        except OSError:
            continue  # ended since it was listed
    return ticks / os.sysconf("SC_CLK_TCK")


def _with_children(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(each for child in children for each in _with_children(int(child)))]


def latencies(seconds: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Median and 99th percentile in milliseconds, as figures of an `Outcome`."""
    import numpy as np  # a global import would add to every contender's memory

    p50, p99 = np.percentile(np.asarray(seconds) * 1000, (50, 99))
    return {"p50_ms": float(p50), "p99_ms": float(p99)}


def repeat(work: Work, repetitions: int, patience: float) -> dict[str, Any]:
    """The fields of a `Measurement` except the name.

    Raises `UnequalResults` if repetitions differ.
    """
    seconds: list[float] = []
    cpu: list[float] = []
    outcomes: list[Outcome] = []
    peak = 0.0
    while len(seconds) < max(repetitions, 1) and (not seconds or sum(seconds) < patience):
        work.before()
        gc.collect()
        start, start_cpu = time.perf_counter(), time.process_time()
        result = work.run()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
        peak = peak or peak_mb()
        outcomes.append(work.outcome(result))
        del result
    if len({outcome.hash for outcome in outcomes}) > 1:
        raise UnequalResults(f"repetitions gave {', '.join(outcome.hash for outcome in outcomes)}")
    first = outcomes[0]
    more = {name: median(outcome.more[name] for outcome in outcomes) for name in first.more}
    return {
        "seconds": median(seconds),
        "fastest": min(seconds),
        "cpu_seconds": median(cpu),
        "repetitions": len(seconds),
        "peak_mb": peak,
        "rows": first.rows,
        "hash": first.hash,
        "more": more,
    }


def _child() -> None:
    request = json.load(sys.stdin)
    module, name = request["target"].split(":")
    with redirect_stdout(sys.stderr):
        try:
            work: Work = getattr(importlib.import_module(module), name)(**request["arguments"])
            result = repeat(work, request["repetitions"], request["patience"])
        except Exception as error:
            first = str(error).strip().splitlines() or [""]
            result = {"peak_mb": peak_mb(), "failed": f"{type(error).__name__}: {first[0]}"[:200]}
    print(json.dumps(result))


def report(measured: Callable[[], dict[str, list[Measurement]]]) -> int:
    """Run a benchmark, print its cases as one line of JSON, and return the exit code.

    1 if results that must be equal differ, 2 if the data cannot be generated or a server does not
    start; then no JSON is printed.
    """
    try:
        cases = measured()
    except UnequalResults as error:
        print(f"UnequalResults: {error}", file=sys.stderr)
        return 1
    except (NoData, NoServer, OSError, subprocess.SubprocessError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(as_json(cases))
    return 0


def compare(
    case: str,
    contenders: Iterable[str],
    measured: Callable[[str], Measurement],
    note: str,
    groups: Callable[[list[Measurement]], Iterable[Iterable[Measurement]]] = lambda measurements: [
        measurements
    ],
) -> list[Measurement]:
    """Measure a case's contenders one after the other and print their table.

    Raises `UnequalResults` where the contenders of a group differ; by default all are one group.
    """
    measurements = []
    for contender in contenders:
        print(f"{case}: {contender} …", file=sys.stderr, flush=True)
        measurements.append(measured(contender))
    print(table(case, measurements, note), flush=True)
    refuse_unequal(case, groups(measurements))
    return measurements


def refuse_unequal(case: str, groups: Iterable[Iterable[Measurement]]) -> None:
    """Raise `UnequalResults` where contenders of a group that did not fail differ."""
    for group in groups:
        finished = [one for one in group if not one.failed]
        if len({one.hash for one in finished}) > 1:
            output = ", ".join(f"{one.contender} {one.hash}" for one in finished)
            raise UnequalResults(f"case '{case}': results that must be equal are not: {output}.")


def cores() -> int:
    """The number of cores that a contender may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def table(case: str, measurements: list[Measurement], note: str = "") -> str:
    """The measurements of a case as Markdown.

    `times` is the median divided by that of the first contender that did not fail.
    """
    finished = [one for one in measurements if not one.failed]
    base = finished[0].seconds if finished else 0.0
    more = list(dict.fromkeys(name for one in finished for name in one.more))
    head = [
        "contender",
        "seconds",
        "fastest",
        "cpu s",
        "runs",
        "times",
        "peak MB",
        "rows/s",
        "rows/s/core",
        *more,
        "hash",
    ]
    rows = [_row(one, base, more) for one in measurements]
    return "\n".join([f"### {case}", *([note] if note else []), "", *as_markdown(head, rows), ""])


def _row(one: Measurement, base: float, more: list[str]) -> list[str]:
    if one.failed:
        return [
            one.contender,
            "-",
            "-",
            "-",
            "0",
            "-",
            f"{one.peak_mb:,.0f}",
            "-",
            "-",
            *["-"] * len(more),
            one.failed,
        ]
    times = [seconds(one.seconds), seconds(one.fastest), seconds(one.cpu_seconds)]
    figures = [*times, str(one.repetitions), f"{one.seconds / base:.2f}"]
    figures += [f"{one.peak_mb:,.0f}", f"{one.rows_per_s:,.0f}", f"{one.rows_per_s / cores():,.0f}"]
    return [
        one.contender,
        *figures,
        *[figure(one.more[name]) if name in one.more else "" for name in more],
        one.hash,
    ]


def as_json(cases: dict[str, list[Measurement]]) -> str:
    """All cases as one line: `{"cases": {case: {contender: {"seconds": …, "peak_mb": …,
    "rows_per_s": …, "hash": …}}}}`.
    """
    return json.dumps(
        {
            "cases": {
                case: {one.contender: _json(one) for one in measurements}
                for case, measurements in cases.items()
            }
        }
    )


def _json(one: Measurement) -> dict[str, Any]:
    if one.failed:
        return {
            "seconds": None,
            "peak_mb": round(one.peak_mb, 1),
            "rows_per_s": None,
            "hash": None,
            "failed": one.failed,
        }
    fields = asdict(one)
    rounded = {name: round(fields[name], 6) for name in ("seconds", "fastest", "cpu_seconds")}
    return {
        **rounded,
        "peak_mb": round(one.peak_mb, 1),
        "rows_per_s": round(one.rows_per_s, 1),
        "hash": one.hash,
        "repetitions": one.repetitions,
        **{name: round(value, 6) for name, value in one.more.items()},
    }


if __name__ == "__main__":
    _child()
