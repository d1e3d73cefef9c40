"""The built-in scheduler: cron on any clock, with catch-up and retries, one run at a time."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cronsim import CronSim

from orchestration.ledger import Ledger, Run, Status
from orchestration.step_run import Outcome, Stopped
from orchestration.steps import Step
from punctual.times import iso

_LOGS_KEPT = 200

RunStep = Callable[[Step, datetime, Path], Outcome]


def last_moment(cron: str, now: datetime) -> datetime:
    """The newest moment of a cron expression that is not after `now` (aware UTC)."""
    return next(CronSim(cron, now.replace(microsecond=0) + timedelta(seconds=1), reverse=True))


def next_moment(cron: str, now: datetime) -> datetime:
    """The first moment of a cron expression after `now` (aware UTC)."""
    return next(CronSim(cron, now))


class Scheduler:
    """Runs due steps one after another, and writes the ledger.

    A run is for the newest past moment of its step's cron. Its command lines get that moment as
    `--as-of`, however late the run starts, so that retries, repetitions and rehearsals give the
    same rows. Several missed moments are caught up with one run. If the run ends later than
    promised, its message says so.

    A step without history is due at once. Its dependencies, conditions and retries are those of its
    `Step`. Other steps run while a step waits for a retry; the step's next moment ends the retries.
    Interrupted attempts do not count as failures. A failure that needs a person is not retried.

    `clock` is the schedule's clock and `wall` the real time (aware UTC). `sleep` waits at most the
    given number of real seconds; if it raises `Stopped`, the scheduler ends.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        ledger: Ledger,
        clock: Callable[[], datetime],
        run_step: RunStep,
        sleep: Callable[[float], None],
        *,
        wall: Callable[[], datetime],
        has_champion: Callable[[str], bool],
        show: Callable[[Run], None] = lambda _: None,
    ) -> None:
        self.steps = list(steps)
        self.ledger = ledger
        self.clock = clock
        self.run_step = run_step
        self.sleep = sleep
        self.wall = wall
        self.has_champion = has_champion
        self.show = show

    def recover(self) -> list[Run]:
        """Record the runs of a dead scheduler as interrupted; their steps are due again."""
        left = self.ledger.interrupt_running(now=self.clock(), wall=self.wall())
        for run in left:
            self.show(run)
        return left

    def run_due(self) -> list[Run]:
        """Run what is due now, each step at most once; return the finished runs.

        Steps that come due during these runs wait for the next call: the tables may not be built up
        to their moment. Raises `Stopped` if `sleep` does.
        """
        now = self.clock()
        finished: dict[Step, Run] = {}
        # A run may make another step due: with the first champion, a batch.
        while due := next(
            (
                (step, at)
                for step in self.steps
                if step not in finished and (at := self.due(step, now)) and self.may_run(step, at)
            ),
            None,
        ):
            self.sleep(0)
            finished[due[0]] = self._run(*due)
        return list(finished.values())

    def run_forever(self, pause: float = 0.5) -> None:
        """Run what is due, repeatedly, until `sleep` raises `Stopped`."""
        with contextlib.suppress(Stopped):
            while True:
                self.run_due()
                self.sleep(pause)

    def due(self, step: Step, now: datetime | None = None) -> datetime | None:
        """The moment for which the step is due at `now`, by default the clock's time; else None."""
        moment, done = last_moment(step.cron, now or self.clock()), self.ledger.last_done(step)
        if done is not None and moment <= done:
            return None
        if step.needs == "champion" and not self.has_champion(step.target):
            return None
        if done is None and step.first_run_without == "champion" and self.has_champion(step.target):
            self._skip(step, moment)
            return None
        attempts = self.ledger.attempts(step, moment)
        if (
            attempts
            and attempts[-1].status == "retrying"
            and self.wall() < _retry_at(step, attempts)
        ):
            return None
        return moment

    def may_run(self, step: Step, moment: datetime) -> bool:
        """Whether the steps named in `after` are done for the moment."""
        before = [
            each for each in self.steps if each.domain == step.domain and each.name in step.after
        ]
        return all(
            (done := self.ledger.last_done(each, failed=False)) is not None
            and done >= last_moment(each.cron, moment)
            for each in before
        )

    def _skip(self, step: Step, moment: datetime) -> None:
        """Start the history of a step with a skipped run."""
        run = self.ledger.start(step, moment, now=self.clock(), wall=self.wall())
        reason = "a champion exists; the next one is trained at the next scheduled moment"
        self.show(self.ledger.finish(run, "skipped", reason, now=self.clock(), wall=self.wall()))

    def _run(self, step: Step, moment: datetime) -> Run:
        self.ledger.give_up_before(step, moment)
        failures = _failures(self.ledger.attempts(step, moment))
        name = f"{step.name}-{step.target}-{moment:%Y%m%dT%H%M}.log"
        log = self.ledger.home.path("logs", name)
        run = self.ledger.start(step, moment, now=self.clock(), wall=self.wall(), log=str(log))
        try:
            outcome = self.run_step(step, moment, log)
        except BaseException as error:
            # For any reason, an interrupted run is due again.
            self.show(
                self.ledger.finish(
                    run, "interrupted", str(error) or "stopped", now=self.clock(), wall=self.wall()
                )
            )
            raise
        now = self.clock()
        status: Status = outcome.status
        message = outcome.message or _lateness(step, moment, now)
        if outcome.status == "failed" and outcome.retryable and failures < step.retries:
            status = "retrying"
        run = self.ledger.finish(run, status, message, now=now, wall=self.wall())
        _remove_old_logs(log.parent)
        self.show(run)
        return run


def _failures(attempts: Sequence[Run]) -> int:
    return sum(run.status in ("retrying", "failed") for run in attempts)


def _retry_at(step: Step, attempts: Sequence[Run]) -> datetime:
    last = attempts[-1].finished_wall or attempts[-1].started_wall
    return last + timedelta(seconds=step.retry_delay_seconds) * 2 ** (_failures(attempts) - 1)


def _lateness(step: Step, moment: datetime, finished: datetime) -> str:
    if step.promised_within_seconds is None:
        return ""
    promised = moment + timedelta(seconds=step.promised_within_seconds)
    if finished <= promised:
        return ""
    return f"late: promised by {iso(promised)}, online at {iso(finished.replace(microsecond=0))}"


def _remove_old_logs(folder: Path) -> None:
    logs = sorted(folder.glob("*-*.log"), key=lambda path: path.stat().st_mtime)
    for path in logs[:-_LOGS_KEPT]:
        path.unlink(missing_ok=True)


def run_line(run: Run) -> str:
    """A run as one line of text."""
    took = "" if run.seconds is None else f" in {run.seconds:.0f} s"
    message = error_line(run.message)
    endings = {
        "running": "runs",
        "succeeded": f"done{took}{'; ' if message else ''}{message}",
        "refused": f"refused{took}: {message}",
        "attention": f"done{took}, and needs attention: {message}; see {run.log}",
        "failed": f"failed for good at attempt {run.attempt}: {message}; see {run.log}",
        "retrying": f"failed at attempt {run.attempt} and will be retried: {message}; see"
        f" {run.log}",
        "interrupted": f"interrupted: {message}; it will be run again",
        "skipped": f"skipped: {message}",
    }
    return f"{run.step} {run.target} as of {run.scheduled:%Y-%m-%d %H:%M}: {endings[run.status]}"


def error_line(message: str, width: int = 240) -> str:
    """The last line that begins with an error's name, else the last line; cut to `width`."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    line = next(
        (line for line in reversed(lines) if re.match(r"[\w.]+: ", line)),
        lines[-1] if lines else "",
    ).rstrip(".;")
    return line if len(line) <= width else f"{line[: width - 1]}…"
