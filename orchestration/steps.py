"""Steps: what runs on a schedule, as command lines of the stages, so that any scheduler can run the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cronsim import CronSim, CronSimError

from feature_repo.errors import InvalidDeclaration, unknown_name
from feature_repo.times import iso
from orchestration import processes

if TYPE_CHECKING:  # it takes Feast with it
    from feature_repo.domains import LoadedDomain

MATERIALIZE, BATCH, TRAIN = "materialize", "batch", "train"
# What is due at once runs in this order: a batch and a training set read what is built.
STEP_NAMES = (MATERIALIZE, BATCH, TRAIN)
_REFUSED = "GateRefused:"


class Stopped(Exception):
    """Somebody asked this process to end while it waited."""


@dataclass(frozen=True)
class Step:
    """A recurring piece of work on a domain, or on one of its use cases (`target`); idempotent for each moment.

    `stages` are the stages' command lines but for `--as-of`, run one after another. `cron` is in UTC.
    What a run gives is promised `done_within` of the moment it stands for, where anything is promised.
    """

    name: str
    domain: str
    target: str
    cron: str
    stages: tuple[tuple[str, ...], ...]
    done_within: timedelta | None = None

    def commands(self, as_of: datetime) -> list[list[str]]:
        """What to run with `python -m` for a moment."""
        return [[*stage, "--as-of", str(iso(as_of))] for stage in self.stages]

    def takes_clock(self, number: int) -> bool:
        """Whether a stage counts what it brings later than promised, and is to be told what time it is when it starts."""
        return self.done_within is not None and number == len(self.stages) - 1


@dataclass(frozen=True)
class Outcome:
    """How a step ended; a refused one did its work, and the gate turned its model down."""

    status: Literal["succeeded", "refused", "failed"]
    message: str = ""


def steps_of(domain: LoadedDomain) -> list[Step]:
    """The steps that a domain's schedule names, in the order in which they run.

    Raises `InvalidDeclaration` with every problem of the schedule.
    """
    schedule = domain.domain.schedule
    problems = [unknown_name("step", name, STEP_NAMES, "the platform") for name in schedule if name not in STEP_NAMES]
    problems += [problem for name, cron in schedule.items() if (problem := _cron_problem(name, cron))]
    if problems:
        raise InvalidDeclaration(f"the schedule of domain '{domain.name}'", problems)
    promised = min((declared.available_after for declared in domain.declarations), default=None)
    steps: list[Step] = []
    for name in STEP_NAMES:
        if name not in schedule:
            continue
        if name == MATERIALIZE:
            stages = (("pipelines", "build", domain.name), ("pipelines", "materialize", domain.name))
            steps.append(Step(name, domain.name, domain.name, schedule[name], stages, promised))
            continue
        stage = ("inference", "batch") if name == BATCH else ("training", "fit")
        for use_case in domain.use_cases:
            steps.append(Step(name, domain.name, use_case, schedule[name], ((*stage, use_case),)))
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
    sleep: Callable[[float], None],
    keeps: Sequence[int] = (),
    clock: Callable[[], Sequence[str]] = tuple,
) -> Outcome:
    """Run the step's command lines as child processes, their output in the log, until one fails.

    `sleep` is called while they run; where it raises `Stopped`, or anything else, the running one is ended. `clock` gives the options
    that tell a command line what time it is.
    """
    for number, argv in enumerate(step.commands(as_of)):
        argv += clock() if step.takes_clock(number) else ()
        child = processes.start(argv, log, keeps=keeps)
        try:
            while child.code is None:
                sleep(0.1)
        finally:
            code = child.stop()
        if code != 0:
            said = child.last_words()
            refused = next((line for line in said.splitlines() if line.startswith(_REFUSED)), None)
            if code == 2 and refused:
                return Outcome("refused", refused)
            return Outcome("failed", said or f"python -m {' '.join(argv)} {_ended(code)} and said nothing")
    return Outcome("succeeded")


def _ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
