"""`punctual`: one front door to the command lines of the stages; a stage is imported only when asked for it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import click

from punctual.command_line import location_options, run
from punctual.errors import unknown_name
from punctual.feast_import import skip_type_checks


class Target(NamedTuple):
    """Where a command lives: a module with a click command or a `main`, and what it is called there."""

    module: str
    arguments: tuple[str, ...]
    help: str


# The words after `punctual` -> the same command of a stage. Order is the order of the help.
COMMANDS: dict[tuple[str, ...], Target] = {
    ("demo",): Target(
        "orchestration.demo", (), "Run the whole job: build, train, materialize, serve, predict."
    ),
    ("features", "build"): Target(
        "pipelines", ("build",), "Bring a domain's tables up to a moment."
    ),
    ("features", "materialize"): Target(
        "pipelines", ("materialize",), "Bring a domain's features online."
    ),
    ("features", "quarantine"): Target(
        "pipelines", ("quarantine",), "Show rows that broke their source's contract."
    ),
    ("features", "erase"): Target(
        "pipelines", ("erase",), "Erase an entity from the online store."
    ),
    ("features", "apply"): Target("pipelines", ("apply",), "Register all definitions with Feast."),
    ("train",): Target("training", ("fit",), "Train, evaluate, gate and register a model."),
    ("training-set",): Target("training", ("training-set",), "Make a training set as of a moment."),
    ("card",): Target("training", ("card",), "Show a model card."),
    ("rollback",): Target("training", ("rollback",), "Make an earlier champion champion again."),
    ("serve",): Target("inference", ("serve",), "Serve predictions over HTTP."),
    ("predict",): Target("inference", ("predict",), "Predict for given entities."),
    ("batch",): Target("inference", ("batch",), "Predict all requests of a period."),
    ("monitor",): Target("inference", ("monitor",), "Watch drift, live score and freshness."),
    ("status",): Target(
        "orchestration.status", (), "Show the champion, freshness and the last runs."
    ),
    ("up",): Target("orchestration.up", (), "Run schedule and server together."),
    ("feast",): Target(
        "orchestration.feast",
        (),
        "Run a Feast command on this data folder, such as `punctual feast ui`.",
    ),
}


def module_command(words: tuple[str, ...]) -> str:
    """The same command without the front door: `python -m …`."""
    target = COMMANDS[words]
    return " ".join(["python -m", target.module, *target.arguments])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; returns the exit code."""
    if arguments is None:
        skip_type_checks()
    given = list(sys.argv[1:] if arguments is None else arguments)
    words, rest = _split(given)
    if words is None:
        return run(_front_door(), given, "punctual")
    target = COMMANDS[words]
    name = " ".join(["punctual", *words])
    if target.module in ("pipelines", "training", "inference"):
        # The stage's own help would show its own name; the command behind it is run under ours.
        cli = importlib.import_module(f"{target.module}.__main__").cli
        return run(cli.commands[target.arguments[0]], rest, name)
    return run(importlib.import_module(target.module).command, rest, name)


def _split(given: list[str]) -> tuple[tuple[str, ...] | None, list[str]]:
    """The command's words and what follows them; options that concern every command may stand before it."""
    leading: list[str] = []
    rest = given
    while rest and rest[0].split("=")[0] in ("--home", "--repository"):
        take = 1 if "=" in rest[0] else 2
        leading, rest = leading + rest[:take], rest[take:]
    for size in (2, 1):
        words = tuple(rest[:size])
        if words in COMMANDS:
            return words, leading + rest[size:]
    return None, given


class _Guessing(click.Group):
    """A group that guesses what a misspelt command was to be."""

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if arguments and arguments[0] not in self.commands and not arguments[0].startswith("-"):
            context.fail(unknown_name("command", arguments[0], self.commands, context.command_path))
        return super().resolve_command(context, arguments)


def _front_door() -> click.Group:
    """The help, and the error for a command that there is not."""
    root = _Guessing(
        "punctual",
        help="Features, training and predictions around one feature store.",
        epilog="Example: punctual demo, then punctual status. Each command has its own --help.",
    )
    groups: dict[str, _Guessing] = {}
    for words, target in COMMANDS.items():
        parent: click.Group = root
        if len(words) == 2:
            parent = groups.setdefault(
                words[0], _Guessing(words[0], help="Build, materialize and inspect features.")
            )
            root.add_command(parent)
        parent.add_command(click.Command(words[-1], help=target.help))
    return location_options(root)


if __name__ == "__main__":
    sys.exit(main())
