"""Runs a step's command lines as child processes; the outcome depends on their exit codes only."""

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
    """The scheduler process was asked to end."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run of a step.

    `refused`: the work is done, and the gate refused the model. `attention`: the work is done, and
    a check failed. `retryable` is about a failed run: whether a repetition may succeed.
    """

    status: Literal["succeeded", "attention", "refused", "failed"]
    message: str = ""
    retryable: bool = True


def run_step(
    step: Step,
    as_of: datetime,
    log: Path,
    *,
    home: Home,
    sleep: Callable[[float], None],
    inherited_fds: Sequence[int] = (),
    clock: Callable[[], str] = lambda: "now",
    speed: float = 1.0,
) -> Outcome:
    """Run a step's commands until one fails or the time limit is reached; their output is in `log`.

    `sleep` is called while a command runs; if it raises `Stopped` or another exception, the command
    is ended. `clock` returns the value of `{clock}` in the commands. The commands inherit the file
    descriptors `inherited_fds`.
    """
    until = time.monotonic() + step.timeout_seconds
    for command in step.commands:
        argv = step.arguments(command, as_of, clock(), speed)
        child = processes.start(home, argv, log, inherited_fds=inherited_fds)
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
            output = child.last_output()
            return _outcome(
                code, output or f"python -m {' '.join(argv)} {_ended(code)} without output"
            )
    return Outcome("succeeded")


def _outcome(code: int, message: str) -> Outcome:
    """The outcome for an exit code other than 0."""
    if code == ExitCode.REFUSED:
        return Outcome("refused", message)
    if code == ExitCode.NEEDS_ATTENTION:
        return Outcome("attention", message)
    return Outcome("failed", message, retryable=code != ExitCode.NEEDS_A_PERSON)


def _ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
