"""When steps run: cron moments on any clock, a missed one caught up once, a failed one retried,
never two at a time.
"""

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
    """The newest moment of a cron expression that is not after now (aware UTC)."""
    return next(CronSim(cron, now.replace(microsecond=0) + timedelta(seconds=1), reverse=True))


def next_moment(cron: str, now: datetime) -> datetime:
    """The first moment of a cron expression after now (aware UTC)."""
    return next(CronSim(cron, now))


class Scheduler:
    """Runs steps when they are due, one after another, and keeps the ledger.

    A run stands for the newest moment of its step's cron that has come, and its command lines get
    that moment as their `--as-of`, however late it starts: a retry, a repetition and a rehearsal
    give the same rows, and several missed moments are one run. What comes online later than
    promised is said in the run's message.

    A step without history is due at once. What it comes after, its conditions, and how often it is
    tried, its description says (`Step`). Other steps go on while one waits for its next try, and
    its own next moment ends it. Interrupted attempts do not count, and a failure that a person has
    to fix is not tried again.

    `clock` is the schedule's clock and `wall` the wall's (aware UTC). `sleep` waits so many seconds
    or less by the wall's clock; where it raises `Stopped`, the scheduler ends.
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
        """Note what a dead scheduler left running as interrupted; it is due again."""
        left = self.ledger.interrupt_running(now=self.clock(), wall=self.wall())
        for run in left:
            self.show(run)
        return left

    def run_due(self) -> list[Run]:
        """Run what is due now, each step at most once; returns the finished runs. Raises `Stopped`
        where `sleep` does.

        What comes due meanwhile waits for the next time: it would read what is not built up to its
        moment.
        """
        now = self.clock()
        finished: dict[Step, Run] = {}
        # A run may make others due: the first champion a batch.
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
        """Run what is due, again and again, until `sleep` raises `Stopped`."""
        with contextlib.suppress(Stopped):
            while True:
                self.run_due()
                self.sleep(pause)

    def due(self, step: Step, now: datetime | None = None) -> datetime | None:
        """The moment for which the step is to run, if there is one; `now` is the clock's time
        unless given.
        """
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
        """Whether the steps that this one comes after have been done for the moment."""
        before = [
            each for each in self.steps if each.domain == step.domain and each.name in step.after
        ]
        return all(
            (done := self.ledger.last_done(each, failed=False)) is not None
            and done >= last_moment(each.cron, moment)
            for each in before
        )

    def _skip(self, step: Step, moment: datetime) -> None:
        """Begin the history of a step that has nothing to do yet."""
        run = self.ledger.start(step, moment, now=self.clock(), wall=self.wall())
        reason = "there is a champion; the next one is trained when its time comes"
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
            # Whatever ended us, the run is to be done again.
            self.show(
                self.ledger.finish(
                    run, "interrupted", str(error) or "stopped", now=self.clock(), wall=self.wall()
                )
            )
            raise
        now = self.clock()
        status: Status = outcome.status
        message = outcome.message or _lateness(step, moment, now)
        if outcome.status == "failed" and outcome.again and failures < step.retries:
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
    """A run in one line, for a person."""
    took = "" if run.seconds is None else f" in {run.seconds:.0f} s"
    words = gist(run.message)
    endings = {
        "running": "runs",
        "succeeded": f"done{took}{'; ' if words else ''}{words}",
        "refused": f"refused{took}: {words}",
        "attention": f"done{took}, and needs attention: {words}; see {run.log}",
        "failed": f"failed for good at attempt {run.attempt}: {words}; see {run.log}",
        "retrying": f"failed at attempt {run.attempt} and will be tried again: {words}; see"
        f" {run.log}",
        "interrupted": f"interrupted: {words}; it will be run again",
        "skipped": f"skipped: {words}",
    }
    return f"{run.step} {run.target} as of {run.scheduled:%Y-%m-%d %H:%M}: {endings[run.status]}"


def gist(message: str, width: int = 240) -> str:
    """The line that names the error, or the last one, not too long."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    line = next(
        (line for line in reversed(lines) if re.match(r"[\w.]+: ", line)),
        lines[-1] if lines else "",
    ).rstrip(".;")
    return line if len(line) <= width else f"{line[: width - 1]}…"
