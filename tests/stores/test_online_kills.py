"""Materializers killed at random points, and several at once.

Readers never notice, and a rerun completes what was left.
`PUNCTUAL_KILLS=200 pytest --timeout=0 tests/stores/test_online_kills.py` is the long form, a few
minutes; see docs/online-store.md.
"""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from datetime import UTC
from itertools import cycle
from pathlib import Path
from subprocess import PIPE

import pyarrow as pa
import pytest

from punctual.times import micros
from stores.online import OnlineView, packed_database
from stores.online.backends.redis import RedisRecords
from stores.tables import Table
from tests.stores import materializer
from tests.stores.by_hand import utc

KILLS = int(os.environ.get("PUNCTUAL_KILLS", "6"))
DRIVERS = 800
HOURS = (10, 12, 14)  # the generations of rows; each is built an hour later
COLUMNS = {"driver": pa.int64(), "number": pa.int64(), "half": pa.float64(), "text": pa.string()}
KINDS = [("first", 0, False), ("incremental", 1, False), ("rebuild", 2, True)]


def at(hour):
    return utc(hour).replace(tzinfo=UTC)


def row(driver, generation, hour):
    """A row whose values all follow from one number, so that a mixture of two rows would show."""
    number = driver * 10 + generation
    return driver, number, number / 2, f"{number} " * (1 + driver % 40), utc(hour), utc(hour)


def generation_of(driver, values):
    """The generation of a row's values; fails if they are of several."""
    generation = values[0] - driver * 10
    assert values == list(row(driver, generation, 10)[1:4])
    return generation


@pytest.fixture(scope="module")
def tables(tmp_path_factory, publish):
    """The table after each generation; a tenth of the drivers also have a row published ahead."""
    folder = tmp_path_factory.mktemp("generations")
    made = []
    for generation, hour in enumerate(HOURS):
        tables = folder / f"tables_{generation}"
        if made:
            shutil.copytree(made[-1], tables)
        table = Table.for_definition(tables, "driver_trips", "first", ("driver",))
        ahead = [row(driver, 7, 23) for driver in range(0, DRIVERS, 10)] if generation == 0 else []
        publish(
            table,
            COLUMNS,
            [row(driver, generation, hour) for driver in range(DRIVERS)] + ahead,
            at(hour + 1),
        )
        made.append(tables)
    return made


class World:
    """An online store, and the process that materializes into it."""

    def __init__(self, online, tables, folder):
        self.online, self.tables, self.folder = online, tables, folder
        self.path = Path(online["path"]) if "path" in online else None
        self.view = OnlineView.of("test", materializer.view_of(tables[0]))
        self.keys = [self.view.key(driver) for driver in range(DRIVERS)]
        self.database = packed_database(materializer.config_of(online))
        command = [sys.executable, materializer.__file__]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        self.process = subprocess.Popen(
            command, stdin=PIPE, stdout=PIPE, text=True, env=environment
        )
        self.expected = []
        self.seconds = []

    def fill(self):
        """The undisturbed runs: the expected results of the others, and the duration of each."""
        for number, (kind, generation, rebuild) in enumerate(KINDS):
            self.keep(number)
            self.seconds.append(self.run((generation, rebuild, None))["seconds"])
            self.expected.append(self.records())
            assert {*map(bool, self.expected[-1])} == {True}, kind
        return self

    def run(self, *runs):
        """Runs several `(generation, rebuild, kill after)` together; returns the first answer."""
        told = [
            {
                "online": self.online,
                "tables": str(self.tables[generation]),
                "now": micros(at(HOURS[generation] + 1)) // 10**6,
            }
            | {"rebuild": rebuild, "kill_after": seconds}
            for generation, rebuild, seconds in runs
        ]
        print(json.dumps(told), file=self.process.stdin, flush=True)
        answers = json.loads(self.process.stdout.readline())
        assert [answer["failure"] for answer in answers] == [""] * len(answers)
        return answers[0]

    def keep(self, number):
        """Saves the store's current state under a number."""
        if self.path and self.path.exists():
            self.database.close()
            shutil.copy(self.path, self.folder / f"kept_{number}.db")

    def back(self, number):
        """Restores the store's state from before the run with this number."""
        if self.path:
            self.database.close()
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            if number:
                shutil.copy(self.folder / f"kept_{number}.db", self.path)
        else:
            self.database.records.client.flushall()
            for _, generation, _ in KINDS[:number]:
                self.run((generation, False, None))

    def records(self):
        (found,) = self.database.records.read_records([(self.keys, [self.view])])
        return [record for (record,) in found]

    def generations(self):
        """The generation of each driver in one read; None for drivers without a row."""
        rows = self.database.read(self.view, self.keys, micros(at(15)))
        return [
            generation_of(driver, row.values) if row.status == "PRESENT" else None
            for driver, row in enumerate(rows)
        ]

    @contextmanager
    def reading(self, *expected):
        """Reads all the time; fails on an error, a mixture or an unexpected generation."""
        seen, failures, done = set(), [], threading.Event()

        def read():
            drivers = cycle(range(0, DRIVERS, 97))
            try:
                while not done.is_set():
                    driver = next(drivers)
                    (one,) = self.database.read(self.view, [self.keys[driver]], micros(at(15)))
                    seen.add(
                        generation_of(driver, one.values) if one.status == "PRESENT" else one.status
                    )
                    if driver == 0:
                        seen.update(self.generations())
            except BaseException as error:
                failures.append(error)
            finally:
                self.database.close()

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        assert not failures and seen <= set(expected), (failures, seen)

    def check_file(self):
        if self.path and self.path.exists():
            with closing(sqlite3.connect(self.path)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def close(self):
        self.database.close()
        self.process.communicate(timeout=60)


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def world(request, tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    online = {"path": str(folder / "online.db")}
    if request.param == "redis":
        online = {"redis": request.getfixturevalue("redis_server_of_session").start().url}
        with closing(RedisRecords(online["redis"], "test")) as records:
            records.client.flushall()
    with closing(World(online, tables, folder)) as world:
        yield world.fill()


def test_a_materializer_killed_anywhere_leaves_whole_entities_and_a_rerun_completes_them(
    world,
):
    random_moments = random.Random(7)
    killed = dict.fromkeys((kind for kind, _, _ in KINDS), 0)
    # Redis writes each record atomically, so a few kills are enough.
    kills = KILLS if world.path else max(3, KILLS // 5)
    for number in range(kills):
        place = number % len(KINDS)
        kind, generation, rebuild = KINDS[place]
        world.back(place)
        before = [None] if place == 0 else [generation - 1]
        first = ["NOT_FOUND"] if place == 0 else []
        # The first run creates the generation; until then readers have no view to read.
        if place == 0:
            world.database.records.writable_generations(world.view)
        with world.reading(generation, *before, *first):
            killed[kind] += world.run(
                (generation, rebuild, random_moments.uniform(0, 1.1 * world.seconds[place]))
            )["killed"]
            world.check_file()
            found = world.generations()
            assert set(found) <= {generation, *before}
            if rebuild:
                assert len(set(found)) == 1
            world.run((generation, rebuild, None))
        world.check_file()
        assert world.records() == world.expected[place]
        assert world.database.count(world.view) == DRIVERS
    print(f"killed: {killed}")
    assert sum(killed.values()) > 0


@pytest.mark.parametrize("place", range(len(KINDS)), ids=[kind for kind, _, _ in KINDS])
def test_concurrent_materializers_do_no_harm(world, place):
    world.back(place)
    _, generation, rebuild = KINDS[place]
    world.run((generation, rebuild, None), (generation, False, None), (generation, rebuild, None))
    assert world.records() == world.expected[place]
    assert world.database.count(world.view) == DRIVERS
    world.check_file()
