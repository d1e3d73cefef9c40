"""Load on an HTTP server from a separate process: `python -m benchmarks.load` reads one JSON object
and prints another.

In a closed loop, each connection sends its next request when it has an answer. In an open loop,
requests are due on a schedule, independent of earlier answers, and latency counts from the time at
which a request is due, not from the time at which it is sent.
"""

from __future__ import annotations

import json
import re
import select
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.harness import ROOT
from benchmarks.servers import HOST

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Load:
    """The result of a load: answers with status 200, failed requests, elapsed seconds, and
    latencies in milliseconds.
    """

    answers: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float
    p999_ms: float

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return self.answers / self.seconds


@dataclass(frozen=True)
class Target:
    """A URL, and the file whose lines are sent to it in turn as request bodies."""

    port: int
    path: str
    bodies: str

    def requests(self) -> list[bytes]:
        """The HTTP requests as bytes."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {HOST}:{self.port}\r\nContent-Type:"
            " application/json\r\nContent-Length: "
        )
        lines = Path(self.bodies).read_bytes().splitlines()
        return [head.encode() + str(len(body)).encode() + b"\r\n\r\n" + body for body in lines]


def closed_loop(target: Target, connections: int, seconds: float) -> Load:
    """Run a closed loop, with wrk if it is installed, else with this module."""
    if shutil.which("wrk"):
        return _by_wrk(target, connections, seconds)
    return _by_process(
        {"target": asdict(target), "connections": connections, "seconds": seconds, "rate": None}
    )


def open_loop(target: Target, connections: int, seconds: float, rate: float) -> Load:
    """Run an open loop at `rate` requests per second, on at most `connections` connections."""
    return _by_process(
        {"target": asdict(target), "connections": connections, "seconds": seconds, "rate": rate}
    )


def _by_wrk(target: Target, connections: int, seconds: float) -> Load:
    script = str(Path(__file__).with_name("load.lua"))
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds:g}s",
        "--timeout",
        "30s",
        "-s",
        script,
        f"http://{HOST}:{target.port}",
    ]
    done = subprocess.run(
        [*command, "--", target.path, target.bodies], capture_output=True, text=True, check=True
    )
    return Load(**json.loads(done.stdout.strip().splitlines()[-1]))


def _by_process(arguments: dict[str, Any]) -> Load:
    command = [sys.executable, "-m", "benchmarks.load"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        input=json.dumps(arguments),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Load(**json.loads(done.stdout))


def drive(target: Target, connections: int, seconds: float, rate: float | None) -> Load:
    """Send requests for `seconds`, in an open loop if there is a `rate`.

    Requests of an open loop that are not sent after twice the time count as failed.
    """
    requests = target.requests()
    free = [_Connection(target.port) for _ in range(connections)]
    busy: dict[socket.socket, _Connection] = {}
    total = None if rate is None else round(rate * seconds)
    latencies: list[float] = []
    sent = failed = 0
    start = perf_counter()
    while True:
        now = perf_counter()
        over = now - start >= (seconds if total is None else 2 * seconds) or (
            total is not None and sent >= total
        )
        while free and not over:
            due = now if rate is None else start + sent / rate
            if due > now:
                break
            connection = free.pop()
            connection.ask(requests[sent % len(requests)], due)
            busy[connection.socket] = connection
            sent += 1
            over = total is not None and sent >= total
        if over and not busy:
            break
        wait = (
            max(start + sent / rate - perf_counter(), 0.0)
            if rate is not None and free and not over
            else 1.0
        )
        for ready in select.select(list(busy), [], [], wait)[0]:
            status = busy[ready].answer()
            if status is None:
                continue  # the answer is incomplete
            connection = busy.pop(ready)
            if status == 200:
                latencies.append(perf_counter() - connection.due)
            else:
                failed += 1
            free.append(connection if status else _Connection(target.port))
    elapsed = perf_counter() - start
    for connection in free:
        connection.socket.close()
    failed += 0 if total is None else total - sent
    p50, p99, p999 = (
        np.percentile(np.array(latencies) * 1000, (50, 99, 99.9)) if latencies else (0.0, 0.0, 0.0)
    )
    return Load(len(latencies), failed, elapsed, float(p50), float(p99), float(p999))


@dataclass
class _Connection:
    port: int
    due: float = 0.0
    socket: socket.socket = field(init=False)
    _received: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.socket = socket.create_connection((HOST, self.port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes, due: float) -> None:
        self.due = due
        self._received.clear()
        self.socket.sendall(request)

    def answer(self) -> int | None:
        """The status of a complete answer, None if incomplete, 0 if the connection was closed."""
        try:
            part = self.socket.recv(1 << 18)
        except OSError:
            part = b""
        if not part:
            self.socket.close()
            return 0
        self._received += part
        end = self._received.find(b"\r\n\r\n")
        length = _LENGTH.search(self._received, 0, end + 2) if end >= 0 else None
        if length is None or len(self._received) < end + 4 + int(length[1]):
            return None
        return int(self._received[9:12])


if __name__ == "__main__":
    given = json.load(sys.stdin)
    print(json.dumps(asdict(drive(Target(**given.pop("target")), **given))))
