"""What servers of one's own have in common: a free port of the loopback address, and an end."""

from __future__ import annotations

import signal
import socket
import subprocess

HOST = "127.0.0.1"
_PATIENCE = 20.0


class NoServer(RuntimeError):
    """A server is not installed, did not start, or does not answer as it should."""


def free_port() -> int:
    """A port that nobody listens at; somebody may before the server does."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        return int(taken.getsockname()[1])


def end(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
    """Send a server a signal and wait; one that does not heed it is killed."""
    process.send_signal(number)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
