"""What the command lines of all stages agree on: options, the clock, how results and errors are shown."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from feature_repo.contract import HOME_VARIABLE, data_path
from feature_repo.errors import DataFolderError, PunctualError
from feature_repo.times import aware, from_micros, iso, micros, moment

Command = TypeVar("Command", bound=Callable[..., Any])
NOW = "now"


class Clock:
    """A clock that starts at a moment and goes on, `speed` times as fast as the wall's.

    Where it was set before it could be made, `started` is what `time.monotonic()` said then.
    """

    def __init__(self, start: datetime, speed: float = 1.0, started: float | None = None) -> None:
        self.start = aware(start)
        self.speed = speed
        self._started = time.monotonic() if started is None else started

    def __call__(self) -> datetime:
        """The moment it shows, aware UTC."""
        return self.start + timedelta(seconds=(time.monotonic() - self._started) * self.speed)


def starting_moment(as_of: str | None, demo_at: datetime | None) -> datetime:
    """Where a command's clock stands: `--as-of`, else where this data folder's clock has got to, else the domain's demo.

    A domain without a demo moment lives in the present. The data folder's clock never goes back of itself.
    """
    if as_of == NOW or (as_of is None and demo_at is None):
        return datetime.now(UTC)
    if as_of is not None:
        return moment(as_of)
    assert demo_at is not None
    path = Path(data_path("clock"))
    reached = from_micros(int(path.read_text())) if path.exists() else demo_at
    return max(demo_at, reached)


def remember_moment(reached: datetime) -> None:
    """Note how far this data folder's clock has got, so that the next command goes on from there."""
    path = Path(data_path("clock"))
    if path.exists() and int(path.read_text()) >= micros(reached):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(str(micros(reached)))
        aside.replace(path)
    except OSError as error:
        raise DataFolderError(f"cannot write {path}: {error.strerror}. Mend its rights or choose another --home.") from error


def common_options(command: Command) -> Command:
    """`--home` and `--repository`, which take effect before anything else is read."""

    def set_variable(name: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
        def put(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
            if value is not None:
                os.environ[name] = str(Path(value).absolute())

        return put

    home = click.option(
        "--home",
        metavar="FOLDER",
        expose_value=False,
        is_eager=True,
        callback=set_variable(HOME_VARIABLE),
        help="The data folder; everything is written there.  [default: $PUNCTUAL_HOME or ./data]",
    )
    repository = click.option(
        "--repository",
        metavar="FOLDER",
        expose_value=False,
        is_eager=True,
        callback=set_variable("PUNCTUAL_REPOSITORY"),
        help="The feature repository.  [default: $PUNCTUAL_REPOSITORY or the installed feature_repo]",
    )
    return home(repository(command))


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
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        progress.add_task(what, total=None)
        yield


def plain(value: Any) -> Any:
    """The value as JSON knows it: moments as ISO 8601, dataclasses and structs as objects, NaN as null, paths as text."""
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, msgspec.Struct):
        return plain(msgspec.structs.asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, float) and value != value:
        return None
    return value


def show_json(value: Any) -> None:
    """Print the value as JSON on standard output."""
    click.echo(json.dumps(plain(value), indent=2))


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows as a table; numbers stand right."""
    table = Table(header_style="dim", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[number], (int, float)) or row[number] in (None, "") for row in rows)
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


def run(command: click.Command, arguments: Sequence[str] | None = None, name: str | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 where a command says so, 2 for what a person must mend."""
    try:
        result = command.main(args=None if arguments is None else list(arguments), prog_name=name, standalone_mode=False)
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
            f"DataFolderError: {error.strerror}: {error.filename or data_path()}. Free space, mend its rights or choose another --home.",
            err=True,
        )
        return 2
    return result if isinstance(result, int) else 0
