"""Progress bars for work of more than a second or two, on standard error where that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Progress:
    """Shows how far each phase of a run is; `quiet` shows nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True)
        self.quiet = quiet
        self._say: Callable[[str], None] = lambda _: None

    def say(self, text: str) -> None:
        """What is to be seen beside the item that is being worked on."""
        self._say(text)

    def each(
        self,
        phase: str,
        items: Sequence[Item],
        name: Callable[[Item], str],
        work: Callable[[Item], Result],
    ) -> list[Result]:
        """Do the work for each item in order, saying which."""
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[item]}"),
        )
        shown = self.console.is_terminal and not self.quiet
        results: list[Result] = []
        with Bar(*columns, console=self.console, disable=not shown) as bar:
            task = bar.add_task(phase, total=len(items), item="")
            for item in items:
                bar.update(task, item=name(item))
                self._say = lambda text, item=item: bar.update(task, item=f"{name(item)} {text}")  # type: ignore[misc]
                results.append(work(item))
                bar.advance(task)
            bar.update(task, item="")
        return results
