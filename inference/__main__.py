"""The inference pipeline's command line: `python -m inference serve`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from inference.printed import show_answer, show_report
from punctual.clock import NOW, Clock, remember_moment, starting_moment
from punctual.command_line import (
    Group,
    Speed,
    as_of_option,
    common_options,
    json_option,
    named_values,
    quiet_option,
    run,
    show_json,
)
from punctual.errors import InvalidRequest
from punctual.home import Home
from punctual.progress import working
from punctual.times import iso, moment

if TYPE_CHECKING:
    from punctual.loaded_domain import LoadedDomain
    from punctual.use_case import UseCase


@click.group(cls=Group)
def cli() -> None:
    """Predict with the champion, online and in batches, and monitor the predictions."""


@cli.command(epilog="Example: python -m inference serve arrival_delay --port 8400")
@click.argument("use_cases", metavar="[USE_CASE]...", nargs=-1)
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8400,
    show_default=True,
    help="The port to listen on; 0 takes any free port.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on; 0.0.0.0 accepts requests from other machines.",
)
@click.option(
    "--speed",
    type=Speed(),
    default=1.0,
    show_default=True,
    help="The speed of the clock relative to real time.",
)
@as_of_option
@common_options
def serve(
    home: Home, use_cases: tuple[str, ...], port: int, host: str, speed: float, as_of: str | None
) -> None:
    """Serve predictions over HTTP.

    Serves all use cases unless some are named, until Ctrl-C or SIGTERM. The server loads a new
    champion, or follows a rollback, without a restart. Every prediction is logged before it is
    returned.
    """
    from inference.api.server import address, bind_port, exit_on_sigterm, serve_forever

    # The imports below take seconds, which are minutes on a fast clock.
    started = time.monotonic()
    with exit_on_sigterm(), bind_port(host, port) as listener:
        from inference.api.app import create_app

        chosen = _chosen(home, use_cases)
        demo_at = _demo_at({domain.name: domain for domain, _ in chosen}, as_of)
        clock = Clock(
            starting_moment(home, as_of, demo_at), speed, None if as_of in (None, NOW) else started
        )
        # A clock set with --as-of belongs to this server only. A clock that continues the data
        # folder's clock also saves its progress there.
        continues = as_of is None and demo_at is not None
        app = create_app(
            chosen,
            clock,
            after_refresh=(lambda: remember_moment(home, clock())) if continues else None,
        )
        at = address(listener)
        click.echo(
            f"Serving {', '.join(use_case.name for _, use_case in chosen)}; the clock is at"
            f" {clock():%Y-%m-%d %H:%M:%S} UTC."
        )
        click.echo(
            f"  predict  POST {at}/predict\n  docs     {at}/docs\n  model    {at}/model\n  health "
            f"  {at}/livez {at}/readyz"
        )
        serve_forever(app, listener)


def _chosen(home: Home, names: Sequence[str]) -> list[tuple[LoadedDomain, UseCase]]:
    from punctual.errors import UnknownUseCase
    from punctual.repository import find_use_case, load_all

    if names:
        return [find_use_case(home, name) for name in dict.fromkeys(names)]
    chosen = [
        (domain, use_case) for domain in load_all(home) for use_case in domain.use_cases.values()
    ]
    if not chosen:
        raise UnknownUseCase(f"no use case in {home.repository}. Choose another --repository.")
    return chosen


def _demo_at(domains: Mapping[str, LoadedDomain], as_of: str | None) -> datetime | None:
    moments = {name: loaded.domain.demo_at for name, loaded in domains.items()}
    if as_of is None and len(set(moments.values())) > 1:
        at = ", ".join(
            f"{name} {iso(demo_at) or 'in the present'}" for name, demo_at in moments.items()
        )
        raise click.UsageError(
            f"the domains have different demo moments: {at}. Name the use cases to serve, or give a"
            " moment with --as-of."
        )
    return next(iter(moments.values()))


@cli.command(
    epilog="Example: python -m inference predict arrival_delay --key carrier=UA --key"
    " flight_number=1545 --key origin=EWR --key dest=SFO"
    " --key scheduled_departure=2013-12-05T22:00Z --key scheduled_arrival=2013-12-06T04:00Z --key"
    " distance_miles=2565"
)
@click.argument("use_case")
@click.option(
    "--key",
    "keys",
    metavar="NAME=VALUE",
    multiple=True,
    help="The value of a column of the row; repeatable. An empty VALUE is null.",
)
@click.option(
    "--row",
    "texts",
    metavar="JSON",
    multiple=True,
    help="A row as a JSON object; repeatable.",
)
@click.option(
    "--rows",
    "file",
    type=click.Path(exists=True, dir_okay=False),
    help="A file with a JSON list of rows.",
)
@click.option(
    "--url", help="Send the rows to the server at this URL instead of predicting in this process."
)
@as_of_option
@json_option
@common_options
def predict(
    home: Home,
    use_case: str,
    keys: tuple[str, ...],
    texts: tuple[str, ...],
    file: str | None,
    url: str | None,
    as_of: str | None,
    as_json: bool,
) -> None:
    """Predict for one row or several.

    USE_CASE's champion predicts from the online features at --as-of. The prediction is logged like
    those of the server. With --url the server predicts, and --as-of is sent as the prediction
    moment.
    """
    with working(f"predicting {use_case}", quiet=as_json):
        rows = _rows(home, use_case, keys, texts, file)
        answer = (
            _from_server(home, url, use_case, rows, as_of)
            if url
            else _in_process(home, use_case, rows, as_of)
        )
    if as_json:
        show_json(answer)
    else:
        show_answer(answer, rows)


def _rows(
    home: Home, use_case: str, keys: Sequence[str], texts: Sequence[str], file: str | None
) -> list[dict[str, Any]]:
    if sum(bool(each) for each in (keys, texts, file)) != 1:
        raise click.UsageError(
            "give the rows with exactly one of --key NAME=VALUE, --row JSON or --rows FILE."
        )
    if texts:
        return [row for text in texts for row in _json_rows("--row", text)]
    if file:
        try:
            return _json_rows(file, Path(file).read_bytes())
        except OSError as error:
            raise InvalidRequest(f"{file} cannot be read: {error.strerror}.") from error
    return [_typed_row(home, use_case, keys)]


def _typed_row(home: Home, use_case: str, keys: Sequence[str]) -> dict[str, Any]:
    """The row given by `--key NAME=VALUE` options, in the types of its columns."""
    from inference.features import OnlineFeatures
    from inference.request_rows import from_text, row_columns
    from punctual.repository import find_use_case

    return from_text(
        named_values(keys), row_columns(OnlineFeatures(*find_use_case(home, use_case)))
    )


def _json_rows(where: str, text: str | bytes) -> list[dict[str, Any]]:
    try:
        read = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise InvalidRequest(f"{where} is nested too deeply; expected rows of values.") from None
    except ValueError as error:
        raise InvalidRequest(f"{where} is not JSON: {error}.") from error
    rows = read if isinstance(read, list) else [read]
    if not rows or not all(isinstance(each, dict) for each in rows):
        raise InvalidRequest(
            f"{where} contains no rows; expected a JSON object of columns and values,"
            " or a list of such objects."
        )
    return rows


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without duplicate names; `json.loads` alone silently keeps the last value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice in one object")
    return found


def _in_process(
    home: Home, use_case: str, rows: list[dict[str, Any]], as_of: str | None
) -> dict[str, Any]:
    import msgspec

    from inference.predict import Predictor, predict_rows
    from inference.request_rows import checked_rows
    from punctual.repository import find_use_case
    from stores.predictions import PredictionLog

    domain, declared = find_use_case(home, use_case)
    at = starting_moment(home, as_of, domain.domain.demo_at)
    predictor = Predictor.load(domain, declared)
    checked = checked_rows(predictor.row_model, rows)
    return dict(
        msgspec.to_builtins(
            predict_rows(
                predictor, checked, clock=lambda: at, at=at, log=PredictionLog(home, use_case)
            )
        )
    )


def _from_server(
    home: Home, url: str, use_case: str, rows: list[dict[str, Any]], as_of: str | None
) -> dict[str, Any]:
    from inference.api.client import ask

    return ask(url, use_case, rows, None if as_of is None else starting_moment(home, as_of, None))


@cli.command(
    epilog="Example: python -m inference batch arrival_delay --as-of 2013-12-05T20:00Z --since"
    " 2013-12-04"
)
@click.argument("use_case")
@as_of_option
@click.option(
    "--since",
    metavar="MOMENT",
    help="Predict for requests after this moment.  [default: one day before --as-of]",
)
@json_option
@quiet_option
@common_options
def batch(
    home: Home, use_case: str, as_of: str | None, since: str | None, as_json: bool, quiet: bool
) -> None:
    """Predict all requests of a period.

    Each request of USE_CASE gets the features that were known at its prediction moment.
    """
    with working(f"predicting the requests of {use_case}", quiet=quiet or as_json):
        from inference.batch import batch as predict_batch
        from punctual.repository import find_use_case

        domain, declared = find_use_case(home, use_case)
        at = starting_moment(home, as_of, domain.domain.demo_at)
        done = predict_batch(domain, declared, at, None if since is None else moment(since))
    if as_json:
        show_json(done)
    else:
        decided = (
            "" if done.decided is None else f", {done.decided:,} of them at or above the threshold"
        )
        mean = "" if done.mean is None else f"; the mean prediction is {done.mean:.3f}{decided}"
        click.echo(
            f"{done.rows:,} requests of {use_case} in ({iso(done.since)}, {iso(done.until)}] by"
            f" version {done.model_version}{mean}."
        )
        click.echo(f"Written to {done.path}")


@cli.command(epilog="Example: python -m inference monitor arrival_delay --since 2013-11-28")
@click.argument("use_case")
@as_of_option
@click.option(
    "--since",
    metavar="MOMENT",
    help="Evaluate the predictions made after this moment.  [default: 7 days before --as-of]",
)
@json_option
@common_options
def monitor(home: Home, use_case: str, as_of: str | None, since: str | None, as_json: bool) -> int:
    """Watch drift, live score and freshness.

    Reports the freshness of USE_CASE's features, data drift, prediction drift, and the score of
    predictions with a known label. It evaluates the logged predictions, or the last batch if too
    few are logged. The exit code is 1 if something needs attention.
    """
    with working(f"monitoring the predictions of {use_case}", quiet=as_json):
        from inference.monitoring.report import monitor as monitor_use_case
        from punctual.repository import find_use_case

        domain, declared = find_use_case(home, use_case)
        at = starting_moment(home, as_of, domain.domain.demo_at)
        report = monitor_use_case(
            domain, declared, as_of=at, since=None if since is None else moment(since)
        )
    if as_json:
        show_json(report)
    else:
        show_report(report)
    return 1 if report.reasons else 0


def main(arguments: Sequence[str] | None = None, name: str = "python -m inference") -> int:
    """Run the command line; returns the exit code."""
    return run(cli, arguments, name)


if __name__ == "__main__":
    sys.exit(main())
