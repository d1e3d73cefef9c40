"""One line that says which step of a training run is under way and how long it has taken."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


class Progress:
    """Shows the steps of a run on standard error where that is a terminal; `quiet` shows nothing."""

    def __init__(self, steps: int, *, quiet: bool = False) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[item]}"),
        )
        self._bar = Bar(*columns, console=console, disable=quiet or not console.is_terminal)
        self._task = self._bar.add_task("train", total=steps, item="")
        self._begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """A run that fails takes its bar from the terminal, and gives the cursor back."""
        self._bar.stop()

    def step(self, name: str) -> None:
        """A step begins; the one before is done."""
        if not self._begun:
            self._bar.start()
            self._begun = True
        else:
            self._bar.advance(self._task)
        self._bar.update(self._task, item=name)

    def done(self) -> None:
        """All steps are done."""
        self._bar.advance(self._task)
        self._bar.update(self._task, item="")
        self._bar.stop()
