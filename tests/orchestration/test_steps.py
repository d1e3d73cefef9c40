"""A domain's schedule becomes command lines of the stages, described as data."""

import json
import time
from datetime import UTC, datetime

import msgspec
import pytest

from orchestration.cli import main
from orchestration.step_run import run_step
from orchestration.steps import Step, steps_of
from punctual.domain import Domain
from punctual.errors import InvalidDeclaration
from punctual.home import Home
from punctual.loaded_domain import LoadedDomain
from punctual.repository import load_domain

MOMENT = datetime(2013, 12, 5, 21, tzinfo=UTC)


def test_the_default_schedule_is_hourly_daily_and_weekly_for_the_domain_and_its_use_cases():
    steps = steps_of(load_domain(Home.at(), "flights"))
    assert [(step.name, step.target, step.cron) for step in steps] == [
        ("materialize", "flights", "0 * * * *"),
        ("batch", "arrival_delay", "0 6 * * *"),
        ("train", "arrival_delay", "0 7 * * 1"),
    ]
    at = ["--as-of", "2013-12-05T21:00:00Z"]
    assert [
        [step.arguments(command, MOMENT, "now", 1.0) for command in step.commands] for step in steps
    ] == [
        [
            ["pipelines", "build", "flights", *at],
            ["pipelines", "materialize", "flights", *at, "--clock", "now", "--speed", "1.0"],
        ],
        [["inference", "batch", "arrival_delay", *at]],
        [["training", "fit", "arrival_delay", *at]],
    ]
    assert steps[0].promised_within_seconds == 300
    assert [step.timeout_seconds for step in steps] == [7200, 7200, 43_200]
    assert [(step.after, step.needs, step.first_run_without) for step in steps] == [
        ((), None, None),
        (("materialize",), "champion", None),
        (("materialize",), None, "champion"),
    ]


def test_the_description_as_json_is_the_description(capsys):
    assert main(["steps", "flights", "--json"]) == 0
    said = capsys.readouterr().out
    assert msgspec.json.decode(said, type=list[Step]) == steps_of(load_domain(Home.at(), "flights"))
    assert json.loads(said)[1]["commands"] == [
        ["inference", "batch", "arrival_delay", "--as-of", "{as_of}"]
    ]


def test_the_description_is_shown_to_people(capsys):
    assert main(["steps"]) == 0
    said = capsys.readouterr().out
    assert "only with a champion" in said and "first run only without a champion" in said
    assert (
        "\nbatch arrival_delay\n  python -m inference batch arrival_delay --as-of {as_of}" in said
    )


def test_a_step_that_the_schedule_leaves_out_does_not_run():
    domain = LoadedDomain(
        Home.at(), "shop", Domain("shop", "", schedule={"materialize": "*/15 * * * *"})
    )
    assert [(step.name, step.cron) for step in steps_of(domain)] == [
        ("materialize", "*/15 * * * *")
    ]


def test_a_run_has_a_time_limit_which_a_domain_may_set(shop, tmp_path):
    limits = 'time_limits={"materialize": timedelta(minutes=20)}'
    _declare(tmp_path, f'schedule={{"materialize": "0 0 * * *"}}, {limits}')
    steps = steps_of(load_domain(Home.at(), "shop"))
    assert [step.timeout_seconds for step in steps] == [1200]


def _declare(tmp_path, schedule):
    """Gives the shop another schedule."""
    path = tmp_path / "repository" / "shop" / "shop.py"
    declared = path.read_text()
    assert 'schedule={"materialize": "0 0 * * *"}' in declared
    path.write_text(declared.replace('schedule={"materialize": "0 0 * * *"}', schedule))


def test_all_problems_of_a_schedule_are_reported_when_the_domain_is_loaded(shop, tmp_path):
    schedule = {
        "materialise": "0 * * * *",
        "batch": "0 25 * * *",
        "train": "0 0 30 2 *",
        "materialize": "0 0 * * * *",
    }
    _declare(
        tmp_path,
        f"schedule={schedule!r}, time_limits={{'bath': timedelta(1), 'train': timedelta(0)}}",
    )
    with pytest.raises(InvalidDeclaration) as error:
        load_domain(Home.at(), "shop")
    known = "Known: batch, materialize, train."
    expected = "expected five fields in UTC, such as '0 * * * *'."
    assert str(error.value) == (
        "InvalidDeclaration: domain 'shop' has 6 problems:\n"
        f"  - no step 'materialise' in the schedule. Did you mean 'materialize'? {known}\n"
        f"  - no step 'bath' in the time limits. Did you mean 'batch'? {known}\n"
        "  - the schedule gives 'batch' the cron expression '0 25 * * *',"
        f" which cannot be read (Bad hour); {expected}\n"
        "  - the schedule gives 'train' the cron expression '0 0 30 2 *',"
        f" which cannot be read (Bad day-of-month); {expected}\n"
        "  - the schedule gives 'materialize' the cron expression '0 0 * * * *',"
        f" which has 6 fields; {expected}\n"
        "  - the time limit of 'train' is datetime.timedelta(0);"
        " expected a timedelta greater than zero."
    )


@pytest.mark.parametrize("demo_at", ["datetime(2020, 12, 1)", "datetime(9999, 1, 1, tzinfo=UTC)"])
def test_an_unusable_demo_time_is_reported_when_the_domain_is_loaded(shop, tmp_path, demo_at):
    path = tmp_path / "repository" / "shop" / "shop.py"
    declared = path.read_text()
    assert 'demo_at=moment("2020-12-01T06:00Z")' in declared
    imports = "from datetime import UTC, datetime, timedelta"
    declared = declared.replace("from datetime import timedelta", imports)
    path.write_text(declared.replace('moment("2020-12-01T06:00Z")', demo_at))
    with pytest.raises(InvalidDeclaration, match="demo_at: (NaiveTimestamp|InvalidTime): "):
        load_domain(Home.at(), "shop")


def test_a_command_gets_the_time_at_which_it_starts(tiny, tmp_path):
    step = tiny.step(stages=("build", "publish"), options=("--clock", "{clock}"))
    clock = lambda: f"after {len(tiny.calls('ends'))}"  # noqa: E731
    for each in (step, tiny.step()):
        outcome = run_step(
            each, MOMENT, tmp_path / "log", home=Home.at(), sleep=time.sleep, clock=clock
        )
        assert outcome.status == "succeeded"
    assert [call["argv"][3:] for call in tiny.calls()] == [
        ["--clock", "after 0"],
        ["--clock", "after 1"],
        [],
    ]
