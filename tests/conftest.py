"""Data folders and repositories for single tests; nothing is written outside tmp_path."""

import csv
import datetime as dt
import fcntl
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from benchmarks.redis_server import RedisServer

REPOSITORY = Path(__file__).parent / "repository"
# Idle OpenMP threads of XGBoost and scikit-learn sleep instead of taking the cores from other
# workers. OpenMP reads the variable when it is loaded, here and in child processes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
LONGEST = [
    *(
        "test_walkthrough.py",
        "test_consistency.py",
        "test_up.py",
        "test_another_domain.py",
        "test_offline.py",
        "test_train.py",
    ),
    *(
        "test_online_kills.py",
        "test_ingest_build.py",
        "test_build.py",
        "test_point_in_time.py",
        "test_engine.py",
        "test_packed.py",
    ),
]


def pytest_collection_modifyitems(items):
    """Runs the longest files first, so that no worker ends with a long file alone."""
    items.sort(
        key=lambda item: (
            LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST)
        )
    )


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty data folder that this process and its children use."""
    folder = tmp_path / "home"
    monkeypatch.setenv("PUNCTUAL_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def sales(tmp_path_factory):
    """A file with two years of sales of twelve shops; tests copy it."""
    path = tmp_path_factory.mktemp("sales") / "raw" / "sales.csv"
    write_sales(path)
    return path


@pytest.fixture
def shop(home, tmp_path, monkeypatch, sales):
    """The shop domain in its own repository, with two years of sales; returns the home."""
    repository = tmp_path / "repository"
    shutil.copytree(REPOSITORY, repository, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PUNCTUAL_REPOSITORY", str(repository))
    shutil.copytree(sales.parent, home / "raw")
    return home


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Makes an expensive folder once for all workers: `once(name, make)` calls `make(folder)`."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name, make):
        folder, finished = base / name, base / f"{name}.finished"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not finished.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                finished.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def shop_built_once(once, sales):
    """A data folder with the shops built up to December 2020; tests copy it."""

    def build(folder):
        shutil.copytree(sales.parent, folder / "home" / "raw")
        environment = {
            **os.environ,
            "PUNCTUAL_HOME": str(folder / "home"),
            "PUNCTUAL_REPOSITORY": str(REPOSITORY),
        }
        command = [
            sys.executable,
            "-m",
            "pipelines",
            "build",
            "shop",
            "--as-of",
            "2020-12-01T06:00Z",
            "--quiet",
        ]
        subprocess.run(command, env=environment, check=True, capture_output=True)

    return once("shop_built", build) / "home"


@pytest.fixture
def built_shop(shop, shop_built_once):
    """The shops, built up to December 1st 2020, 6:00 UTC; returns the home."""
    _copy_home(shop_built_once, shop)
    return shop


@pytest.fixture(scope="session")
def copy_home():
    """Copies a data folder."""
    return _copy_home


def _copy_home(original: Path, copy: Path) -> None:
    """Copies a data folder; Parquet files never change, so they become hard links.

    Databases are copied by SQLite's backup, since another worker may be reading them.
    """

    def copied(source, target):
        if source.endswith(".db"):
            with (
                closing(sqlite3.connect(source)) as database,
                closing(sqlite3.connect(target)) as other,
            ):
                database.backup(other)
        else:
            (os.link if source.endswith(".parquet") else shutil.copy2)(source, target)

    ignored = shutil.ignore_patterns("*.db-wal", "*.db-shm")
    shutil.copytree(original, copy, dirs_exist_ok=True, ignore=ignored, copy_function=copied)


@pytest.fixture(scope="session")
def redis_server_of_session(tmp_path_factory):
    """One Redis server for all tests of a worker; it keeps the state that the last test left."""
    needs_redis()
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def emptied():
    """Makes a shared Redis server running and empty, whatever the last test did to it."""

    def emptied(server):
        with closing(server.start().client()) as client:
            client.flushall()
        return server

    return emptied


@pytest.fixture
def redis_server(redis_server_of_session, emptied):
    """A running, empty Redis server, with `url`, `client()`, `stop()`, `kill()` and `start()`."""
    return emptied(redis_server_of_session)


@pytest.fixture
def start_redis(tmp_path):
    """Starts Redis servers with `start_redis(appendonly=…, password=…, tls=…, cluster=…)`."""
    with ExitStack() as servers:

        def start(**options):
            needs_redis(tls=options.get("tls", False))
            number = len(list(tmp_path.glob("redis_*")))
            return servers.enter_context(RedisServer(tmp_path / f"redis_{number}", **options))

        yield start


def needs_redis(*, tls=False):
    """Skips the test, with the reason, on a machine without Redis; in CI the test fails."""
    if reason := RedisServer.missing(tls=tls):
        (pytest.fail if os.environ.get("PUNCTUAL_CI") else pytest.skip)(reason)


def write_sales(path: Path) -> None:
    """Writes reproducible sales that depend on shop, day of the week and promotions, with noise."""
    noise = random.Random(7)
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["shop_id", "day", "cents", "is_promotion"])
        for number in range(730):
            day = dt.date(2019, 1, 1) + dt.timedelta(days=number)
            for shop_id in range(1, 13):
                promotion = noise.random() < 0.1
                level = (
                    20_000
                    * shop_id
                    * (1.4 if day.weekday() == 5 else 1.0)
                    * (1.2 if promotion else 1.0)
                )
                rows.writerow(
                    [shop_id, day, round(level * noise.uniform(0.9, 1.1)), str(promotion).lower()]
                )
