"""The prediction server beside the schedule: a child process, started again with growing waits when
it dies.
"""

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
# A server that has lived so long was well; the wait before its next start begins anew.
_HEALTHY_SECONDS = 60.0
_LONGEST_WAIT_SECONDS = 60.0


def refuse_taken(port: int) -> None:
    """Raise `PortInUse` where nobody could listen at the port now."""
    with socket.socket() as probe:
        # As the server does it: the remains of closed connections do not count.
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
    """Keeps `python -m` with a command line running from `wanted` on; `look_after` is to be called
    often.

    `argv` gives the command line anew for each start. What happens is told to `show`.
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
        self._last_words = ""

    def look_after(self) -> None:
        """Start the server if it is wanted and not there, and tell when it answers and when it
        died.
        """
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
            self._bury(self._child, self._child.code, now)
        elif not self._answers and _answers(self._port):
            self._answers = True
            self._show(
                f"Serving at http://{HOST}:{self._port}, described at"
                f" http://{HOST}:{self._port}/docs; its log is {self._log}."
            )

    def stop(self) -> None:
        """End it, and start it no more."""
        self.wanted = False
        if self._child is not None:
            self._child.stop()
            self._child = None

    def _bury(self, child: processes.Child, code: int, now: float) -> None:
        self._deaths = 1 if now - self._started > _HEALTHY_SECONDS else self._deaths + 1
        wait = min(_LONGEST_WAIT_SECONDS, self._first_wait * 2 ** (self._deaths - 1))
        self._child, self._not_before = None, now + wait
        said = child.last_words()
        again = "" if said == self._last_words or not said else f"\n{said}"
        self._last_words = said
        self._show(f"The server ended with exit code {code}; it starts again in {wait:g} s.{again}")


def _answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=0.2).close()
    except OSError:
        return False
    return True
