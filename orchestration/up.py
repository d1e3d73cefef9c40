"""`punctual up`: schedule and server together on one clock, until a signal ends them."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import click

from punctual.clock import NOW, Clock, remember_moment, starting_moment, wall_clock
from punctual.command_line import Command, Speed, as_of_option, common_options
from punctual.home import Home
from punctual.times import iso

if TYPE_CHECKING:
    from punctual.loaded_domain import LoadedDomain

# The wait for the lock: the child processes of a killed scheduler hold it until they have ended, so
# that a step never runs twice at the same time.
_LOCK_TIMEOUT_SECONDS = 3.0


@click.command("up", cls=Command, epilog="Example: punctual up --speed 60")
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    default=8400,
    show_default=True,
    help="The port of the server on this machine.",
)
@click.option(
    "--speed",
    type=Speed(),
    default=1.0,
    show_default=True,
    help="The speed of the clock relative to real time; at 60 an hour takes a minute.",
)
@click.option(
    "--domain",
    "names",
    metavar="DOMAIN",
    multiple=True,
    help="Run this domain's schedule only; repeatable.  [default: all]",
)
@as_of_option
@common_options
def command(home: Home, port: int, speed: float, names: tuple[str, ...], as_of: str | None) -> None:
    """Run schedule and server together.

    Builds, materializes, predicts and trains on schedule, and serves predictions, until Ctrl-C.
    Each domain declares its schedule. Missed runs are caught up once, then the server starts.
    Failed runs are retried and shown by `punctual status`. The clock starts at --as-of.
    """
    from punctual.errors import UnknownDomain
    from punctual.repository import domain_names, load_domain

    domains = [load_domain(home, name) for name in dict.fromkeys(names) or domain_names(home)]
    if not domains:
        raise UnknownDomain(
            f"no domain in {home.repository}: no folder has a use_case.py. Choose another"
            " --repository."
        )
    up(home, domains, port=port, as_of=as_of, speed=speed)


def up(
    home: Home,
    domains: Sequence[LoadedDomain],
    *,
    port: int,
    as_of: str | None = None,
    speed: float = 1.0,
    show: Callable[[str], None] = click.echo,
) -> None:
    """Catch up what is due, start the server, and run the schedule until SIGINT or SIGTERM.

    All child processes are ended at the end. Each run loads the current definitions; a changed
    schedule or a new use case takes effect at the next start. Before anything runs, raises
    `AlreadyRunning` if another schedule uses the data folder, and `PortInUse`.
    """
    from orchestration.ledger import SCHEDULE, Ledger, Run
    from orchestration.schedule import Scheduler, run_line
    from orchestration.server import Server, refuse_used_port
    from orchestration.step_run import Stopped, run_step
    from orchestration.steps import steps_of
    from punctual.locks import exclusive_lock

    steps = [step for domain in domains for step in steps_of(domain)]
    use_cases = [name for domain in domains for name in domain.use_cases]
    clock, live = clock_of(home, domains, as_of, speed)
    remember: Callable[[datetime], None] = (lambda _: None) if live else ClockSaver(home, speed)

    def present() -> str:
        return NOW if live else str(iso(clock()))

    def serve() -> list[str]:
        clock_options = ["--as-of", present(), "--speed", str(speed)]
        return ["inference", "serve", *use_cases, "--port", str(port), *clock_options]

    def sleep(seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            server.supervise()
            remember(clock())
            if stop_signals:
                raise Stopped
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.1))

    def show_run(run: Run) -> None:
        show(f"{clock():%Y-%m-%d %H:%M:%S}  {run_line(run)}")

    with (
        exclusive_lock(home, SCHEDULE, _LOCK_TIMEOUT_SECONDS) as lock,
        _caught_signals() as stop_signals,
    ):
        refuse_used_port(port)
        server = Server(home, serve, port, home.path("logs", "server.log"), show)
        run = partial(
            run_step, home=home, sleep=sleep, inherited_fds=(lock,), clock=present, speed=speed
        )
        scheduler = Scheduler(
            steps,
            Ledger(home),
            clock,
            run,
            sleep,
            wall=wall_clock,
            has_champion=ChampionCheck(home),
            show=show_run,
        )
        show(
            f"The clock is at {clock():%Y-%m-%d %H:%M:%S} UTC and runs at {speed:g} times real"
            f" time; data in {home.folder}."
        )
        try:
            scheduler.recover()
            first = [
                f"{step.name} {step.target}" for step in scheduler.steps if scheduler.due(step)
            ]
            if first:
                show(f"To catch up before the server starts: {', '.join(first)}.")
            with contextlib.suppress(Stopped):
                scheduler.run_due()
                server.wanted = bool(use_cases)
                # On a fast clock too, a run starts within the first minute of its moment.
                scheduler.run_forever(pause=min(0.5, max(0.05, 30 / speed)))
        finally:
            server.stop()
            if not live:
                remember_moment(home, clock())
        show(f"Stopped at {clock():%Y-%m-%d %H:%M:%S}.")


def clock_of(
    home: Home, domains: Sequence[LoadedDomain], as_of: str | None, speed: float
) -> tuple[Callable[[], datetime], bool]:
    """The clock of a schedule, and whether it shows the real time.

    Raises `click.UsageError` if the domains have different demo moments, or for the real time at
    another speed than 1.
    """
    moments = [domain.domain.demo_at for domain in domains]
    if as_of is None and None in moments and any(moments):
        at = ", ".join(
            f"{domain.name} {iso(domain.domain.demo_at) or 'in the present'}" for domain in domains
        )
        raise click.UsageError(
            f"the domains have different demo moments: {at}. Choose one with --domain, or give a"
            " moment with --as-of."
        )
    demo_at = max((moment for moment in moments if moment), default=None)
    if as_of != NOW and (as_of or demo_at):
        return Clock(starting_moment(home, as_of, demo_at), speed), False
    if speed != 1:
        raise click.UsageError(
            "the present cannot go faster; --speed needs a moment of the past with --as-of."
        )
    return wall_clock, True


class ClockSaver:
    """Saves the clock to the data folder once a minute of the clock, at most once a real second."""

    def __init__(self, home: Home, speed: float) -> None:
        self._home = home
        self._every = timedelta(seconds=max(60.0, speed))
        self._next: datetime | None = None

    def __call__(self, now: datetime) -> None:
        """Save the moment if the interval has passed."""
        if self._next is None or now >= self._next:
            remember_moment(self._home, now)
            self._next = now + self._every


class ChampionCheck:
    """Whether a use case has a champion; a negative answer is cached for `every` seconds."""

    def __init__(self, home: Home, every: float = 5.0) -> None:
        self._home = home
        self._every = every
        self._answers: dict[str, tuple[float, bool]] = {}

    def __call__(self, use_case: str) -> bool:
        """Whether the use case has a champion; a positive answer is cached for good."""
        from inference.champion import champion_version
        from punctual.errors import NoChampion

        asked, answer = self._answers.get(use_case, (float("-inf"), False))
        if not answer and time.monotonic() - asked >= self._every:
            try:
                answer = bool(champion_version(self._home, use_case))
            except NoChampion:
                answer = False
            self._answers[use_case] = (time.monotonic(), answer)
        return answer


@contextlib.contextmanager
def _caught_signals() -> Iterator[list[int]]:
    """Within this context stop signals are collected in the list and do not end the process."""
    caught: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {kind: signal.signal(kind, lambda number, _: caught.append(number)) for kind in kinds}
    try:
        yield caught
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
