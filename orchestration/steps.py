"""Steps: what runs on a schedule, described as data for any scheduler.

The built-in schedule, a crontab, Airflow and Kubeflow read the same description:
`punctual steps --json` prints it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

import click

from punctual.command_line import Command, common_options, json_option, show_json, show_table
from punctual.home import Home
from punctual.schedule import BATCH, MATERIALIZE, TRAIN
from punctual.times import duration_text, iso

if TYPE_CHECKING:  # it imports Feast
    from punctual.loaded_domain import LoadedDomain

Condition = Literal["champion"]
AS_OF, CLOCK, SPEED = "{as_of}", "{clock}", "{speed}"
_AT_THE_MOMENT = ("--as-of", AS_OF)
_WITH_CLOCK = (*_AT_THE_MOMENT, "--clock", CLOCK, "--speed", SPEED)


@dataclass(frozen=True)
class Step:
    """A recurring piece of work on a domain, or on one of its use cases (`target`).

    It is idempotent: running it again for the same moment gives the same rows.

    `commands` run one after another, each with `python -m`, until one exits with a code other than
    0; the codes are those of `punctual.errors.ExitCode`. In their arguments `{as_of}` is the moment
    that the run is for, `{clock}` the present when the command starts (ISO 8601 in UTC, or `now`),
    and `{speed}` the speed of the clock relative to real time (1 in the present).

    `cron` is in UTC. `timeout_seconds` limits the real time of all commands of a run together. A
    run with a temporary failure is retried up to `retries` times, first after
    `retry_delay_seconds`, which then doubles. The step runs only if every step of the same domain
    named in `after` is done for the last moment of that step's own cron, and only if its target has
    what `needs` names. On the first start of a schedule the last past moment is caught up only if
    the target does not have what `first_run_without` names. The results of a run are promised
    `promised_within_seconds` after its moment; None is no promise.
    """

    name: str
    domain: str
    target: str
    cron: str
    commands: tuple[tuple[str, ...], ...]
    timeout_seconds: float
    retries: int = 2
    retry_delay_seconds: float = 15.0
    after: tuple[str, ...] = ()
    needs: Condition | None = None
    first_run_without: Condition | None = None
    promised_within_seconds: float | None = None

    def arguments(
        self, command: Sequence[str], as_of: datetime, clock: str, speed: float
    ) -> list[str]:
        """A command's arguments after `python -m`, for a moment and the present."""
        values = {AS_OF: str(iso(as_of)), CLOCK: clock, SPEED: str(speed)}
        return [values.get(argument, argument) for argument in command]


def steps_of(domain: LoadedDomain) -> list[Step]:
    """The steps of a domain's schedule, for the domain or for each of its use cases."""
    schedule = domain.domain.schedule
    steps = []
    if MATERIALIZE in schedule:
        steps.append(_materialize(domain))
    after = (MATERIALIZE,) if MATERIALIZE in schedule else ()
    for use_case in domain.use_cases:
        if BATCH in schedule:
            steps.append(
                Step(
                    BATCH,
                    domain.name,
                    use_case,
                    schedule[BATCH],
                    (("inference", "batch", use_case, *_AT_THE_MOMENT),),
                    _timeout(domain, BATCH, timedelta(hours=2)),
                    after=after,
                    needs="champion",
                )
            )
        if TRAIN in schedule:
            steps.append(
                Step(
                    TRAIN,
                    domain.name,
                    use_case,
                    schedule[TRAIN],
                    (("training", "fit", use_case, *_AT_THE_MOMENT),),
                    _timeout(domain, TRAIN, timedelta(hours=12)),
                    after=after,
                    first_run_without="champion",
                )
            )
    return steps


def _materialize(domain: LoadedDomain) -> Step:
    promised = [declared.available_after for declared in domain.declarations]
    return Step(
        MATERIALIZE,
        domain.name,
        domain.name,
        domain.domain.schedule[MATERIALIZE],
        (
            ("pipelines", "build", domain.name, *_AT_THE_MOMENT),
            ("pipelines", "materialize", domain.name, *_WITH_CLOCK),
        ),
        _timeout(domain, MATERIALIZE, timedelta(hours=2)),
        promised_within_seconds=min(promised).total_seconds() if promised else None,
    )


def _timeout(domain: LoadedDomain, name: str, default: timedelta) -> float:
    """Seconds; the default is far longer than a run takes and only ends runs that hang."""
    return domain.domain.time_limits.get(name, default).total_seconds()


@click.command("steps", cls=Command, epilog="Example: punctual steps --json")
@click.argument("domains", metavar="[DOMAIN]...", nargs=-1)
@json_option
@common_options
def command(home: Home, domains: tuple[str, ...], as_json: bool) -> None:
    """Show what runs on the schedule.

    With --json it prints the description from which other schedulers run the same steps. Shows all
    domains unless some are named.
    """
    from punctual.repository import domain_names, load_domain

    names = dict.fromkeys(domains) or domain_names(home)
    steps = [step for name in names for step in steps_of(load_domain(home, name))]
    if as_json:
        show_json(steps)
        return
    show_table(
        "Steps (cron in UTC)",
        ["step", "of", "cron", "timeout", "tries", "after", "condition"],
        [
            [
                step.name,
                step.target,
                step.cron,
                duration_text(timedelta(seconds=step.timeout_seconds)),
                f"{step.retries + 1}, {step.retry_delay_seconds:g} s apart",
                ", ".join(step.after),
                _condition(step),
            ]
            for step in steps
        ],
    )
    for step in steps:
        click.echo(f"\n{step.name} {step.target}")
        for argv in step.commands:
            click.echo(f"  python -m {' '.join(argv)}")


def _condition(step: Step) -> str:
    if step.needs:
        return f"only with a {step.needs}"
    return f"first run only without a {step.first_run_without}" if step.first_run_without else ""
