"""`punctual`: one command for all stages; a stage is imported when its command is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import click

from punctual.command_line import Group, location_options, run

STAGES = ("pipelines", "training", "inference")


class Target(NamedTuple):
    """The location of a command: command `name` of a stage, or the `command` of a module."""

    module: str
    name: str = ""


# The words after `punctual` -> the command.
COMMANDS: dict[tuple[str, ...], Target] = {
    ("demo",): Target("orchestration.demo"),
    ("features", "build"): Target("pipelines", "build"),
    ("features", "materialize"): Target("pipelines", "materialize"),
    ("features", "quarantine"): Target("pipelines", "quarantine"),
    ("features", "erase"): Target("pipelines", "erase"),
    ("features", "apply"): Target("pipelines", "apply"),
    ("train",): Target("training", "fit"),
    ("training-set",): Target("training", "training-set"),
    ("card",): Target("training", "card"),
    ("rollback",): Target("training", "rollback"),
    ("serve",): Target("inference", "serve"),
    ("predict",): Target("inference", "predict"),
    ("batch",): Target("inference", "batch"),
    ("monitor",): Target("inference", "monitor"),
    ("status",): Target("orchestration.status"),
    ("steps",): Target("orchestration.steps"),
    ("up",): Target("orchestration.up"),
    ("feast",): Target("orchestration.feast"),
}


def module_command(words: tuple[str, ...]) -> str:
    """The equivalent `python -m …` command line."""
    return f"python -m {' '.join(COMMANDS[words])}".strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; returns the exit code."""
    return run(ROOT, arguments, "punctual")


class LazyGroup(Group):
    """The commands that begin with `words`, each imported when it is needed."""

    def __init__(self, *words: str, help: str, epilog: str | None = None) -> None:
        super().__init__(words[-1] if words else "punctual", help=help, epilog=epilog)
        self.words = words

    def list_commands(self, _context: click.Context) -> list[str]:
        """The possible next words."""
        size = len(self.words)
        return sorted({words[size] for words in COMMANDS if words[:size] == self.words})

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """The command or group of the next word, None if unknown."""
        words = (*self.words, name)
        if words not in COMMANDS:
            known = any(each[: len(words)] == words for each in COMMANDS)
            return (
                LazyGroup(*words, help="Build, materialize and inspect features.")
                if known
                else None
            )
        target = COMMANDS[words]
        if target.module in STAGES:
            stage = importlib.import_module(f"{target.module}.__main__").cli
            found: click.Command = stage.commands[target.name]
            return found
        return importlib.import_module(target.module).command


ROOT = location_options(
    LazyGroup(
        help="Features, training and predictions around one feature store.",
        epilog="Example: punctual demo, then punctual status. Each command has its own --help.",
    )
)


if __name__ == "__main__":
    sys.exit(main())
