"""The data folder's locks: exclusive, and released when their process dies."""

import os
import signal
import subprocess
import sys
import time

import pytest

from punctual.errors import AlreadyRunning, DataFolderError
from punctual.home import Home
from punctual.locks import exclusive_lock, is_running

# Like a scheduler: takes the lock, passes it to a sleeping child and prints the child's id.
HOLDER = """
import subprocess, sys, time
from punctual.home import Home
from punctual.locks import exclusive_lock
with exclusive_lock(Home.at(), "schedule") as lock:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    child = subprocess.Popen(command, pass_fds=(lock,))
    print(child.pid, flush=True)
    time.sleep(60)
"""


def test_checking_a_lock_creates_no_file(home):
    assert not is_running(Home.at(), "schedule")
    assert not home.exists()


def test_a_lock_that_cannot_be_written_is_an_error(home):
    home.write_text("")
    with (
        pytest.raises(DataFolderError, match="choose another --home"),
        exclusive_lock(Home.at(), "build"),
    ):
        pass


def test_two_kinds_of_work_have_separate_locks(home):
    with (
        exclusive_lock(Home.at(), "build"),
        exclusive_lock(Home.at(), "materialize"),
        pytest.raises(AlreadyRunning),
        exclusive_lock(Home.at(), "build"),
    ):
        pass


def test_one_process_at_a_time_does_a_kind_of_work(home):
    with exclusive_lock(Home.at(), "schedule"):
        assert is_running(Home.at(), "schedule")
        with (
            pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"),
            exclusive_lock(Home.at(), "schedule", wait_seconds=0.1),
        ):
            pass
    assert not is_running(Home.at(), "schedule")
    with exclusive_lock(Home.at(), "schedule", wait_seconds=0.1):
        pass


@pytest.fixture
def orphan(home):
    """The child of a killed process that passed it the lock; returns the child's id."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True
    ) as holder:
        child = int(holder.stdout.readline())
        holder.kill()
    return child


def test_a_child_that_outlives_its_process_holds_the_lock_until_it_ends(orphan):
    try:
        with (
            pytest.raises(AlreadyRunning, match="or one of its children"),
            exclusive_lock(Home.at(), "schedule", wait_seconds=0.2),
        ):
            pass
    finally:
        os.kill(orphan, signal.SIGKILL)
    with exclusive_lock(Home.at(), "schedule", wait_seconds=5):
        pass


def test_the_wait_for_the_lock_bridges_the_death_of_a_child(orphan):
    subprocess.Popen(
        [sys.executable, "-c", f"import os, time; time.sleep(0.5); os.kill({orphan}, 9)"]
    ).wait()
    started = time.monotonic()
    with exclusive_lock(Home.at(), "schedule", wait_seconds=10):
        assert time.monotonic() - started < 3
