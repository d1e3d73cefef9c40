"""What all command lines share: options, the output of results and errors, and exit codes."""

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

# Keys of click's context: the command's home, which error messages name, and whether the process
# belongs to the platform, unlike one that calls `run` from other code.
_HOME = "punctual.home"
_OWN_PROCESS = "punctual.own_process"
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Command(click.Command):
    """A command that refuses an option given twice or with an empty value."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """Parse the arguments as click does. Raises `click.UsageError`."""
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
    """A group whose error for an unknown command suggests a similar name."""

    command_class = Command

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command named by the first argument."""
        names = self.list_commands(context)
        if arguments and arguments[0] not in names and not arguments[0].startswith("-"):
            context.fail(unknown_name("command", arguments[0], names, context.command_path))
        return super().resolve_command(context, arguments)


class Speed(click.FloatRange):
    """The speed of a clock as a multiple of real time, at most a million (a year in 32 s)."""

    name = "speed"

    def __init__(self, *, min_open: bool = True) -> None:
        super().__init__(0, 1e6, min_open=min_open)

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> float:
        """The number. Click's range check accepts NaN, so it is refused here."""
        number = super().convert(value, parameter, context)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", parameter, context)
        return number


def location_options(command: Decorated) -> Decorated:
    """Add the options `--home` and `--repository`, which every command has."""
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
    """Add `location_options` and pass them to the command as one argument, `home: Home`.

    The options are also accepted before the command's name. Raises `DataFolderError` if the data
    folder, or `UnknownName` if the repository, is not a folder.
    """

    @functools.wraps(command)
    def at_home(*, home: str | None, repository: str | None, **options: Any) -> Any:
        found = Home.at(_single_value("home", home), _single_value("repository", repository))
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
            # Matplotlib otherwise writes its font cache outside the data folder.
            os.environ.setdefault("MPLCONFIGDIR", str(found.path("cache", "matplotlib")))
        return command(home=found, **options)

    return location_options(at_home)


def _single_value(name: str, value: str | None) -> str | None:
    """The option's value from the command or from one of its parent groups; refused if in two."""
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
    help="The moment to run for: ISO 8601 with a zone, a date (midnight UTC), or 'now'."
    "  [default: the data folder's clock, which starts at the domain's demo moment]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
quiet_option = click.option("--quiet", is_flag=True, help="Show no progress.")


def named_values(keys: Sequence[str]) -> dict[str, str]:
    """The values of repeated `--key NAME=VALUE`. Raises `click.UsageError` for a repeated name."""
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
    """Print rows as a table; columns of numbers are right-aligned."""
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

    A failure prints one message on standard error. The traceback of an unexpected exception is
    written to a log file, which the message names. Without `arguments`, those of the process are
    used, and the process is treated as the platform's own.
    """
    if arguments is None:
        skip_type_checks()
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = name or command.name or "punctual"
    shared: dict[str, Any] = {}
    try:
        _refuse_undecodable(given)
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
        _discard_output()
        return ExitCode.OUTPUT_CLOSED
    except Exception as error:
        from punctual.failures import failure

        message, code = failure(error, [name, *given], shared.get(_HOME) or Home.at())
        click.echo(message, err=True)
        return code
    return result if isinstance(result, int) else ExitCode.DONE


def owns_process() -> bool:
    """Whether the running command is the whole process, and not called by another program."""
    return bool(click.get_current_context().meta.get(_OWN_PROCESS))


def _refuse_undecodable(arguments: Sequence[str]) -> None:
    for argument in arguments:
        if "\0" in argument or not _is_text(argument):
            raise click.UsageError(f"the argument {argument!r} is not UTF-8 text.")


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:  # Python decodes bytes that are not UTF-8 as lone surrogates
        return False
    return True


def _discard_output() -> None:
    """Redirect standard output to the null device, or Python's flush at exit fails again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
