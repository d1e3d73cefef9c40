"""The server process beside the schedule, replaced by a program of a few lines."""

import os
import socket
import time

import pytest

from orchestration.server import HOST, Server, refuse_used_port
from punctual.errors import PortInUse
from punctual.home import Home

LISTENS = """
import os, pathlib, socket, sys, time
(pathlib.Path(os.environ["TINY"]) / "pid").write_text(str(os.getpid()))
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(60)
"""
FAILS = "import sys; sys.exit('NoChampion: there is none yet.')"


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind((HOST, 0))
        return free.getsockname()[1]


@pytest.fixture
def started(tiny, home, port):
    """Starts a server from source text; it is stopped after the test."""
    servers = []

    def start(source, **options):
        (tiny.folder / "serves.py").write_text(source)
        shown = []
        server = Server(
            Home.at(),
            lambda: ["serves", str(port)],
            port,
            home / "logs" / "server.log",
            shown.append,
            **options,
        )
        servers.append(server)
        server.wanted = True
        return server, shown

    yield start
    for server in servers:
        server.stop()


def supervise(server, until, seconds=10):
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        server.supervise()
        time.sleep(0.02)
    assert until()


def test_the_address_is_announced_once_the_server_answers(started, port, home):
    server, shown = started(LISTENS)
    supervise(server, lambda: shown)
    server.supervise()
    assert shown == [
        f"Serving at http://127.0.0.1:{port}, documented at http://127.0.0.1:{port}/docs; its log"
        f" is {home}/logs/server.log."
    ]


def test_a_server_that_dies_is_started_again(started, tiny, alive):
    server, shown = started(LISTENS, first_wait=0.1)
    supervise(server, lambda: len(shown) == 1)
    first = int((tiny.folder / "pid").read_text())
    os.kill(first, 9)
    supervise(server, lambda: len(shown) == 3)
    assert shown[1] == "The server ended with exit code -9; it starts again in 0.1 s."
    second = int((tiny.folder / "pid").read_text())
    assert second != first
    server.stop()
    assert not alive(second)


def test_a_server_that_cannot_start_is_retried_with_growing_waits_and_one_message(started):
    server, shown = started(FAILS, first_wait=0.05)
    supervise(server, lambda: len(shown) == 3)
    assert shown == [
        "The server ended with exit code 1; it starts again in 0.05 s.\nNoChampion: there is none"
        " yet.",
        "The server ended with exit code 1; it starts again in 0.1 s.",
        "The server ended with exit code 1; it starts again in 0.2 s.",
    ]


def test_a_taken_port_is_refused(port):
    refuse_used_port(port)
    with (
        socket.create_server((HOST, port)),
        pytest.raises(PortInUse, match=f"another program listens at 127.0.0.1:{port}"),
    ):
        refuse_used_port(port)
