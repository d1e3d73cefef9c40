"""`punctual demo`: all stages on a domain, from raw files to predictions with their outcomes."""

from __future__ import annotations

import contextlib
import sys
import time
from datetime import datetime, timedelta
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
from punctual.times import iso

if TYPE_CHECKING:
    from punctual.loaded_domain import LoadedDomain
    from punctual.use_case import UseCase

SHOWN = 12
HOST = "127.0.0.1"
_READY_TIMEOUT_SECONDS = 90.0


class DemoFailed(PunctualError):
    """A step of the demo failed."""


@click.command("demo", cls=Command, epilog="Example: punctual demo --once")
@click.argument("domain", required=False)
@click.option(
    "--once", is_flag=True, help="Exit after the predictions instead of serving until Ctrl-C."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    default=8400,
    show_default=True,
    help="The port of the server on this machine.",
)
@as_of_option
@json_option
@common_options
def command(
    home: Home, domain: str | None, once: bool, port: int, as_of: str | None, as_json: bool
) -> None:
    """Run the whole job from raw files to predictions.

    Builds, trains, materializes, serves and predicts, then shows the outcomes. The default of
    DOMAIN is the first domain with a demo moment. A second run repeats only what is needed.
    """
    from orchestration.server import refuse_used_port

    refuse_used_port(port)
    loaded, use_case = _chosen(home, domain)
    now = starting_moment(home, as_of, loaded.domain.demo_at)
    started = time.monotonic()
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        click.secho(
            f"{loaded.domain.description}. The clock is at {iso(now)}; data in {home.folder}.",
            bold=True,
        )
        _step(home, "pipelines", "build", loaded.name, "--as-of", iso(now))
        _step(home, "pipelines", "apply")
        _train(home, use_case, now)
        _step(home, "pipelines", "materialize", loaded.name, "--as-of", iso(now))
        server = _serve(home, port, now)
        try:
            url = f"http://{HOST}:{port}"
            asked = _latest_requests(loaded, use_case, now)
            answer = _ask(url, loaded, use_case, asked)
            rows = _with_outcomes(loaded, use_case, asked, answer)
            _show(use_case, rows, answer, url, time.monotonic() - started)
            if not once:
                _serve_on(server)
        finally:
            server.stop()
    if as_json:
        show_json(
            {
                "as_of": now,
                "seconds": time.monotonic() - started,
                "answer": answer,
                "predictions": rows,
                "url": url,
            }
        )


def _chosen(home: Home, name: str | None) -> tuple[LoadedDomain, UseCase]:
    from punctual.repository import load_all, load_domain

    domains = (
        [load_domain(home, name)]
        if name is not None
        else [found for found in load_all(home) if found.domain.demo_at]
    )
    with_use_case = [found for found in domains if found.use_cases]
    if not with_use_case:
        raise DemoFailed(
            "no domain in the feature repository has a demo moment and a use case; name"
            " one: punctual demo DOMAIN."
        )
    return with_use_case[0], next(iter(with_use_case[0].use_cases.values()))


def _step(home: Home, module: str, *arguments: Any) -> None:
    """Run a stage's command line in this process; raise `DemoFailed` if it fails."""
    import importlib

    words = [str(argument) for argument in arguments]
    location = ["--home", str(home.folder), "--repository", str(home.repository)]
    click.secho(f"\n$ python -m {module} {' '.join(words)}", fg="cyan")
    code = importlib.import_module(f"{module}.__main__").main([*words, *location])
    if code:
        raise DemoFailed(
            f"python -m {module} {' '.join(words)} ended with exit code {code}; its output is"
            " above."
        )


def _train(home: Home, use_case: UseCase, now: datetime) -> None:
    """Train, unless the champion is from this moment: the gate would refuse the same model."""
    from punctual.model_card import CHAMPION
    from stores.models import aliases, read_card

    version = aliases(home, use_case.name).get(CHAMPION)
    if version and read_card(home, use_case.name, version).as_of == iso(now):
        click.secho(
            f"\nVersion {version} of {use_case.name} was trained as of {iso(now)} and is champion.",
            fg="cyan",
        )
        _step(home, "training", "card", use_case.name)
        return
    _step(home, "training", "fit", use_case.name, "--as-of", iso(now))


def _serve(home: Home, port: int, now: datetime) -> Any:
    """Start the prediction server as a child process, and wait until it is ready."""
    import requests

    from orchestration import processes

    click.secho(f"\n$ python -m inference serve --port {port} --as-of {iso(now)}", fg="cyan")
    log = home.path("logs", "server.log")
    server = processes.start(
        home, ["inference", "serve", "--port", str(port), "--as-of", str(iso(now))], log
    )
    until = time.monotonic() + _READY_TIMEOUT_SECONDS
    with working("loading model and online store"):
        while time.monotonic() < until:
            if server.code is not None:
                raise DemoFailed(
                    f"the server ended with exit code {server.code}:\n{server.last_output()}"
                )
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"http://{HOST}:{port}/readyz", timeout=2).status_code == 200:
                    return server
            time.sleep(0.1)
    server.stop()
    raise DemoFailed(
        f"the server was not ready after {_READY_TIMEOUT_SECONDS:.0f} seconds; its log is {log}."
    )


def _latest_requests(
    loaded: LoadedDomain, use_case: UseCase, now: datetime
) -> list[dict[str, Any]]:
    """The requests known at `now` with the latest prediction moments, in their order."""
    from stores.tables import known_events

    events = use_case.requests
    for since in (now - timedelta(days=2), None):
        known = known_events(loaded, events, as_of=now, since=since, until=now)
        if known.num_rows >= SHOWN or since is None:
            break
    if known.num_rows == 0:
        raise DemoFailed(f"no requests '{events.name}' by {iso(now)}; choose a later --as-of.")
    rows = sorted(known.to_pylist(), key=lambda row: row["event_timestamp"], reverse=True)
    return rows[:SHOWN][::-1]


def _ask(
    url: str, loaded: LoadedDomain, use_case: UseCase, asked: list[dict[str, Any]]
) -> dict[str, Any]:
    """The server's answer for the requests, over HTTP."""
    import requests

    service = use_case.feature_service
    wanted = {*loaded.join_keys(service), *loaded.request_columns(service)}
    rows = [
        {
            name: iso(value) if isinstance(value, datetime) else value
            for name, value in row.items()
            if name in wanted
        }
        for row in asked
    ]
    response = requests.post(
        f"{url}/predict", json={"use_case": use_case.name, "rows": rows}, timeout=30
    )
    if response.status_code != 200:
        raise DemoFailed(f"POST {url}/predict answered {response.status_code}: {response.text}")
    return dict(response.json())


def _with_outcomes(
    loaded: LoadedDomain, use_case: UseCase, asked: list[dict[str, Any]], answer: dict[str, Any]
) -> list[dict[str, Any]]:
    """One record per request: its description, its prediction, and its outcome in the source."""
    import pyarrow as pa

    from pipelines.ingest import final_events

    ids = use_case.requests.id
    outcomes = final_events(
        loaded.home,
        loaded.name,
        use_case.label.of,
        pa.table({name: [row[name] for row in asked] for name in ids}),
    )
    happened = {tuple(row[name] for name in ids): row for row in outcomes.to_pylist()}
    hidden = {*ids, "event_timestamp", "created_timestamp"}
    records = []
    for row, predicted in zip(asked, answer["predictions"], strict=True):
        outcome = happened.get(tuple(row[name] for name in ids), {})
        described = {name: row[name] for name in use_case.describe_columns or ids}
        prediction = {
            name: predicted[name]
            for name in ("probability", "prediction", "decision")
            if name in predicted
        }
        records.append(
            {
                **described,
                **prediction,
                **{name: value for name, value in outcome.items() if name not in hidden},
            }
        )
    return records


def _show(
    use_case: UseCase, rows: list[dict[str, Any]], answer: dict[str, Any], url: str, seconds: float
) -> None:
    columns = list(rows[0])
    model = answer["model"]
    show_table(
        f"{use_case.description} Version {model['version']}, asked over HTTP at {answer['at']},"
        " with the outcomes",
        [name.replace("_", " ") for name in columns],
        [[_readable(use_case, name, row[name]) for name in columns] for row in rows],
    )
    click.echo(
        f"\nDone in {seconds:.0f} s. {url}/docs to try the API, {url}/model for the model card,"
        f" {url}/readyz for its health."
    )


def _readable(use_case: UseCase, name: str, value: Any) -> Any:
    if name == "probability":
        return f"{value:.3f}"
    # A number that is a name gets no thousands separators.
    return str(value) if name in use_case.describe_columns and isinstance(value, int) else value


def _serve_on(server: Any) -> None:
    click.echo("Serving until Ctrl-C.")
    try:
        while server.code is None:
            time.sleep(0.2)
    except KeyboardInterrupt:
        click.echo("Stopped.")
        return
    raise DemoFailed(f"the server ended with exit code {server.code}:\n{server.last_output()}")
