"""What `punctual status` shows of data folders in different states."""

import json
from datetime import UTC, datetime

import pytest

from orchestration.cli import main
from orchestration.ledger import Ledger
from orchestration.status import _model_rows, status
from orchestration.steps import steps_of
from punctual.home import Home
from punctual.model_card import Metrics
from punctual.repository import feature_store, load_domain

BUILT = datetime(2020, 12, 1, tzinfo=UTC)
WALL = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture
def built(small_shop):
    """The shop, built and materialized as of midnight; its daily views are available at one."""
    from pipelines.build import build
    from pipelines.materialize import materialize
    from punctual.progress import Progress

    domain = load_domain(Home.at(), "shop")
    build(domain, BUILT, Progress(quiet=True))
    materialize(feature_store(Home.at()), domain, BUILT, Progress(quiet=True))
    return small_shop


def shown(capsys, *arguments, code=0):
    capsys.readouterr()
    assert main(["status", *arguments]) == code
    return capsys.readouterr().out


def test_an_empty_data_folder_stays_empty_and_what_is_missing_is_named(shop, capsys):
    before = sorted(path.name for path in shop.iterdir())
    found = json.loads(shown(capsys, "--json"))
    assert sorted(path.name for path in shop.iterdir()) == before == ["raw"]
    assert found["champion"] is None
    assert found["use_cases"] == {"next_sales": {"champion": None, "challenger": None}}
    assert found["views"]["shop_sales"]["fresh"] is False
    assert found["runs"] == []
    assert found["missing"] == [
        "Use case 'next_sales' has no champion; run: punctual train next_sales.",
        "Nothing has run on schedule; run: punctual up.",
        "Not built as they are defined now: shop_sales, last_day; run: punctual features build.",
    ]
    assert "run: punctual features build" in shown(capsys)


def test_a_view_is_fresh_until_its_next_rows_should_be_there(built):
    on_time = status(Home.at(), "2020-12-02T00:59:59Z")["views"]["shop_sales"]
    assert (
        on_time["fresh"],
        on_time["age_seconds"],
        on_time["every"],
        on_time["available_after"],
    ) == (True, 25 * 3600 - 1, "24h", "1h")
    assert on_time["built_until"] == on_time["materialized_until"] == BUILT
    assert on_time["online_rows"] == 12
    assert status(Home.at(), "2020-12-02T01:00:00Z")["views"]["shop_sales"]["fresh"] is False


def test_a_view_that_is_built_and_not_online_is_not_fresh(built):
    (built / "online.db").unlink()
    found = status(Home.at(), "2020-12-01T02:00:00Z")
    assert (found["views"]["last_day"]["fresh"], found["views"]["last_day"]["online_rows"]) == (
        False,
        0,
    )
    assert (
        "Not online: shop_sales, last_day; run: punctual features materialize." in found["missing"]
    )


def test_events_show_until_when_they_are_known(built):
    assert status(Home.at(), "2020-12-01T02:00:00Z")["events"]["closed_days"] == {
        "domain": "shop",
        "rows": 30 * 12,
        "built_until": BUILT,
    }


def test_a_failed_run_is_shown_with_its_reason(built, capsys):
    ledger, step = Ledger(Home.at()), steps_of(load_domain(Home.at(), "shop"))[0]
    for status_, message in (
        ("retrying", "trying"),
        ("failed", "Traceback\nBrokenSource: source 'sales': there is no file.\n"),
    ):
        run = ledger.start(step, BUILT, now=BUILT, wall=WALL)
        ledger.finish(run, status_, message, now=BUILT, wall=WALL)
    runs = json.loads(shown(capsys, "--json"))["runs"]
    assert [
        (run["step"], run["target"], run["scheduled"], run["attempt"], run["status"])
        for run in runs
    ] == [
        ("materialize", "shop", "2020-12-01T00:00:00Z", 2, "failed"),
        ("materialize", "shop", "2020-12-01T00:00:00Z", 1, "retrying"),
    ]
    assert "BrokenSource: source 'sales': there is no file" in shown(capsys)


def test_a_run_of_a_dead_scheduler_is_not_shown_as_running(built):
    Ledger(Home.at()).start(
        steps_of(load_domain(Home.at(), "shop"))[0], BUILT, now=BUILT, wall=WALL
    )
    found = status(Home.at(), "2020-12-01T02:00:00Z")
    assert (found["scheduler"], found["runs"][0]["status"]) == ("stopped", "interrupted")


def test_the_schedule_shows_the_next_runs(built):
    assert status(Home.at(), "2020-12-01T02:00:00Z")["schedule"] == [
        {
            "domain": "shop",
            "step": "materialize",
            "target": "shop",
            "cron": "0 0 * * *",
            "last": None,
            "next": datetime(2020, 12, 2, tzinfo=UTC),
        }
    ]


def test_a_model_is_shown_with_the_scores_of_its_metric():
    card = {
        "version": "2",
        "as_of": "2020-12-01T00:00:00Z",
        "metric": "mae",
        "metrics": {"validation": Metrics(rows=9, mae=1.5), "test": Metrics(rows=9, mae=2.0)},
    }
    rows = _model_rows({"next_sales": {"champion": None, "challenger": card}})
    assert rows == [["next_sales", "challenger", "2", "2020-12-01T00:00:00Z", "mae", 1.5, 2.0]]
