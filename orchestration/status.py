"""`punctual status`: champions, freshness of features, the last runs and the next ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from punctual.clock import starting_moment
from punctual.command_line import (
    Command,
    as_of_option,
    common_options,
    json_option,
    show_json,
    show_table,
)
from punctual.errors import PunctualError
from punctual.home import Home
from punctual.progress import working
from punctual.times import duration_text

if TYPE_CHECKING:
    from orchestration.declared import DeclaredDomain, DeclaredTable, DeclaredView
    from orchestration.ledger import Run
    from stores.online import PackedDatabase

RUNS_SHOWN = 20


@click.command("status", cls=Command, epilog="Example: punctual status --json")
@as_of_option
@json_option
@common_options
def command(home: Home, as_of: str | None, as_json: bool) -> None:
    """Show champions, freshness and the last runs."""
    with working("reading the data folder", quiet=as_json):
        found = status(home, as_of)
    if as_json:
        show_json(found)
    else:
        show_status(found)


def status(home: Home, as_of: str | None = None) -> dict[str, Any]:
    """The status of the data folder at a moment; `missing` has sentences about what is missing.

    `champion` is that of the first use case; `use_cases` has all models. A view is fresh if it is
    materialized to within its `every` plus its `available_after` before the moment.
    """
    from orchestration.declared import declared_domain
    from orchestration.ledger import SCHEDULE, Ledger
    from punctual.locks import is_running
    from punctual.repository import domain_names

    domains = [declared_domain(home, name) for name in domain_names(home)]
    moments = {domain.name: starting_moment(home, as_of, domain.demo_at) for domain in domains}
    missing: list[str] = []
    use_cases = {
        name: _models(home, name, missing) for domain in domains for name in domain.use_cases
    }
    views = _views(home, domains, moments)
    events = {
        each.name: {"domain": domain.name, **_built(home, each)}
        for domain in domains
        for each in domain.events
    }
    scheduler = "running" if is_running(home, SCHEDULE) else "stopped"
    runs = [_run(run, scheduler) for run in Ledger(home).recent(RUNS_SHOWN)]
    if not runs:
        missing.append("Nothing has run on schedule; run: punctual up.")
    if unbuilt := [name for name, view in views.items() if view["built_until"] is None]:
        missing.append(
            f"Not built as they are defined now: {', '.join(unbuilt)}; run: punctual features"
            " build."
        )
    if offline := [
        name
        for name, view in views.items()
        if view["built_until"] and view["materialized_until"] is None
    ]:
        missing.append(f"Not online: {', '.join(offline)}; run: punctual features materialize.")
    return {
        "as_of": max(moments.values(), default=None),
        "home": str(home.folder),
        "champion": next((each["champion"] for each in use_cases.values()), None),
        "use_cases": use_cases,
        "views": views,
        "events": events,
        "clock": max(
            (starting_moment(home, None, domain.demo_at) for domain in domains), default=None
        ),
        "scheduler": scheduler,
        "schedule": [
            step for domain in domains for step in _schedule(home, domain, moments[domain.name])
        ],
        "runs": runs,
        "missing": missing,
    }


def _run(run: Run, scheduler: str) -> dict[str, Any]:
    # A run that a dead scheduler left as "running" was interrupted.
    corrected = (
        {"status": "interrupted"} if run.status == "running" and scheduler == "stopped" else {}
    )
    return {**vars(run), "seconds": run.seconds, **corrected}


def _models(home: Home, use_case: str, missing: list[str]) -> dict[str, Any]:
    """The model of each alias of a use case in the model registry."""
    from punctual.model_card import CHALLENGER, CHAMPION
    from stores.models import aliases, read_card

    models: dict[str, Any] = dict.fromkeys((CHAMPION, CHALLENGER))
    try:
        versions = aliases(home, use_case)
    except PunctualError as error:
        missing.append(str(error))
        return models
    if CHAMPION not in versions:
        missing.append(f"Use case '{use_case}' has no champion; run: punctual train {use_case}.")
    for alias in models:
        try:
            models[alias] = (
                _model(read_card(home, use_case, versions[alias])) if alias in versions else None
            )
        except PunctualError as error:
            missing.append(str(error))
    return models


def _model(card: Any) -> dict[str, Any]:
    kept = ("use_case", "version", "as_of", "trained_until", "feature_service", "metric", "metrics")
    return {name: getattr(card, name) for name in kept}


def _views(
    home: Home, domains: Sequence[DeclaredDomain], moments: Mapping[str, datetime]
) -> dict[str, dict[str, Any]]:
    """The status of each view's table and online rows, in the version of its definition."""
    project, database = _online(home)
    return {
        view.name: {
            "domain": domain.name,
            **_view(home, project, database, view, moments[domain.name]),
        }
        for domain in domains
        for view in domain.views
    }


def _view(
    home: Home, project: str, database: PackedDatabase, view: DeclaredView, at: datetime
) -> dict[str, Any]:
    """The status of a view; freshness as in the server."""
    from stores.online import OnlineView, freshness_of

    table = _built(home, view)
    built = table["built_until"]
    shown: dict[str, Any] = {
        **table,
        "online_rows": 0,
        "materialized_until": None,
        "age_seconds": None,
        "fresh": False,
        "every": duration_text(view.every),
        "available_after": duration_text(view.available_after),
    }
    if built is None:
        return shown
    online = OnlineView(project, view.name, view.keys, view.features, fingerprint=view.fingerprint)
    found = freshness_of(home, database, online, (view.every, view.available_after))
    shown |= {
        "online_rows": database.count(online),
        "materialized_until": found.materialized_until,
        "fresh": not found.is_stale(at),
    }
    if found.materialized_until is not None:
        shown["age_seconds"] = max(0.0, (at - min(built, found.materialized_until)).total_seconds())
    return shown


def _built(home: Home, declared: DeclaredTable) -> dict[str, Any]:
    """The rows of a table and the moment up to which it is built, for its present definition."""
    from stores.tables import Manifest

    manifest = Manifest(home.tables)
    table = manifest.current(declared.table)
    if table is None or table.fingerprint != declared.fingerprint:
        return {"rows": 0, "built_until": None}
    return {
        "rows": sum(file.rows for file in manifest.files(table)),
        "built_until": manifest.built_until(table),
    }


def _online(home: Home) -> tuple[str, PackedDatabase]:
    """Feast's project and the online records; Feast is imported only if these are not a file."""
    from punctual.repository import feature_store, store_settings
    from stores.online import open_database

    settings = store_settings(home)
    match settings.get("online_store"):
        case {"type": "stores.online.PackedOnlineStore", "path": str(path), **more} if not more:
            return str(settings["project"]), open_database(str(settings["project"]), path=path)
    from stores.online import packed_database

    store = feature_store(home)
    return store.project, packed_database(store.config)


def _schedule(home: Home, domain: DeclaredDomain, now: datetime) -> list[dict[str, Any]]:
    """The last moment for which each step was done, and its next one."""
    from orchestration.ledger import Ledger
    from orchestration.schedule import next_moment

    ledger = Ledger(home)
    return [
        {
            "domain": step.domain,
            "step": step.name,
            "target": step.target,
            "cron": step.cron,
            "last": ledger.last_done(step),
            "next": next_moment(step.cron, now),
        }
        for step in domain.steps
    ]


def show_status(found: dict[str, Any]) -> None:
    """Print the result of `status` as tables."""
    from orchestration.schedule import error_line

    click.echo(
        f"As of {found['as_of']:%Y-%m-%d %H:%M:%S} UTC in {found['home']}; the scheduler is"
        f" {found['scheduler']}.\n"
    )
    show_table(
        "Models",
        ["use case", "", "version", "trained as of", "metric", "validation", "test"],
        _model_rows(found["use_cases"]),
    )
    click.echo()
    show_table(
        "Feature views",
        ["view", "rows", "online", "built until", "online until", "every", "fresh"],
        [
            [
                name,
                v["rows"],
                v["online_rows"],
                v["built_until"],
                v["materialized_until"],
                v["every"],
                v["fresh"],
            ]
            for name, v in found["views"].items()
        ],
    )
    click.echo()
    show_table(
        "Events",
        ["events", "rows", "known until"],
        [[name, e["rows"], e["built_until"]] for name, e in found["events"].items()],
    )
    click.echo()
    show_table(
        "Schedule (UTC)",
        ["step", "of", "cron", "last", "next"],
        [[s["step"], s["target"], s["cron"], s["last"], s["next"]] for s in found["schedule"]],
    )
    if found["runs"]:
        click.echo()
        show_table(
            "Last runs",
            ["step", "of", "as of", "attempt", "ended as", "seconds", "message"],
            [
                [
                    r["step"],
                    r["target"],
                    r["scheduled"],
                    r["attempt"],
                    r["status"],
                    r["seconds"],
                    error_line(r["message"]),
                ]
                for r in found["runs"]
            ],
        )
    for sentence in found["missing"]:
        click.echo(f"\n{sentence}")


def _model_rows(use_cases: dict[str, Any]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for name, models in use_cases.items():
        for alias, model in models.items():
            # A challenger that is now the champion is shown once.
            if model is None or (alias != "champion" and model == models["champion"]):
                continue
            scores = [
                getattr(model["metrics"][part], model["metric"]) for part in ("validation", "test")
            ]
            rows.append([name, alias, model["version"], model["as_of"], model["metric"], *scores])
    return rows
