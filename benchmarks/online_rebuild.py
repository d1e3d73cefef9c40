"""Readers during a rebuild: one process per core reads at a fixed rate, before and during it.

A read fails if it raises or returns other values than before the rebuild.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import online_ours
from benchmarks.harness import ROOT, Outcome, Work, cores, latencies
from benchmarks.online_data import OnlineData, Reads, values_hash
from benchmarks.online_stores import feature_store

# A fixed rate, as callers have: readers without pauses would measure the competition for cores.
READS_PER_SECOND = 200
ROWS = 10


def readers_meanwhile(
    folder: str, data: dict[str, int], store: str, redis_url: str, quiet_seconds: float = 5.0
) -> Work:
    """Rebuild the filled store; the figures are the latencies of the readers."""
    made = OnlineData(**data)
    opened = feature_store(Path(folder), made, store, redis_url)
    command = [sys.executable, "-m", "benchmarks.online_rebuild"]
    command += [
        json.dumps({"folder": folder, "data": data, "store": store, "redis_url": redis_url})
    ]
    readers: list[_Readers] = []
    ends: list[float] = []

    def before() -> None:
        readers[:] = [_Readers(command)]
        time.sleep(quiet_seconds)

    def run() -> int:
        start = time.monotonic()
        # In its own thread, whose priority is lowered: readers of the next repetition inherit the
        # priority of this one.
        with ThreadPoolExecutor(1) as executor:
            rows = executor.submit(online_ours.rebuild, opened, made).result()
        ends[:] = [start, time.monotonic()]
        return rows

    return Work(run, lambda rows: Outcome(rows, "", readers[0].ended().figures(*ends)), before)


class _Readers:
    """Reader processes, which run until `ended` is called or this process ends."""

    def __init__(self, command: list[str]) -> None:
        self._seen: list[dict[str, Any]] = []
        self._processes = [
            subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(cores())
        ]
        for process in self._processes:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise RuntimeError("a reader did not start")

    def ended(self) -> _Readers:
        """Stop the readers by closing their input, and collect their results."""
        self._seen = [
            json.loads(process.communicate(timeout=60)[0] or "{}") for process in self._processes
        ]
        return self

    def figures(self, start: float, end: float) -> dict[str, float]:
        """Latencies, measured from the time a read is due; `meanwhile` counts reads due during the
        rebuild.
        """
        if not all(self._seen):
            raise RuntimeError("a reader ended without a result")
        due = np.concatenate([np.array(seen["due"]) for seen in self._seen])
        took = np.concatenate([np.array(seen["took"]) for seen in self._seen])
        during = (due >= start) & (due < end)
        failed = sum(seen["failed"] for seen in self._seen)
        figures = {
            "readers": len(self._seen),
            "reads_meanwhile": int(during.sum()),
            "failed_reads": failed,
        }
        for name, chosen in (("quiet", due < start), ("meanwhile", during)):
            if chosen.any():
                figures |= {
                    f"{name}_{figure}": value for figure, value in latencies(took[chosen]).items()
                }
        return figures


def _read_at_fixed_rate(folder: str, data: dict[str, int], store: str, redis_url: str) -> None:
    """Read until standard input is closed.

    Prints `ready` at the start and, at the end, JSON: when each read was due and how long it took.
    """
    made = OnlineData(**data)
    read = online_ours.reader(feature_store(Path(folder), made, store, redis_url), made, made.views)
    requests = Reads(made.views, ROWS, 200).keys(made.entities)
    expected = [values_hash(iter([read(keys)])) for keys in requests]
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    print("ready", flush=True)
    due: list[float] = []
    took: list[float] = []
    failed = 0
    moment = time.monotonic()
    while not ended.is_set():
        time.sleep(max(moment - time.monotonic(), 0.0))
        number = len(due) % len(requests)
        try:
            matrix = read(requests[number])
            seconds = time.monotonic() - moment
            failed += values_hash(iter([matrix])) != expected[number]
        except Exception:  # any error leaves the caller without an answer
            seconds = time.monotonic() - moment
            failed += 1
        due.append(moment)
        took.append(seconds)
        moment += 1 / READS_PER_SECOND
    print(json.dumps({"due": due, "took": took, "failed": failed}))


if __name__ == "__main__":
    _read_at_fixed_rate(**json.loads(sys.argv[1]))
