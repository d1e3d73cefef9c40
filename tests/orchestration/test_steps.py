"""What a domain's schedule becomes: command lines of the stages."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from orchestration.steps import run_step, steps_of
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
    assert [step.commands(MOMENT) for step in steps] == [
        [
            ["pipelines", "build", "flights", "--as-of", "2013-12-05T21:00:00Z"],
            ["pipelines", "materialize", "flights", "--as-of", "2013-12-05T21:00:00Z"],
        ],
        [["inference", "batch", "arrival_delay", "--as-of", "2013-12-05T21:00:00Z"]],
        [["training", "fit", "arrival_delay", "--as-of", "2013-12-05T21:00:00Z"]],
    ]
    assert steps[0].done_within == timedelta(minutes=5)


def test_a_step_that_the_schedule_leaves_out_does_not_run():
    domain = LoadedDomain(
        Home.at(), "shop", Domain("shop", "", schedule={"materialize": "*/15 * * * *"})
    )
    assert [(step.name, step.cron) for step in steps_of(domain)] == [
        ("materialize", "*/15 * * * *")
    ]


def test_a_run_has_a_time_limit_which_a_domain_may_set():
    domain = LoadedDomain(
        Home.at(), "shop", Domain("shop", "", time_limits={"materialize": timedelta(minutes=20)})
    )
    assert [step.time_limit for step in steps_of(domain)] == [timedelta(minutes=20)]
    assert [step.time_limit for step in steps_of(load_domain(Home.at(), "flights"))] == [
        timedelta(hours=hours) for hours in (2, 2, 12)
    ]


def test_all_problems_of_a_schedule_are_said_at_once():
    schedule = {
        "materialise": "0 * * * *",
        "batch": "0 25 * * *",
        "train": "0 0 30 2 *",
        "materialize": "0 0 * * * *",
    }
    with pytest.raises(InvalidDeclaration) as error:
        steps_of(
            LoadedDomain(
                Home.at(),
                "shop",
                Domain(
                    "shop",
                    "",
                    schedule=schedule,
                    time_limits={"bath": timedelta(1), "train": timedelta(0)},
                ),
            )
        )
    expected = "expected five fields in UTC, such as '0 * * * *'."
    assert str(error.value) == (
        "InvalidDeclaration: the schedule of domain 'shop' has 6 problems:\n"
        "  - no step 'materialise' in the platform. Did you mean 'materialize'? Known: batch, materialize, train.\n"
        f"  - '0 25 * * *' for batch is no cron expression (Bad hour); {expected}\n"
        f"  - '0 0 30 2 *' for train is no cron expression (Bad day-of-month); {expected}\n"
        f"  - '0 0 * * * *' for materialize is no cron expression (Wrong number of fields); {expected}\n"
        "  - no step 'bath' in the platform. Did you mean 'batch'? Known: batch, materialize, train.\n"
        "  - the time limit 0:00:00 for train is no time to run in."
    )


def test_what_is_promised_is_told_the_time_when_it_starts_and_nothing_else_is(tiny, tmp_path):
    step = tiny.step(stages=("build", "publish"), done_within=timedelta(minutes=5))
    clock = lambda: ["--clock", f"after {len(tiny.calls('ends'))}"]  # noqa: E731
    for each in (step, tiny.step()):
        assert (
            run_step(
                each, MOMENT, tmp_path / "log", home=Home.at(), sleep=time.sleep, clock=clock
            ).status
            == "succeeded"
        )
    assert [call["argv"][3:] for call in tiny.calls()] == [[], ["--clock", "after 1"], []]
