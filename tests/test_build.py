"""The feature pipeline as a whole: repeated, in steps, killed, with late and changed input."""

import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.build import build
from punctual.errors import AlreadyRunning
from punctual.home import Home
from punctual.locks import exclusive_lock
from punctual.progress import Progress
from punctual.repository import load_domain
from punctual.times import moment
from stores.tables import Table, canonical_hash

QUIET = Progress(quiet=True)
END = moment("2019-04-01T06:00Z")


def hashes(home):
    """The canonical hash of every table."""
    root = home / "tables"
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    return {name: canonical_hash(Table.current(root, name).read()) for name in names}


def rows(name):
    """A table's rows as (shop, day, cents, created_timestamp)."""
    table = Table.current(Home.at().path("tables"), name).read()
    return list(
        zip(
            *(
                table[column].to_pylist()
                for column in ("shop_id", "day", "cents", "created_timestamp")
            ),
            strict=True,
        )
    )


@pytest.fixture(scope="module")
def built_at_once(tmp_path_factory, sales):
    """The tables' hashes after a single build of the same files."""
    folder = tmp_path_factory.mktemp("at_once")
    shutil.copytree(sales.parent, folder / "raw")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUNCTUAL_HOME", str(folder))
        build(
            load_domain(Home.at(repository=Path(__file__).parent / "repository"), "shop"),
            END,
            QUIET,
        )
    return hashes(folder)


def test_building_again_changes_nothing(shop):
    domain = load_domain(Home.at(), "shop")
    build(domain, END, QUIET)
    before = hashes(shop)
    again = build(domain, END, QUIET)
    assert hashes(shop) == before
    assert [view.new_rows for view in again.views] == [0, 0]
    assert [events.new for events in again.events] == [0, 0, 0]


def test_building_week_by_week_gives_the_same_rows_as_building_at_once(shop, built_at_once):
    domain = load_domain(Home.at(), "shop")
    at = moment("2019-01-03T06:00Z")
    while at < END:
        build(domain, at, QUIET)
        at += timedelta(days=7)
    build(domain, END, QUIET)
    assert hashes(shop) == built_at_once


def test_late_and_corrected_rows_are_known_from_the_run_that_found_them(shop):
    domain, path = load_domain(Home.at(), "shop"), shop / "raw" / "sales.csv"
    lines = path.read_text().splitlines()
    held_back, path_lines = lines[30], lines[:30] + lines[31:]
    path.write_text("\n".join(path_lines) + "\n")
    build(domain, END, QUIET)
    closed = set(rows("shop.closed_days"))

    shop_id, day, cents, promotion = path_lines[40].split(",")
    path_lines[40] = f"{shop_id},{day},{int(cents) + 1},{promotion}"
    path.write_text("\n".join([*path_lines, held_back]) + "\n")
    later = END + timedelta(hours=1)
    built = build(domain, later, QUIET)
    assert {(e.events, e.new, e.late, e.corrected) for e in built.events} == {
        ("closed_days", 1, 1, 1), ("mornings", 1, 1, 0), ("takings", 1, 1, 1),
    }  # fmt: skip
    now = set(rows("shop.closed_days"))
    assert now > closed
    assert {(row[2], row[3]) for row in now - closed} == {
        (cents_now, later.replace(tzinfo=None))
        for cents_now in (int(cents) + 1, int(held_back.split(",")[2]))
    }


@pytest.mark.parametrize("delay", [0.05, 0.2, 0.4, 0.7, 1.0])
def test_a_build_that_is_killed_is_repaired_by_building_again(shop, built_at_once, delay):
    command = [
        sys.executable,
        "-m",
        "pipelines",
        "build",
        "shop",
        "--as-of",
        "2019-04-01T06:00Z",
        "--quiet",
    ]
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    # The time until the kill counts from the first write.
    patience = time.monotonic() + 60
    while not (shop / "locks" / "build").exists() and time.monotonic() < patience:
        time.sleep(0.01)
    time.sleep(delay)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    build(load_domain(Home.at(), "shop"), END, QUIET)
    assert hashes(shop) == built_at_once


def test_two_builds_at_once_are_refused(shop):
    with (
        exclusive_lock(Home.at(), "build"),
        pytest.raises(AlreadyRunning, match="'build' runs in .* already"),
    ):
        build(load_domain(Home.at(), "shop"), END, QUIET)


def test_a_changed_definition_makes_a_new_version_of_its_table_only(shop, tmp_path):
    build(load_domain(Home.at(), "shop"), END, QUIET)
    before = hashes(shop)
    changed = tmp_path / "changed"
    (tmp_path / "repository").rename(changed)
    path = changed / "shop" / "shop.py"
    path.write_text(path.read_text().replace('over=("7d", "28d")', 'over=("7d", "14d")'))
    build(load_domain(Home.at(repository=changed), "shop"), END, QUIET)
    after = hashes(shop)
    assert {name for name in before if before[name] != after[name]} == {"shop_sales"}
    versions = {name: Table.current(shop / "tables", name).version.version for name in before}
    assert versions == {
        "shop_sales": 2,
        "last_day": 1,
        "shop.closed_days": 1,
        "shop.mornings": 1,
        "shop.takings": 1,
    }
