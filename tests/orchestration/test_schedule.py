"""When steps run, on clocks set by hand; the steps are real child processes."""

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.schedule import last_moment, next_moment, run_line
from orchestration.step_run import Stopped

MONDAY = "2013-12-02"


def test_a_late_run_is_for_the_newest_scheduled_time(tiny, world):
    assert world([tiny.step()], "2013-12-05T20:00:00Z").at("2013-12-05T20:40:31Z") == [
        ("materialize", "05 20:00", "succeeded")
    ]
    assert tiny.ran() == [("materialize", "2013-12-05T20:00:00Z")]


def test_a_step_that_never_ran_is_due_at_once_even_at_its_scheduled_time(tiny, world):
    assert world([tiny.step()], "2013-12-05T20:00:00Z").at("2013-12-05T20:00:00Z") == [
        ("materialize", "05 20:00", "succeeded")
    ]


def test_a_step_runs_once_for_each_hour(tiny, world):
    here = world([tiny.step()], "2013-12-05T20:00:00Z")
    for now in (
        "20:00:00",
        "20:00:30",
        "20:59:59.999999",
        "21:00:00",
        "21:30:00",
        "22:00:00.000001",
    ):
        here.at(f"2013-12-05T{now}Z")
    assert tiny.ran() == [("materialize", f"2013-12-05T{hour}:00:00Z") for hour in (20, 21, 22)]


def test_missed_scheduled_times_are_caught_up_with_one_run(tiny, world):
    world([tiny.step()], "2013-12-05T20:00:00Z").at("2013-12-05T20:00:00Z")
    restarted = world([tiny.step()], "2013-12-07T15:20:00Z")
    assert restarted.at("2013-12-07T15:20:00Z") == [("materialize", "07 15:00", "succeeded")]
    assert restarted.at("2013-12-07T15:21:00Z") == []
    assert len(tiny.ran()) == 2


def test_after_a_clock_is_set_back_nothing_is_due_until_it_passes_the_ledger(tiny, world):
    here = world([tiny.step()], "2013-12-05T20:00:00Z")
    here.at("2013-12-05T20:00:00Z")
    assert here.at("2013-11-01T10:00:00Z") == []
    assert here.at("2013-12-05T21:00:00Z") == [("materialize", "05 21:00", "succeeded")]


def test_due_steps_run_in_the_order_of_their_dependencies(tiny, world):
    steps = [
        tiny.train(after=("materialize", "batch")),
        tiny.batch(),
        tiny.step("materialize"),
    ]
    here = world(steps, f"{MONDAY}T05:00:00Z", champions={"batch-target", "train-target"})
    assert here.at(f"{MONDAY}T05:00:00Z") == [
        ("materialize", "02 05:00", "succeeded"),
        ("batch", "01 06:00", "succeeded"),
    ]
    assert [name for name, _, _ in here.at(f"{MONDAY}T07:00:00Z")] == [
        "materialize",
        "batch",
        "train",
    ]


def test_without_a_champion_the_first_start_trains_and_then_predicts(tiny, world):
    steps = [
        tiny.step("materialize"),
        tiny.batch(),
        tiny.train(),
    ]
    here = world(steps, "2013-12-05T20:00:00Z")
    here.scheduler.show = lambda run: (
        here.champions.add("batch-target") if run.step == "train" else None
    )
    assert here.at("2013-12-05T20:00:00Z") == [
        ("materialize", "05 20:00", "succeeded"),
        ("train", "02 07:00", "succeeded"),
        ("batch", "05 06:00", "succeeded"),
    ]


def test_a_step_that_comes_due_during_a_run_waits_for_its_inputs(tiny, world):
    steps = [
        tiny.step("materialize"),
        tiny.batch(),
        tiny.train(),
    ]
    here = world(steps, "2013-12-05T20:00:00Z")

    def trains_for_days(run):
        if run.step == "train":
            here.champions.add("batch-target")
            here.now += timedelta(days=4)

    here.scheduler.show = trains_for_days
    here.at("2013-12-05T20:00:00Z")
    assert tiny.ran()[1:] == [("train", "2013-12-02T07:00:00Z"), ("batch", "2013-12-05T06:00:00Z")]
    here.scheduler.run_due()
    assert tiny.ran()[3:5] == [
        ("materialize", "2013-12-09T20:00:00Z"),
        ("batch", "2013-12-09T06:00:00Z"),
    ]


def test_a_step_waits_until_its_dependency_has_run_for_the_same_time(tiny, world):
    here = world(
        [tiny.batch(), tiny.step("materialize")],
        "2013-12-05T06:00:00Z",
        champions={"batch-target"},
    )
    tiny.plan("materialize", "75 locked", "2 no such column")
    assert here.at("2013-12-05T06:00:00Z") == [("materialize", "05 06:00", "retrying")]
    here.wait(10)
    assert here.at("2013-12-05T06:00:10Z") == [("materialize", "05 06:00", "failed")]
    assert here.at("2013-12-05T06:59:00Z") == []
    assert here.at("2013-12-05T07:00:00Z") == [
        ("materialize", "05 07:00", "succeeded"),
        ("batch", "05 06:00", "succeeded"),
    ]


def test_a_step_of_another_domain_is_not_waited_for(tiny, world):
    elsewhere = replace(tiny.step("materialize"), domain="market")
    here = world([elsewhere, tiny.batch()], "2013-12-05T06:00:00Z", champions={"batch-target"})
    tiny.plan("materialize", "2 no such column")
    assert [name for name, _, status in here.at("2013-12-05T06:00:00Z") if status != "failed"] == [
        "batch"
    ]


def test_a_run_whose_check_failed_is_finished_and_needs_attention(tiny, world):
    here = world([tiny.step("materialize"), tiny.batch()], "2013-12-05T06:00:00Z", {"batch-target"})
    tiny.plan("materialize", "1 3 of 12 features have drifted.")
    assert here.at("2013-12-05T06:00:00Z") == [
        ("materialize", "05 06:00", "attention"),
        ("batch", "05 06:00", "succeeded"),
    ]
    said = "done in 0 s, and needs attention: 3 of 12 features have drifted; see"
    assert said in run_line(here.shown[0])
    here.wait(600)
    assert here.at("2013-12-05T06:10:00Z") == []


def test_a_step_sets_its_number_of_attempts(tiny, world):
    here = world([tiny.step(retries=1, retry_delay_seconds=60)], "2013-12-05T20:00:00Z")
    tiny.plan("materialize", "75 first", "75 second")
    assert here.at("2013-12-05T20:00:00Z")[0][2] == "retrying"
    here.wait(59)
    assert here.at("2013-12-05T20:00:59Z") == []
    here.wait(1)
    assert here.at("2013-12-05T20:01:00Z")[0][2] == "failed"


def test_with_a_champion_training_waits_for_its_next_scheduled_time(tiny, world):
    here = world([tiny.train()], "2013-12-05T20:00:00Z", champions={"train-target"})
    assert here.at("2013-12-05T20:00:00Z") == []
    assert [(run.status, run.message) for run in here.ledger.recent(5)] == [
        ("skipped", "a champion exists; the next one is trained at the next scheduled moment")
    ]
    assert here.at("2013-12-09T06:59:59Z") == []
    assert here.at("2013-12-09T07:00:00Z") == [("train", "09 07:00", "succeeded")]


def test_without_a_champion_there_is_no_batch(tiny, world):
    here = world([tiny.batch()], "2013-12-05T20:00:00Z")
    assert here.at("2013-12-05T20:00:00Z") == []
    here.champions.add("batch-target")
    assert here.at("2013-12-05T22:00:00Z") == [("batch", "05 06:00", "succeeded")]


def test_a_run_fails_after_three_attempts_with_growing_waits_and_the_next_run_starts(tiny, world):
    here = world([tiny.step()], "2013-12-05T20:00:00Z")
    tiny.plan("materialize", "70 first", "70 second", "70 third")
    assert here.at("2013-12-05T20:00:00Z") == [("materialize", "05 20:00", "retrying")]
    here.wait(9)
    assert here.at("2013-12-05T20:00:09Z") == []
    here.wait(1)
    assert here.at("2013-12-05T20:00:10Z") == [("materialize", "05 20:00", "retrying")]
    here.wait(19)
    assert here.at("2013-12-05T20:00:29Z") == []
    here.wait(1)
    assert here.at("2013-12-05T20:00:30Z") == [("materialize", "05 20:00", "failed")]
    here.wait(3600)
    assert here.at("2013-12-05T20:59:00Z") == []
    assert here.at("2013-12-05T21:00:00Z") == [("materialize", "05 21:00", "succeeded")]
    runs = here.ledger.recent(9)[::-1]
    assert [(run.attempt, run.status, run.message) for run in runs] == [
        (1, "retrying", "first"),
        (2, "retrying", "second"),
        (3, "failed", "third"),
        (1, "succeeded", ""),
    ]


def test_a_restart_continues_with_the_remaining_attempts(tiny, world):
    tiny.plan("materialize", "70 first", "70 second", "70 third")
    for hours, status in enumerate(("retrying", "retrying", "failed")):
        here = world([tiny.step()], "2013-12-05T20:00:00Z")
        here.wait(hours * 3600)
        assert here.at("2013-12-05T20:00:00Z") == [("materialize", "05 20:00", status)]


def test_other_steps_run_while_one_waits_for_its_next_attempt(tiny, world):
    here = world([tiny.step(), tiny.train()], "2013-12-05T20:00:00Z")
    tiny.plan("train", "70 no luck")
    assert here.at("2013-12-05T20:00:00Z") == [
        ("materialize", "05 20:00", "succeeded"),
        ("train", "02 07:00", "retrying"),
    ]
    assert here.at("2013-12-05T21:00:00Z") == [("materialize", "05 21:00", "succeeded")]
    here.wait(10)
    assert here.at("2013-12-05T21:00:10Z") == [("train", "02 07:00", "succeeded")]


def test_the_next_scheduled_time_ends_the_attempts_for_an_older_one(tiny, world):
    here = world([tiny.step()], "2013-12-05T20:00:00Z")
    tiny.plan("materialize", "70 boom")
    here.at("2013-12-05T20:00:00Z")
    assert here.at("2013-12-05T21:00:00Z") == [("materialize", "05 21:00", "succeeded")]
    assert [(run.status, run.message) for run in here.ledger.recent(9)[::-1]] == [
        ("failed", "boom"),
        ("succeeded", ""),
    ]


def test_a_refused_model_is_a_finished_run_and_is_not_retried(tiny, world):
    here = world([tiny.train()], "2013-12-05T20:00:00Z")
    tiny.plan(
        "train", "3 GateRefused: challenger 7 scored 0.412 average_precision, champion 5 0.415."
    )
    assert here.at("2013-12-05T20:00:00Z") == [("train", "02 07:00", "refused")]
    here.wait(3600)
    assert here.at("2013-12-05T20:00:01Z") == []
    assert (
        here.shown[-1].message
        == "GateRefused: challenger 7 scored 0.412 average_precision, champion 5 0.415."
    )


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("2 NotEnoughData: 12 rows.", "failed"),
        (
            "2 StoreOutdated: table 'x' was built from another definition; run: punctual features"
            " build.",
            "failed",
        ),
        ("2 Error: No such option: --as-off", "failed"),
        ("2 OnlineStoreUnavailable: says the text, and only the code counts", "failed"),
        ("75 NotEnoughData: says the text, and only the code counts", "retrying"),
        ("70 UnexpectedError: KeyError", "retrying"),
        ("137 killed", "retrying"),
    ],
)
def test_a_permanent_failure_is_not_retried_before_the_next_scheduled_time(
    tiny, world, said, status
):
    here = world([tiny.step()], "2013-12-05T20:00:00Z")
    tiny.plan("materialize", said)
    assert here.at("2013-12-05T20:00:00Z") == [("materialize", "05 20:00", status)]
    here.wait(600)
    assert bool(here.at("2013-12-05T20:10:00Z")) is (status == "retrying")
    assert here.at("2013-12-05T21:00:00Z") == [("materialize", "05 21:00", "succeeded")]


def test_a_hanging_run_is_stopped_at_its_time_limit_and_the_schedule_continues(tiny, world, alive):
    here = world(
        [tiny.step(timeout_seconds=1), tiny.step("batch")],
        "2013-12-05T20:00:00Z",
        champions={"batch-target"},
    )
    tiny.plan("materialize", "sleep")
    assert here.at("2013-12-05T20:00:00Z") == [
        ("materialize", "05 20:00", "retrying"),
        ("batch", "05 20:00", "succeeded"),
    ]
    assert not alive(tiny.calls()[0]["pid"])
    assert here.shown[0].message == (
        "TimeLimit: python -m tiny materialize --as-of 2013-12-05T20:00:00Z was stopped:"
        " 'materialize' may take 1s."
    )


def test_the_second_command_of_a_step_runs_only_after_the_first_succeeds(tiny, world):
    here = world([tiny.step(stages=("build", "publish"))], "2013-12-05T20:00:00Z")
    tiny.plan("build", "70 no disk")
    here.at("2013-12-05T20:00:00Z")
    here.at("2013-12-05T21:00:00Z")
    assert [stage for stage, _ in tiny.ran()] == ["build", "build", "publish"]


def test_a_run_later_than_promised_is_reported(tiny, world):
    here = world([tiny.step(promised_within_seconds=300)], "2013-12-05T20:00:00Z")
    here.at("2013-12-05T20:05:00Z")
    here.at("2013-12-05T21:05:01Z")
    assert [run.message for run in here.shown] == [
        "",
        "late: promised by 2013-12-05T21:05:00Z, online at 2013-12-05T21:05:01Z",
    ]


def test_a_run_of_a_dead_scheduler_is_interrupted_and_repeated_without_a_failure(tiny, world):
    here = world([tiny.step()], "2013-12-05T20:00:00Z")
    here.ledger.start(here.scheduler.steps[0], here.now, now=here.now, wall=here.wall)
    assert [run.status for run in here.scheduler.recover()] == ["interrupted"]
    tiny.plan("materialize", "70 a", "70 b", "70 c")
    statuses = []
    for _ in range(3):
        statuses += here.at("2013-12-05T20:00:01Z")
        here.wait(60)
    assert [status for _, _, status in statuses] == ["retrying", "retrying", "failed"]


def test_stopping_ends_the_running_step_and_the_next_start_repeats_it(tiny, world, alive):
    here = world([tiny.step()], "2013-12-05T20:00:00Z")
    tiny.plan("materialize", "sleep")
    here.stop_after = lambda: len(tiny.calls()) > 0
    with pytest.raises(Stopped):
        here.scheduler.run_due()
    assert not alive(tiny.calls()[0]["pid"])
    assert here.ledger.recent(1)[0].status == "interrupted"
    assert world([tiny.step()], "2013-12-05T20:10:00Z").at("2013-12-05T20:10:00Z") == [
        ("materialize", "05 20:00", "succeeded")
    ]


def test_a_killed_step_is_reported(tiny, world, monkeypatch):
    here = world([tiny.step()], "2013-12-05T20:00:00Z")
    tiny.plan("materialize", "sleep")
    killed = []

    def kill():
        for call in tiny.calls():
            if call["pid"] not in killed:
                killed.append(call["pid"])
                os.kill(call["pid"], 9)
        return False

    here.stop_after = kill
    assert here.at("2013-12-05T20:00:00Z") == [("materialize", "05 20:00", "retrying")]
    assert here.shown[-1].message.endswith("was killed by signal 9 without output")


def test_a_run_is_shown_in_one_line(tiny, world):
    here = world([tiny.step()], "2013-12-05T20:00:00Z")
    tiny.plan("materialize", "75 AlreadyRunning: 'build' runs in data already.", "0")
    here.at("2013-12-05T20:00:00Z")
    here.wait(10)
    here.at("2013-12-05T20:00:10Z")
    log = here.shown[0].log
    assert [run_line(run) for run in here.shown] == [
        "materialize materialize-target as of 2013-12-05 20:00: failed at attempt 1 and will be"
        " retried: "
        f"AlreadyRunning: 'build' runs in data already; see {log}",
        "materialize materialize-target as of 2013-12-05 20:00: done in 0 s",
    ]


@given(
    st.sampled_from(
        ["0 * * * *", "*/15 * * * *", "0 6 * * *", "0 7 * * 1", "30 2 29 2 *", "59 23 31 12 *"]
    ),
    st.datetimes(datetime(2011, 1, 1), datetime(2016, 12, 31), timezones=st.just(UTC)),
)
def test_scheduled_times_have_no_gap(cron, now):
    before, after = last_moment(cron, now), next_moment(cron, now)
    assert before <= now < after
    assert next_moment(cron, before) == after
    assert last_moment(cron, after - timedelta(microseconds=1)) == before
