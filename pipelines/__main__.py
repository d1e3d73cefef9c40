"""The feature pipeline's command line: `python -m pipelines build flights`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from punctual.clock import NOW, Clock, remember_moment, starting_moment
from punctual.command_line import (
    Group,
    Speed,
    as_of_option,
    common_options,
    json_option,
    named_values,
    owns_process,
    quiet_option,
    run,
    show_json,
    show_table,
)
from punctual.feast_import import keep_type_checks
from punctual.home import Home
from punctual.progress import Progress, working
from punctual.times import iso


@click.group(cls=Group)
def cli() -> None:
    """Build, materialize and inspect features."""


@cli.command(epilog="Example: python -m pipelines build flights --as-of 2013-12-05T20:00Z")
@click.argument("domain")
@as_of_option
@json_option
@quiet_option
@common_options
def build(home: Home, domain: str, as_of: str | None, as_json: bool, quiet: bool) -> None:
    """Build a domain's tables up to a time.

    A repeated build of DOMAIN reads and computes only what is new.
    """
    from pipelines.build import build as build_domain
    from punctual.repository import load_domain

    loaded = load_domain(home, domain)
    until = starting_moment(home, as_of, loaded.domain.demo_at)
    built = build_domain(loaded, until, Progress(quiet=quiet or as_json))
    if as_of != NOW:
        remember_moment(home, until)
    if as_json:
        show_json(built)
        return
    _show_sources(built.sources)
    show_table(
        f"Events known by {iso(until)}"
        + (
            " (first load: the domain's rules say when each was known)"
            if any(e.first_load for e in built.events)
            else ""
        ),
        ["events", "new", "late", "corrected", "withdrawn", "vanished, kept"],
        [[e.events, e.new, e.late, e.corrected, e.withdrawn, e.kept] for e in built.events],
    )
    show_table(
        f"Feature views built until {iso(until)}",
        ["view", "new rows", "rows"],
        [[v.view, v.new_rows, v.rows] for v in built.views],
    )


def _show_sources(reports: Sequence[Any]) -> None:
    show_table(
        "Sources: rows in = clean + quarantined + duplicates",
        [
            "source",
            "rows in",
            "clean",
            "quarantined",
            "duplicates",
            "supplement",
            "rules broken",
            "missing values",
        ],
        [
            [
                each.source,
                each.rows_in,
                each.rows_clean,
                each.quarantined,
                each.duplicates,
                each.supplemented,
                ", ".join(f"{name} {count:,}" for name, count in each.rules.items() if count),
                ", ".join(f"{name} {count:,}" for name, count in each.missing_values.items()),
            ]
            for each in reports
        ],
    )


@cli.command(epilog="Example: python -m pipelines quarantine flights weather")
@click.argument("domain")
@click.argument("source")
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000_000),
    default=20,
    show_default=True,
    help="How many rows to show.",
)
@json_option
@common_options
def quarantine(home: Home, domain: str, source: str, limit: int, as_json: bool) -> None:
    """Show the rows that a source's contract rejected.

    Each quarantined row of SOURCE is shown with the rule that it breaks.
    """
    from pipelines.clean.cleaning import quarantined_rows
    from punctual.errors import UnknownName, unknown_name
    from punctual.repository import load_domain

    loaded = load_domain(home, domain)
    names = [each.name for each in loaded.sources]
    if source not in names:
        raise UnknownName(unknown_name("source", source, names, f"domain '{domain}'"))
    rows = quarantined_rows(home, domain, source, limit)
    if as_json:
        show_json(rows)
        return
    show_table(
        f"Quarantine of {source}",
        ["row", "rule", "reason", "raw"],
        [[r["row"], r["rule"], r["reason"], r["raw"]] for r in rows],
    )


@cli.command(epilog="Example: python -m pipelines apply")
@json_option
@common_options
def apply(home: Home, as_json: bool) -> None:
    """Register all definitions with Feast.

    Equivalent to `feast -c feature_repo apply`.
    """
    keep_type_checks()
    with working("registering definitions"):
        from pipelines.materialize import apply_definitions
        from punctual.repository import feature_store, load_all

        applied = apply_definitions(feature_store(home), load_all(home))
    if as_json:
        show_json(applied)
        return
    click.echo(
        f"Registered {', '.join(applied.domains)}: {len(applied.feature_views)} feature views,"
        f" {len(applied.on_demand_feature_views)} on"
        f" demand, {len(applied.feature_services)} feature services."
        + (
            f" Removed, no longer declared: {', '.join(applied.removed)}."
            if applied.removed
            else ""
        )
    )


@cli.command(epilog="Example: python -m pipelines materialize flights --as-of 2013-12-05T20:00Z")
@click.argument("domain")
@as_of_option
@click.option(
    "--clock",
    "clock_at",
    metavar="MOMENT",
    help="The current time, if later than --as-of; it advances.  [default: a stopped clock]",
)
@click.option(
    "--speed",
    type=Speed(min_open=False),
    default=1.0,
    show_default=True,
    help="Speed of --clock as a multiple of real time.",
)
@click.option(
    "--rebuild", is_flag=True, help="Rebuild all records instead of continuing from the last run."
)
@json_option
@quiet_option
@common_options
def materialize(
    home: Home,
    domain: str,
    as_of: str | None,
    clock_at: str | None,
    speed: float,
    rebuild: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Load a domain's features into the online store.

    DOMAIN's features are loaded as of a time, or as of the end of the last build if that is
    earlier. Rows that come online later than their view promises are counted; a scheduled run that
    starts late passes the current time as --clock.
    """
    # The clock starts before the imports: they take seconds, which a fast clock makes minutes.
    clock = None if clock_at is None else Clock(starting_moment(home, clock_at, None), speed)
    from pipelines.materialize import apply_if_changed
    from pipelines.materialize import materialize as materialize_domain
    from punctual.repository import feature_store, load_domain
    from punctual.times import duration_text
    from stores.online import give_way

    loaded = load_domain(home, domain)
    until = starting_moment(home, as_of, loaded.domain.demo_at)
    if clock is None and (as_of == NOW or (as_of is None and loaded.domain.demo_at is None)):
        clock = Clock(until)
    store = feature_store(home)
    apply_if_changed(home, store)
    if owns_process():
        give_way()
    done = materialize_domain(
        store, loaded, until, Progress(quiet=quiet or as_json), clock=clock, rebuild=rebuild
    )
    if as_of != NOW:
        remember_moment(home, until)
    if as_json:
        show_json(done)
        return
    show_table(
        f"Online at {iso(until)}",
        [
            "view",
            "rows",
            "records changed",
            "times missed",
            "rows/s",
            "lag",
            "materialized until",
        ],
        [
            [
                m.view,
                m.rows,
                m.records,
                m.missed,
                round(m.rows_per_second),
                duration_text(m.lag),
                m.until,
            ]
            for m in done
        ],
    )


@cli.command(epilog="Example: python -m pipelines erase plane_departures --key tailnum=N14228")
@click.argument("view")
@click.option(
    "--key",
    "keys",
    metavar="NAME=VALUE",
    multiple=True,
    required=True,
    help="A join key and its value; repeat for each join key of the view.",
)
@json_option
@common_options
def erase(home: Home, view: str, keys: tuple[str, ...], as_json: bool) -> None:
    """Erase an entity from the online store.

    No byte of its record in VIEW remains in the store's files. Tables and sources keep the entity:
    remove it from the source, or a later `materialize --rebuild` restores the record.
    """
    given = named_values(keys)
    with working(f"erasing from {view}", quiet=as_json):
        from pipelines.erase import erase as erase_entity
        from punctual.repository import feature_store, load_all

        erased = erase_entity(feature_store(home), load_all(home), view, given)
    if as_json:
        show_json(erased)
        return
    entity = ", ".join(f"{name}={value}" for name, value in erased.keys.items())
    found = "1 record erased" if erased.records else "it had no record"
    click.echo(f"{view}, {entity}: {found}.")


def main(arguments: Sequence[str] | None = None, name: str = "python -m pipelines") -> int:
    """Run the command line; returns the exit code."""
    return run(cli, arguments, name)


if __name__ == "__main__":
    sys.exit(main())
