"""Progress bars and spinners on standard error, shown only on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

# Commands import this module even for --help, which needs no bar.
if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import ProgressColumn

Item = TypeVar("Item")
Result = TypeVar("Result")


class Progress:
    """Shows the progress of a run; nothing if `quiet`.

    If the work fails, its bar is removed and the cursor restored.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._say: Callable[[str], None] = lambda _: None
        self._next: Callable[[str], None] = lambda _: None

    def say(self, text: str) -> None:
        """Show a text next to the present step; inside `steps`."""
        self._say(text)

    def step(self, name: str) -> None:
        """Begin a step, which completes the previous one; inside `steps`."""
        self._next(name)

    def each(
        self,
        phase: str,
        items: Sequence[Item],
        name: Callable[[Item], str],
        work: Callable[[Item], Result],
    ) -> list[Result]:
        """Call `work` for each item in order, with a bar that shows the item's name."""
        results: list[Result] = []
        with self.steps(phase, len(items)):
            for item in items:
                self.step(name(item))
                results.append(work(item))
        return results

    @contextmanager
    def steps(self, phase: str, total: int) -> Iterator[None]:
        """Show a bar of `total` steps; each begins with a call of `step`."""
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
            started = 0

            def begin(name: str) -> None:
                nonlocal started
                bar.update(task, completed=started, item=name)
                started += 1
                self._say = lambda text: bar.update(task, item=f"{name} {text}")

            self._next = begin
            try:
                yield
                bar.update(task, completed=started, item="")
            finally:
                self._say = self._next = lambda _: None


@contextmanager
def working(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Show a spinner and the elapsed time until the work ends."""
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with _bar(*columns, quiet=quiet, transient=True) as bar:
        bar.add_task(what, total=None)
        yield


def _bar(*columns: ProgressColumn, quiet: bool, transient: bool = False) -> Bar:
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    is_shown = console.is_terminal and not quiet
    return Bar(*columns, console=console, transient=transient, disable=not is_shown)
