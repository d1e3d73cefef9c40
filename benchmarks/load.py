"""Load on an HTTP server, from a process of its own: `python -m benchmarks.load` takes one JSON
object and prints another.

In a closed loop each connection asks again when it has its answer. In an open loop requests are due
on a schedule, whatever becomes of the earlier ones, and an answer took the time since its request
was due, not since it was sent.
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
    """What came of it: answers, those that were none or not 200, and how long it all took;
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
        """Answers in a second."""
        return self.answers / self.seconds


@dataclass(frozen=True)
class Target:
    """Where bodies go, which are lines of a file and taken in turn."""

    port: int
    path: str
    bodies: str

    def requests(self) -> list[bytes]:
        """As they go over the wire."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {HOST}:{self.port}\r\nContent-Type:"
            " application/json\r\nContent-Length: "
        )
        lines = Path(self.bodies).read_bytes().splitlines()
        return [head.encode() + str(len(body)).encode() + b"\r\n\r\n" + body for body in lines]


def closed_loop(target: Target, connections: int, seconds: float) -> Load:
    """By wrk where it is installed, else by this module."""
    if shutil.which("wrk"):
        return _by_wrk(target, connections, seconds)
    return _by_process(
        {"target": asdict(target), "connections": connections, "seconds": seconds, "rate": None}
    )


def open_loop(target: Target, connections: int, seconds: float, rate: float) -> Load:
    """So many requests a second, on so many connections at most at a time."""
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
    """Ask for so long, in an open loop where there is a rate; what is not sent after twice the time
    counts as failed.
    """
    requests = target.requests()
    free = [_Connection(target.port) for _ in range(connections)]
    busy: dict[socket.socket, _Connection] = {}
    total = None if rate is None else round(rate * seconds)
    took: list[float] = []
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
                continue  # there is more to come
            connection = busy.pop(ready)
            if status == 200:
                took.append(perf_counter() - connection.due)
            else:
                failed += 1
            free.append(connection if status else _Connection(target.port))
    elapsed = perf_counter() - start
    for connection in free:
        connection.socket.close()
    failed += 0 if total is None else total - sent
    p50, p99, p999 = (
        np.percentile(np.array(took) * 1000, (50, 99, 99.9)) if took else (0.0, 0.0, 0.0)
    )
    return Load(len(took), failed, elapsed, float(p50), float(p99), float(p999))


@dataclass
class _Connection:
    port: int
    due: float = 0.0
    socket: socket.socket = field(init=False)
    _here: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.socket = socket.create_connection((HOST, self.port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes, due: float) -> None:
        self.due = due
        self._here.clear()
        self.socket.sendall(request)

    def answer(self) -> int | None:
        """The status once the answer is whole, 0 where the server closed the connection."""
        try:
            part = self.socket.recv(1 << 18)
        except OSError:
            part = b""
        if not part:
            self.socket.close()
            return 0
        self._here += part
        end = self._here.find(b"\r\n\r\n")
        length = _LENGTH.search(self._here, 0, end + 2) if end >= 0 else None
        if length is None or len(self._here) < end + 4 + int(length[1]):
            return None
        return int(self._here[9:12])


if __name__ == "__main__":
    given = json.load(sys.stdin)
    print(json.dumps(asdict(drive(Target(**given.pop("target")), **given))))
