"""A champion keeps reading the definitions it was trained with.

A change is refused or makes a new version.
"""

import re
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import uvicorn

from inference.api.app import create_app
from inference.api.server import address, bind_port
from inference.batch import batch
from pipelines.build import build
from pipelines.materialize import apply_definitions, materialize, online_database
from punctual.errors import ChangeRefused
from punctual.home import Home
from punctual.progress import Progress
from punctual.repository import feature_store, find_use_case
from punctual.times import moment
from training.run import train
from training.training_set import training_set

AS_OF = moment("2020-12-01T06:00Z")
LATER = moment("2020-12-02T06:00Z")
ROW = {"shop_id": 3, "opens": "2020-12-01T08:00:00Z"}
SQLITE = "  path: ${PUNCTUAL_HOME}/online.db\n"
WINDOW = ('over=("7d", "28d")', 'over=("7d", "14d")')
SERVICE = ("features=[shop_sales, last_day", 'features=[shop_sales[["cents_mean_7d"]], last_day')


class Shop:
    """The shops' data folder, and copies of their repository with changed definitions."""

    def __init__(self, folder, text):
        self.folder = folder
        self.text = text
        self.repository = Path(Home.at().repository)

    def changed(self, *changes):
        """The domain and its use case after changes of the domain's file."""
        for before, after in changes:
            assert self.text.count(before) == 1
            self.text = self.text.replace(before, after)
        copy = self.folder / f"repository_{len(list(self.folder.glob('repository_*')))}"
        shutil.copytree(self.repository, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "shop" / "shop.py").write_text(self.text)
        return find_use_case(Home.at(repository=copy), "next_sales")

    def run(self, domain, as_of):
        """Does what the schedule does."""
        build(domain, as_of, Progress(quiet=True))
        store = feature_store(domain.home)
        apply_definitions(store, [domain])
        materialize(store, domain, as_of, Progress(quiet=True))
        return store

    def train(self, domain, use_case, as_of):
        """Trains a champion."""
        quiet = Progress(quiet=True)
        return train(feature_store(domain.home), domain, use_case, as_of=as_of, progress=quiet)


@pytest.fixture(params=["sqlite", "redis"])
def online(request):
    """The lines of `feature_store.yaml` for an online store."""
    if request.param == "sqlite":
        return SQLITE
    return f"  redis: {request.getfixturevalue('redis_server').url}\n"


@pytest.fixture
def shop_of(built_shop, tmp_path):
    def made(online=SQLITE):
        repository = Home.at().repository
        settings = Path(__file__).parents[1] / "feature_repo" / "feature_store.yaml"
        (repository / "feature_store.yaml").write_text(settings.read_text().replace(SQLITE, online))
        return Shop(tmp_path, (repository / "shop" / "shop.py").read_text())

    return made


@contextmanager
def server_of(domain, use_case, clock):
    """A server of the domain as it is now; gives a function that asks it."""
    taken = bind_port("127.0.0.1", 0)
    taken.listen()
    app = create_app([(domain, use_case)], clock, check_every=0.1)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
    thread.start()
    url = address(taken)
    try:
        for _ in range(600):
            if requests.get(f"{url}/readyz", timeout=30).status_code == 200:
                break
            time.sleep(0.05)
        yield lambda: requests.post(f"{url}/predict", json={"rows": [ROW]}, timeout=30).json()
    finally:
        server.should_exit = True
        thread.join()


def versions_and_values(answer):
    return answer["model"]["version"], [each["prediction"] for each in answer["predictions"]]


def test_a_server_answers_during_a_view_change_and_loads_the_model_of_the_new_version(
    shop_of, online
):
    shop = shop_of(online)
    first, use_case = shop.changed()
    database = online_database(shop.run(first, AS_OF))
    assert shop.train(first, use_case, AS_OF).promoted
    now = AS_OF
    with server_of(first, use_case, lambda: now) as ask:
        before = versions_and_values(ask())
        assert before[0] == "1"

        changed, _ = shop.changed(WINDOW)
        build(changed, AS_OF, Progress(quiet=True))
        with pytest.raises(
            ChangeRefused,
            match="view 'shop_sales' is read by champion 1 of 'next_sales'; declare version=2",
        ):
            apply_definitions(feature_store(changed.home), [changed])
        time.sleep(0.5)
        assert versions_and_values(ask()) == before

        second, use_case = shop.changed(
            ('description="What a shop sold"', 'description="What a shop sold", version=2')
        )
        shop.run(second, AS_OF)
        time.sleep(0.5)
        assert versions_and_values(ask()) == before
        assert len(database.records.views("punctual")["shop_sales"]) == 2

        shop.run(second, LATER)
        now = LATER
        time.sleep(0.5)
        answer = ask()
        assert answer["model"]["version"] == "1"
        # The earlier version is built and materialized as long as the champion reads it.
        assert not answer["predictions"][0]["views"]["shop_sales"]["is_stale"]

        from training.publish import promote

        promote(second.home, "next_sales", shop.train(second, use_case, LATER).card.version)
        for _ in range(200):
            if (answer := ask())["model"]["version"] == "2":
                break
            time.sleep(0.05)
        assert answer["model"]["version"] == "2"
        shop.run(second, LATER)
        assert len(database.records.views("punctual")["shop_sales"]) == 1
        assert versions_and_values(ask()) == versions_and_values(answer)


def test_a_champion_keeps_the_request_time_function_it_was_trained_with(
    shop_of,
):
    shop = shop_of()
    first, use_case = shop.changed()
    shop.run(first, AS_OF)
    shop.train(first, use_case, AS_OF)
    before = batch(first, use_case, AS_OF).path.read_bytes()
    with server_of(first, use_case, lambda: AS_OF) as ask:
        answered = versions_and_values(ask())

    second, changed = shop.changed(("opens.weekday()", "100 + opens.weekday()"))
    with pytest.raises(
        ChangeRefused,
        match="request-time view 'shop_day' is read by champion 1 of 'next_sales'; declare"
        " version=2",
    ):
        shop.run(second, AS_OF)
    with server_of(second, changed, lambda: AS_OF) as ask:
        assert versions_and_values(ask()) == answered
    assert batch(second, changed, AS_OF).path.read_bytes() == before
    # The training set and the new model's server use the changed function.
    made = training_set(feature_store(second.home), second, changed, as_of=AS_OF).rows
    assert set(made["shop_day__day_of_week"].to_pylist()) == set(range(100, 107))


def test_a_service_that_a_champion_reads_changes_only_under_a_new_name(shop_of):
    shop = shop_of()
    first, use_case = shop.changed()
    shop.run(first, AS_OF)
    shop.train(first, use_case, AS_OF)

    changed, _ = shop.changed(SERVICE)
    with pytest.raises(ChangeRefused, match=re.escape("under another name (next_sales_v2) beside")):
        apply_definitions(feature_store(changed.home), [changed])
