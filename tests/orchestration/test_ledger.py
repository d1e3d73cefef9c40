"""What the ledger keeps, and who may write it."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from feature_repo.errors import AlreadyRunning, DataFolderError
from orchestration.ledger import Ledger, only_scheduler, schedule_runs

NOW = datetime(2013, 12, 5, 20, 0, 1, 250_000, tzinfo=UTC)
WALL = datetime(2025, 1, 1, tzinfo=UTC)
MOMENT = datetime(2013, 12, 5, 20, tzinfo=UTC)

# Takes the lock, hands it to a child that sleeps, and says so; a scheduler but for the schedule.
HOLDER = """
import subprocess, sys, time
from orchestration.ledger import only_scheduler
with only_scheduler() as lock:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=(lock,))
    print(child.pid, flush=True)
    time.sleep(60)
"""


def test_a_run_is_kept_with_both_its_times(tiny):
    run = Ledger().start(tiny.step(), MOMENT, now=NOW, wall=WALL, log="/tmp/log")
    ended = Ledger().finish(run, "failed", "no luck", now=NOW, wall=datetime(2025, 1, 1, 0, 0, 7, tzinfo=UTC))
    assert Ledger().recent(5) == [ended]
    assert (ended.scheduled, ended.started, ended.started_wall, ended.attempt) == (MOMENT, NOW, WALL, 1)
    assert (ended.status, ended.message, ended.seconds, ended.log) == ("failed", "no luck", 7.0, "/tmp/log")


def test_reading_a_ledger_that_is_not_there_makes_none(home):
    assert Ledger().recent(5) == []
    assert not schedule_runs()
    assert not home.exists()


def test_a_damaged_ledger_is_named_with_what_to_do(home):
    home.mkdir()
    (home / "schedule.db").write_text("this is no database, " * 100)
    with pytest.raises(DataFolderError, match=r"schedule\.db: file is not a database.*remove a damaged file"):
        Ledger().recent(5)


def test_there_is_one_scheduler_to_a_data_folder(home):
    with only_scheduler():
        assert schedule_runs()
        with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"), only_scheduler(patience=0.1):
            pass
    assert not schedule_runs()
    with only_scheduler(patience=0.1):
        pass


def test_a_step_that_outlives_its_scheduler_holds_the_schedule_until_it_ends(home):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    child = int(holder.stdout.readline())
    try:
        holder.kill()
        holder.wait()
        with pytest.raises(AlreadyRunning, match="or a step it left"), only_scheduler(patience=0.2):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()
    with only_scheduler(patience=5):
        pass


def test_the_wait_for_the_lock_bridges_the_death_of_a_step(home):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    child = int(holder.stdout.readline())
    holder.kill()
    holder.wait()
    holder.stdout.close()
    subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(0.5); os.kill({child}, 9)"]).wait()
    started = time.monotonic()
    with only_scheduler():
        assert time.monotonic() - started < 3
