"""Progress of work of more than a second or two, on standard error if that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

# Commands import this module for their --help too, which shows no bar.
if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import ProgressColumn

Item = TypeVar("Item")
Result = TypeVar("Result")


class Progress:
    """Shows how far a run is; `quiet` shows nothing.

    A bar disappears from the terminal when its work fails, and the cursor comes back.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._say: Callable[[str], None] = lambda _: None
        self._next: Callable[[str], None] = lambda _: None

    def say(self, text: str) -> None:
        """What is to be seen beside the item that is being worked on."""
        self._say(text)

    def step(self, name: str) -> None:
        """A step begins, and the one before is done; for work inside `steps`."""
        self._next(name)

    def each(
        self,
        phase: str,
        items: Sequence[Item],
        name: Callable[[Item], str],
        work: Callable[[Item], Result],
    ) -> list[Result]:
        """Do the work for each item in order, saying which."""
        results: list[Result] = []
        with self.steps(phase, len(items)):
            for item in items:
                self.step(name(item))
                results.append(work(item))
        return results

    @contextmanager
    def steps(self, phase: str, total: int) -> Iterator[None]:
        """A bar of `total` steps, each of which begins with a call of `step`."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[item]}"),
        )
        with _bar(*columns, quiet=self.quiet) as bar:
            task = bar.add_task(phase, total=total, item="")
            begun = 0

            def begin(name: str) -> None:
                nonlocal begun
                bar.update(task, completed=begun, item=name)
                begun += 1
                self._say = lambda text: bar.update(task, item=f"{name} {text}")

            self._next = begin
            try:
                yield
                bar.update(task, completed=begun, item="")
            finally:
                self._say = self._next = lambda _: None


@contextmanager
def working(what: str, *, quiet: bool = False) -> Iterator[None]:
    """A spinner for work of unknown length, with the time that it has taken; gone when it ends."""
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with _bar(*columns, quiet=quiet, transient=True) as bar:
        bar.add_task(what, total=None)
        yield


def _bar(*columns: ProgressColumn, quiet: bool, transient: bool = False) -> Bar:
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    shown = console.is_terminal and not quiet
    return Bar(*columns, console=console, transient=transient, disable=not shown)
