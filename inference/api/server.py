"""Runs the application in the foreground: takes its port before anything is loaded, and ends when
asked to.
"""

from __future__ import annotations

import errno
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from punctual.errors import PortInUse, PunctualError

_BACKLOG = 512


class AddressUnavailable(PunctualError):
    """The server cannot listen where it was asked to, whoever else listens there."""


def take_port(host: str, port: int) -> socket.socket:
    """A socket bound to the address; port 0 takes any. Raises `PortInUse` or `AddressUnavailable`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # UnicodeError: an empty or too long part of a name
        why = getattr(error, "strerror", None) or error
        raise AddressUnavailable(
            f"cannot listen at {host}:{port}: {why}. Choose another --host."
        ) from error
    # As every server does: the remains of closed connections do not count.
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(address)
    except OSError as error:
        taken.close()
        raise _refused(host, port, error) from error
    return taken


def _refused(host: str, port: int, error: OSError) -> PunctualError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"another program listens at {host}:{port}. Stop it or choose another --port."
        )
    return AddressUnavailable(
        f"cannot listen at {host}:{port}: {error.strerror}. Choose another --host or --port."
    )


def address(taken: socket.socket) -> str:
    """Where the server is to be found."""
    host, port = taken.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve_forever(app: Any, taken: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; requests under way are answered first.

    SIGTERM ends the process with exit code 0, also while it loads.
    """
    import uvicorn

    host, port = taken.getsockname()[:2]
    try:
        # Two servers may have bound the same port before either listened.
        taken.listen(_BACKLOG)
    except OSError as error:
        raise _refused(host, port, error) from error
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        backlog=_BACKLOG,
    )
    uvicorn.Server(config).run(sockets=[taken])


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within it SIGTERM ends this process as its own exit would: with exit code 0, and `finally`
    clauses run.
    """

    def leave(_number: int, _frame: FrameType | None) -> None:
        sys.exit(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
