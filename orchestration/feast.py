"""`punctual feast …`: Feast's own command line on this data folder."""

from __future__ import annotations

import os
import sys

import click

from punctual.command_line import common_options
from punctual.home import HOME_VARIABLE, data_path


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: punctual feast feature-views list",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, required=True)
@common_options
def command(arguments: tuple[str, ...]) -> None:
    """Run Feast with ARGUMENTS on the feature repository; it takes the place of this process."""
    from punctual.repository import repository_path

    os.environ[HOME_VARIABLE] = data_path()
    os.execv(
        sys.executable,
        [sys.executable, "-m", "feast.cli.cli", "-c", str(repository_path()), *arguments],
    )
