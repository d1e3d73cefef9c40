"""Steps: what runs on a schedule, as command lines of the stages, so that any scheduler can run the same."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cronsim import CronSim, CronSimError

from orchestration import processes
from punctual import errors
from punctual.errors import InvalidDeclaration, unknown_name
from punctual.home import Home
from punctual.times import duration_text, iso

if TYPE_CHECKING:  # it takes Feast with it
    from punctual.loaded_domain import LoadedDomain

MATERIALIZE, BATCH, TRAIN = "materialize", "batch", "train"
# What is due at once runs in this order: a batch and a training set read what is built.
STEP_NAMES = (MATERIALIZE, BATCH, TRAIN)
# Far more than any of them takes: a run that hangs must end some time, so that the others go on.
TIME_LIMITS = {
    MATERIALIZE: timedelta(hours=2),
    BATCH: timedelta(hours=2),
    TRAIN: timedelta(hours=12),
}
_REFUSED = "GateRefused:"


class Stopped(Exception):
    """Somebody asked this process to end while it waited."""


@dataclass(frozen=True)
class Step:
    """A recurring piece of work on a domain, or on one of its use cases (`target`); idempotent for each moment.

    `stages` are the stages' command lines but for `--as-of`, run one after another. `cron` is in UTC.
    What a run gives is promised `done_within` of the moment it stands for, where anything is promised; one that takes longer than
    `time_limit` by the wall's clock is stopped.
    """

    name: str
    domain: str
    target: str
    cron: str
    stages: tuple[tuple[str, ...], ...]
    done_within: timedelta | None = None
    time_limit: timedelta = TIME_LIMITS[TRAIN]

    def commands(self, as_of: datetime) -> list[list[str]]:
        """What to run with `python -m` for a moment."""
        return [[*stage, "--as-of", str(iso(as_of))] for stage in self.stages]

    def takes_clock(self, number: int) -> bool:
        """Whether a stage counts what it brings later than promised, and is to be told what time it is when it starts."""
        return self.done_within is not None and number == len(self.stages) - 1


@dataclass(frozen=True)
class Outcome:
    """How a step ended; a refused one did its work, and the gate turned its model down. `again` says whether trying again may help."""

    status: Literal["succeeded", "refused", "failed"]
    message: str = ""
    again: bool = True


def steps_of(domain: LoadedDomain) -> list[Step]:
    """The steps that a domain's schedule names, in the order in which they run.

    Raises `InvalidDeclaration` with every problem of the schedule.
    """
    schedule = domain.domain.schedule
    problems = [
        unknown_name("step", name, STEP_NAMES, "the platform")
        for name in schedule
        if name not in STEP_NAMES
    ]
    problems += [
        problem for name, cron in schedule.items() if (problem := _cron_problem(name, cron))
    ]
    limits = domain.domain.time_limits
    problems += [
        unknown_name("step", name, STEP_NAMES, "the platform")
        for name in limits
        if name not in STEP_NAMES
    ]
    problems += [
        f"the time limit {limit} for {name} is no time to run in."
        for name, limit in limits.items()
        if limit <= timedelta(0)
    ]
    if problems:
        raise InvalidDeclaration(f"the schedule of domain '{domain.name}'", problems)
    promised = min((declared.available_after for declared in domain.declarations), default=None)
    steps: list[Step] = []
    for name in STEP_NAMES:
        if name not in schedule:
            continue
        limit = limits.get(name, TIME_LIMITS[name])
        if name == MATERIALIZE:
            stages = (
                ("pipelines", "build", domain.name),
                ("pipelines", "materialize", domain.name),
            )
            steps.append(
                Step(name, domain.name, domain.name, schedule[name], stages, promised, limit)
            )
            continue
        stage = ("inference", "batch") if name == BATCH else ("training", "fit")
        for use_case in domain.use_cases:
            steps.append(
                Step(
                    name,
                    domain.name,
                    use_case,
                    schedule[name],
                    ((*stage, use_case),),
                    time_limit=limit,
                )
            )
    return steps


def _cron_problem(name: str, cron: str) -> str | None:
    try:
        if len(cron.split()) != 5:
            raise CronSimError("Wrong number of fields")
        next(CronSim(cron, datetime(2000, 1, 1)))
    except CronSimError as error:
        return f"'{cron}' for {name} is no cron expression ({error}); expected five fields in UTC, such as '0 * * * *'."
    except StopIteration:
        return f"'{cron}' for {name} never comes; expected a cron expression in UTC, such as '0 * * * *'."
    return None


def run_step(
    step: Step,
    as_of: datetime,
    log: Path,
    *,
    home: Home,
    sleep: Callable[[float], None],
    keeps: Sequence[int] = (),
    clock: Callable[[], Sequence[str]] = tuple,
) -> Outcome:
    """Run the step's command lines as child processes, their output in the log, until one fails or their time is up.

    `sleep` is called while they run; where it raises `Stopped`, or anything else, the running one is ended. `clock` gives the options
    that tell a command line what time it is.
    """
    until = time.monotonic() + step.time_limit.total_seconds()
    for number, argv in enumerate(step.commands(as_of)):
        argv += clock() if step.takes_clock(number) else ()
        child = processes.start(home, argv, log, keeps=keeps)
        try:
            while child.code is None and time.monotonic() < until:
                sleep(0.1)
        finally:
            in_time = child.code is not None
            code = child.stop()
        if not in_time:
            return Outcome(
                "failed",
                f"TimeLimit: python -m {' '.join(argv)} was stopped: '{step.name}' may take {duration_text(step.time_limit)}.",
            )
        if code != 0:
            return _failed(
                code,
                child.last_words() or f"python -m {' '.join(argv)} {_ended(code)} and said nothing",
            )
    return Outcome("succeeded")


def _failed(code: int, said: str) -> Outcome:
    """What became of a step of which a command line failed; with exit code 2 it says that a person has to mend something."""
    if code != 2:
        return Outcome("failed", said)
    refused = next((line for line in said.splitlines() if line.startswith(_REFUSED)), None)
    if refused:
        return Outcome("refused", refused)
    named = [getattr(errors, name, None) for name in re.findall(r"^(\w+): ", said, re.MULTILINE)]
    return Outcome(
        "failed",
        said,
        again=any(isinstance(each, type) and getattr(each, "may_pass", False) for each in named),
    )


def _ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
