"""The prediction server of `punctual up`: a child process, restarted with backoff if it dies."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from pathlib import Path

from orchestration import processes
from punctual.errors import PortInUse
from punctual.home import Home

HOST = "127.0.0.1"
# If the server ran at least this long, the wait before its restart is reset.
_HEALTHY_SECONDS = 60.0
_LONGEST_WAIT_SECONDS = 60.0


def refuse_used_port(port: int) -> None:
    """Raise `PortInUse` if the server cannot listen at the port now."""
    with socket.socket() as probe:
        # As in the server: closed connections in TIME_WAIT do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"another program listens at {HOST}:{port}. Stop it or choose another --port."
                ) from error
            raise PortInUse(
                f"cannot listen at {HOST}:{port}: {error.strerror}. Choose another --port."
            ) from error


class Server:
    """Keeps the server process running while `wanted` is true; `supervise` must be called often.

    `argv` returns the arguments after `python -m` for each start. `show` gets a line of text when
    the server answers and when it has ended.
    """

    def __init__(
        self,
        home: Home,
        argv: Callable[[], list[str]],
        port: int,
        log: Path,
        show: Callable[[str], None],
        first_wait: float = 1.0,
    ) -> None:
        self.wanted = False
        self._home = home
        self._argv = argv
        self._port = port
        self._log = log
        self._show = show
        self._first_wait = first_wait
        self._child: processes.Child | None = None
        self._started = self._not_before = 0.0
        self._deaths = 0
        self._answers = False
        self._last_output = ""

    def supervise(self) -> None:
        """Start the server if it is wanted and not running; show when it answers or has ended."""
        if not self.wanted:
            return
        now = time.monotonic()
        if self._child is None:
            if now >= self._not_before:
                self._child, self._started, self._answers = (
                    processes.start(self._home, self._argv(), self._log),
                    now,
                    False,
                )
        elif self._child.code is not None:
            self._schedule_restart(self._child, self._child.code, now)
        elif not self._answers and _answers(self._port):
            self._answers = True
            self._show(
                f"Serving at http://{HOST}:{self._port}, documented at"
                f" http://{HOST}:{self._port}/docs; its log is {self._log}."
            )

    def stop(self) -> None:
        """End the server; it is not restarted."""
        self.wanted = False
        if self._child is not None:
            self._child.stop()
            self._child = None

    def _schedule_restart(self, child: processes.Child, code: int, now: float) -> None:
        self._deaths = 1 if now - self._started > _HEALTHY_SECONDS else self._deaths + 1
        wait = min(_LONGEST_WAIT_SECONDS, self._first_wait * 2 ** (self._deaths - 1))
        self._child, self._not_before = None, now + wait
        output = child.last_output()
        new_output = "" if output == self._last_output or not output else f"\n{output}"
        self._last_output = output
        self._show(
            f"The server ended with exit code {code}; it starts again in {wait:g} s.{new_output}"
        )


def _answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=0.2).close()
    except OSError:
        return False
    return True
