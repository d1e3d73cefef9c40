"""What the command lines of all stages agree on: options, the clock, how results and errors are shown."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from punctual.errors import PunctualError
from punctual.feast_import import skip_type_checks
from punctual.home import Home
from punctual.plain import plain

Command = TypeVar("Command", bound=Callable[..., Any])


def location_options(command: Command) -> Command:
    """`--home` and `--repository`, as every command has them."""
    home = click.option(
        "--home",
        metavar="FOLDER",
        help="The data folder; everything is written there.  [default: $PUNCTUAL_HOME or ./data]",
    )
    repository = click.option(
        "--repository",
        metavar="FOLDER",
        help="The feature repository.  [default: $PUNCTUAL_REPOSITORY or the installed feature_repo]",
    )
    return home(repository(command))


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`location_options`, given to the command as one `Home`, its argument `home`."""

    @functools.wraps(command)
    def at_home(*, home: str | None, repository: str | None, **options: Any) -> Any:
        return command(home=Home.at(home, repository), **options)

    return location_options(at_home)


as_of_option = click.option(
    "--as-of",
    metavar="MOMENT",
    help="The moment at which to stand: ISO 8601 with a zone, a date (midnight UTC), or 'now'."
    "  [default: where this data folder's clock stands, at first the domain's demo moment]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
quiet_option = click.option("--quiet", is_flag=True, help="Show no progress.")


@contextmanager
def working(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Show on standard error, where that is a terminal, that something of unknown length is under way and for how long."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=quiet or not console.is_terminal
    ) as progress:
        progress.add_task(what, total=None)
        yield


def show_json(value: Any) -> None:
    """Print the value as JSON on standard output."""
    click.echo(json.dumps(plain(value), indent=2))


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows as a table; numbers stand right."""
    table = Table(header_style="dim", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        numeric = bool(rows) and all(
            isinstance(row[number], (int, float)) or row[number] in (None, "") for row in rows
        )
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_cell(value)) for value in row))
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    console.print(f"\n[bold]{escape(title)}[/bold]", soft_wrap=True)
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return str(value)


def run(
    command: click.Command, arguments: Sequence[str] | None = None, name: str | None = None
) -> int:
    """Run a command line and return its exit code: 0, 1 where a command says so, 2 for what a person must mend.

    Without `arguments` they are those of the process, which then is the platform's own.
    """
    if arguments is None:
        skip_type_checks()
    try:
        result = command.main(
            args=None if arguments is None else list(arguments),
            prog_name=name,
            standalone_mode=False,
        )
    except click.exceptions.Exit as finished:
        return int(finished.exit_code)
    except click.ClickException as error:
        error.show()
        return 2
    except PunctualError as error:
        click.echo(str(error), err=True)
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
    except OSError as error:
        # A full disk or a folder without rights is met wherever something is written.
        if error.filename is None and error.errno is None:
            raise
        click.echo(
            f"DataFolderError: {error.strerror}: {error.filename or 'the data folder'}. Free space, mend its rights or choose another --home.",
            err=True,
        )
        return 2
    return result if isinstance(result, int) else 0
