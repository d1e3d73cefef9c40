"""Checks a domain's demo moment, schedule and time limits."""

from __future__ import annotations

from datetime import datetime, timedelta

from cronsim import CronSim, CronSimError

from punctual.domain import Domain
from punctual.errors import PunctualError, unknown_name
from punctual.times import aware

MATERIALIZE, BATCH, TRAIN = "materialize", "batch", "train"
STEP_NAMES = (MATERIALIZE, BATCH, TRAIN)


def schedule_problems(domain: Domain) -> list[str]:
    """One sentence for each problem of a domain's `demo_at`, `schedule` and `time_limits`."""
    problems = _demo_problems(domain.demo_at)
    problems += [
        unknown_name("step", name, STEP_NAMES, where)
        for where, names in (
            ("the schedule", domain.schedule),
            ("the time limits", domain.time_limits),
        )
        for name in names
        if name not in STEP_NAMES
    ]
    problems += [
        f"the schedule gives '{name}' the cron expression {cron!r}, {problem};"
        " expected five fields in UTC, such as '0 * * * *'."
        for name, cron in domain.schedule.items()
        if (problem := _cron_problem(cron))
    ]
    problems += [
        f"the time limit of '{name}' is {limit!r}; expected a timedelta greater than zero."
        for name, limit in domain.time_limits.items()
        if not isinstance(limit, timedelta) or limit <= timedelta(0)
    ]
    return problems


def _demo_problems(demo_at: datetime | None) -> list[str]:
    try:
        if demo_at is not None:
            aware(demo_at)
    except PunctualError as error:
        return [f"demo_at: {error}"]
    return []


def _cron_problem(cron: object) -> str | None:
    if not isinstance(cron, str):
        return "which is not text"
    if len(cron.split()) != 5:
        return f"which has {len(cron.split())} fields"
    try:
        next(CronSim(cron, datetime(2000, 1, 1)))
    except CronSimError as error:
        return f"which cannot be read ({error})"
    except StopIteration:
        return "which never occurs"
    return None
