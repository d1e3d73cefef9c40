"""What the command lines of all stages agree on: options, the clock, how results and errors are
shown.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

import click

from punctual.errors import DataFolderError, ExitCode, UnknownName, unknown_name
from punctual.feast_import import skip_type_checks
from punctual.home import Home
from punctual.plain import plain

_HOME = "punctual.home"  # where a command leaves its home, for what is said of an exception
_OWN_PROCESS = "punctual.own_process"  # whether the process is the platform's own
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Command(click.Command):
    """A command whose options count: one given twice or without a value is refused, not ignored."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """Parse what was typed, as click does."""
        values, _, given = self.make_parser(context).parse_args(list(arguments))
        for option in given:
            if not isinstance(option, click.Option) or option.name in context.help_option_names:
                continue
            shown, value = option.opts[-1], values.get(str(option.name))
            if given.count(option) > 1 and not option.multiple and shown != "--help":
                raise click.UsageError(f"{shown} is given twice; expected once.", context)
            if value == "" or (isinstance(value, list) and "" in value):
                raise click.UsageError(f"{shown} has an empty value.", context)
        return super().parse_args(context, arguments)


class Group(Command, click.Group):
    """A group that guesses what a misspelt command was to be."""

    command_class = Command

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names."""
        names = self.list_commands(context)
        if arguments and arguments[0] not in names and not arguments[0].startswith("-"):
            context.fail(unknown_name("command", arguments[0], names, context.command_path))
        return super().resolve_command(context, arguments)


class Speed(click.FloatRange):
    """How many times as fast as the wall's a clock goes; a million makes a year half a minute."""

    name = "speed"

    def __init__(self, *, min_open: bool = True) -> None:
        super().__init__(0, 1e6, min_open=min_open)

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> float:
        """The number; NaN lies in no range, and click does not see that."""
        number = super().convert(value, parameter, context)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", parameter, context)
        return number


def location_options(command: Decorated) -> Decorated:
    """`--home` and `--repository`, as every command has them."""
    home = click.option(
        "--home",
        metavar="FOLDER",
        help="The data folder; everything is written there.  [default: $PUNCTUAL_HOME or ./data]",
    )
    repository = click.option(
        "--repository",
        metavar="FOLDER",
        help="The feature repository.  [default: $PUNCTUAL_REPOSITORY or the installed"
        " feature_repo]",
    )
    return home(repository(command))


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`location_options`, given to the command as one `Home`, its argument `home`.

    They may be given before the command's name as well. Raises `DataFolderError` and
    `UnknownName` for what is not a folder.
    """

    @functools.wraps(command)
    def at_home(*, home: str | None, repository: str | None, **options: Any) -> Any:
        found = Home.at(_once("home", home), _once("repository", repository))
        for path in (found.folder, *found.folder.parents):
            if os.path.lexists(path) and not path.is_dir():
                raise DataFolderError(
                    f"the data folder cannot be {found.folder}: {path} is not a folder;"
                    " choose another --home."
                )
        if not found.repository.is_dir():
            raise UnknownName(
                f"the feature repository {found.repository} is not a folder."
                " Choose another --repository."
            )
        shared = click.get_current_context().meta
        shared[_HOME] = found
        if shared.get(_OWN_PROCESS):
            # Matplotlib's font cache belongs in the data folder, as all that is written.
            os.environ.setdefault("MPLCONFIGDIR", str(found.path("cache", "matplotlib")))
        return command(home=found, **options)

    return location_options(at_home)


def _once(name: str, value: str | None) -> str | None:
    """An option of the command, or of the groups before it, whose contexts are its parents."""
    context = click.get_current_context().parent
    while context is not None:
        outer = context.params.get(name)
        if outer is not None and value is not None:
            raise click.UsageError(f"--{name} is given twice; expected once.")
        value = outer if value is None else value
        context = context.parent
    return value


as_of_option = click.option(
    "--as-of",
    metavar="MOMENT",
    help="The moment at which to stand: ISO 8601 with a zone, a date (midnight UTC), or 'now'."
    "  [default: where this data folder's clock stands, at first the domain's demo moment]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
quiet_option = click.option("--quiet", is_flag=True, help="Show no progress.")


def named_values(keys: Sequence[str]) -> dict[str, str]:
    """What `--key NAME=VALUE` gave, repeated; each name counts, so none may come twice."""
    values: dict[str, str] = {}
    for key in keys:
        name, equals, value = key.partition("=")
        if not equals:
            raise click.UsageError(f"--key {name} has no value; expected NAME=VALUE.")
        if name in values:
            raise click.UsageError(f"--key {name} is given twice; expected once.")
        values[name] = value
    return values


def show_json(value: Any) -> None:
    """Print the value as JSON on standard output."""
    click.echo(json.dumps(plain(value), indent=2))


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows as a table; numbers stand right."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

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
    """Run a command line and return its exit code (`punctual.errors.ExitCode`).

    Every failure is said in a sentence on standard error. The traceback of an unexpected exception
    goes to a log file, which the sentence names. Without `arguments` they are those of the
    process, which then is the platform's own.
    """
    if arguments is None:
        skip_type_checks()
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = name or command.name or "punctual"
    shared: dict[str, Any] = {}
    try:
        _refuse_unreadable(given)
        with command.make_context(name, list(given)) as context:
            shared = context.meta
            shared[_OWN_PROCESS] = arguments is None
            result = command.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as finished:
        return int(finished.exit_code)
    except click.ClickException as error:
        error.show()
        return ExitCode.NEEDS_A_PERSON
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return ExitCode.OUTPUT_CLOSED
    except Exception as error:
        from punctual.failures import failure

        said, code = failure(error, [name, *given], shared.get(_HOME) or Home.at())
        click.echo(said, err=True)
        return code
    return result if isinstance(result, int) else ExitCode.DONE


def _refuse_unreadable(arguments: Sequence[str]) -> None:
    for argument in arguments:
        if "\0" in argument or not _is_text(argument):
            raise click.UsageError(f"the argument {argument!r} is not UTF-8 text.")


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:  # bytes of another encoding reach Python as lone surrogates
        return False
    return True


def _drop_output() -> None:
    """Nobody reads standard output; Python would complain when it flushes at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
