"""Runs the application in the foreground; the port is bound before anything is loaded."""

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
    """The server cannot listen at the address, for another reason than a port in use."""


def bind_port(host: str, port: int) -> socket.socket:
    """A socket bound to the address; port 0 takes any free port.

    Raises `PortInUse` or `AddressUnavailable`.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (
        OSError,
        UnicodeError,
    ) as error:  # UnicodeError: an empty or too long label in the host name
        why = getattr(error, "strerror", None) or error
        raise AddressUnavailable(
            f"cannot listen at {host}:{port}: {why}. Choose another --host."
        ) from error
    # Closed connections in TIME_WAIT do not block the port.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _refused(host, port, error) from error
    return listener


def _refused(host: str, port: int, error: OSError) -> PunctualError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"another program listens at {host}:{port}. Stop it or choose another --port."
        )
    return AddressUnavailable(
        f"cannot listen at {host}:{port}: {error.strerror}. Choose another --host or --port."
    )


def address(listener: socket.socket) -> str:
    """The URL of the server."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve_forever(app: Any, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; requests in progress are answered first."""
    import uvicorn

    host, port = listener.getsockname()[:2]
    try:
        # With SO_REUSEADDR two processes can bind a port; only the first can listen.
        listener.listen(_BACKLOG)
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
    uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Within this context SIGTERM exits the process with code 0, and `finally` clauses run."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        sys.exit(0)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
