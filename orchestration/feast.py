"""`punctual feast …`: Feast's own command line on this data folder."""

from __future__ import annotations

import os
import sys

import click

from punctual.command_line import Command, common_options
from punctual.home import Home


@click.command(
    "feast",
    cls=Command,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: punctual feast feature-views list",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, required=True)
@common_options
def command(home: Home, arguments: tuple[str, ...]) -> None:
    """Run a Feast command on this data folder.

    Passes ARGUMENTS and the feature repository to Feast, which replaces this process.
    """
    os.environ.update(home.environment)
    os.execv(
        sys.executable,
        [sys.executable, "-m", "feast.cli.cli", "-c", str(home.repository), *arguments],
    )
