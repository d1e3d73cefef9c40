"""Runs a step: its command lines as child processes, judged by their exit codes alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from orchestration import processes
from orchestration.steps import Step
from punctual.errors import ExitCode
from punctual.home import Home
from punctual.times import duration_text


class Stopped(Exception):
    """Somebody asked this process to end while it waited."""


@dataclass(frozen=True)
class Outcome:
    """How a run of a step ended.

    A refused one did its work, and the gate refused its model; with `attention` it did its work,
    and a check failed. `again` says whether a failed one is worth trying again.
    """

    status: Literal["succeeded", "attention", "refused", "failed"]
    message: str = ""
    again: bool = True


def run_step(
    step: Step,
    as_of: datetime,
    log: Path,
    *,
    home: Home,
    sleep: Callable[[float], None],
    keeps: Sequence[int] = (),
    clock: Callable[[], str] = lambda: "now",
    speed: float = 1.0,
) -> Outcome:
    """Run a step's commands, their output in the log, until one fails or the time is up.

    `sleep` is called while they run; if it raises `Stopped`, or anything else, the running one is
    ended. `clock` says what time it is, as an option's value. `keeps` are file descriptors that
    the commands hold open.
    """
    until = time.monotonic() + step.timeout_seconds
    for command in step.commands:
        argv = step.arguments(command, as_of, clock(), speed)
        child = processes.start(home, argv, log, keeps=keeps)
        try:
            while child.code is None and time.monotonic() < until:
                sleep(0.1)
        finally:
            in_time = child.code is not None
            code = child.stop()
        if not in_time:
            limit = duration_text(timedelta(seconds=step.timeout_seconds))
            return Outcome(
                "failed",
                f"TimeLimit: python -m {' '.join(argv)} was stopped:"
                f" '{step.name}' may take {limit}.",
            )
        if code != ExitCode.DONE:
            said = child.last_words()
            return _outcome(
                code, said or f"python -m {' '.join(argv)} {_ended(code)} and said nothing"
            )
    return Outcome("succeeded")


def _outcome(code: int, said: str) -> Outcome:
    """What an exit code other than 0 says of the run; `said` is for people."""
    if code == ExitCode.REFUSED:
        return Outcome("refused", said)
    if code == ExitCode.NEEDS_ATTENTION:
        return Outcome("attention", said)
    return Outcome("failed", said, again=code != ExitCode.NEEDS_A_PERSON)


def _ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
