"""Helpers for server processes: a free port of the loopback address, and termination."""

from __future__ import annotations

import signal
import socket
import subprocess

HOST = "127.0.0.1"
_PATIENCE = 20.0


class NoServer(RuntimeError):
    """A server is not installed, did not start, or gives a wrong answer."""


def free_port() -> int:
    """A port that is free now; another process may take it before the server does."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        return int(taken.getsockname()[1])


def end(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
    """Send a server a signal and wait; kill it if it does not end in time."""
    process.send_signal(number)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
