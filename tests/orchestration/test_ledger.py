"""What the ledger records."""

from datetime import UTC, datetime

import pytest

from orchestration.ledger import Ledger
from punctual.errors import DataFolderError
from punctual.home import Home

NOW = datetime(2013, 12, 5, 20, 0, 1, 250_000, tzinfo=UTC)
WALL = datetime(2025, 1, 1, tzinfo=UTC)
MOMENT = datetime(2013, 12, 5, 20, tzinfo=UTC)


def test_a_run_is_recorded_with_both_its_times(tiny):
    run = Ledger(Home.at()).start(tiny.step(), MOMENT, now=NOW, wall=WALL, log="/tmp/log")
    ended = Ledger(Home.at()).finish(
        run, "failed", "no luck", now=NOW, wall=datetime(2025, 1, 1, 0, 0, 7, tzinfo=UTC)
    )
    assert Ledger(Home.at()).recent(5) == [ended]
    assert (ended.scheduled, ended.started, ended.started_wall, ended.attempt) == (
        MOMENT,
        NOW,
        WALL,
        1,
    )
    assert (ended.status, ended.message, ended.seconds, ended.log) == (
        "failed",
        "no luck",
        7.0,
        "/tmp/log",
    )


def test_reading_creates_no_ledger(home):
    assert Ledger(Home.at()).recent(5) == []
    assert not home.exists()


def test_a_damaged_ledger_is_named_with_the_remedy(home):
    home.mkdir()
    (home / "schedule.db").write_text("this is no database, " * 100)
    with pytest.raises(
        DataFolderError, match=r"schedule\.db: file is not a database.*remove a damaged file"
    ):
        Ledger(Home.at()).recent(5)
