"""What a backend of the online store has to do: keep records by place and key."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from punctual.errors import ExitCode, PunctualError
from stores.online.view import OnlineView


class OnlineStoreUnavailable(PunctualError):
    """The online store does not answer, or somebody else changes what this run works on; the next
    run may do.
    """

    exit_code = ExitCode.TRY_AGAIN


class GenerationGone(Exception):
    """A place is not there any more: another one was swapped in, or the view was removed; who
    writes looks again.
    """


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far a view is online: all that took effect by `until` (microseconds) in a version of its
    table.
    """

    version: int
    until: int


KeyGroup = tuple[Sequence[bytes | None], Sequence[OnlineView]]


RecordRows = list[tuple[bytes | None, ...]]


class Records(Protocol):
    """A backend: keeps records by place and key. A place is what one filling of one view has to
    itself.

    Methods raise `OnlineStoreUnavailable` or `DataFolderError` where the backend does not answer or
    cannot be written; `get` and `put` raise `PlaceGone` where they notice it.
    """

    #: Where it is, as messages say it.
    where: str

    def read_records(self, groups: Sequence[KeyGroup]) -> list[RecordRows]:
        """For each group of keys the record per key and view, None where there is none. Raises
        `NotBuilt` for a view without a place.
        """

    def get(self, generation: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records in a place."""

    def put(
        self,
        generation: str,
        keys: Sequence[bytes],
        before: Sequence[bytes | None] | None,
        after: Sequence[bytes],
    ) -> list[int]:
        """Replace each record that is still as it was before (None: not there), atomically each.

        Returns the numbers of those that are not as they were, in order.
        """

    def generation(self, view: OnlineView) -> str | None:
        """Where the view's records are; None before the first."""

    def writable_generations(self, view: OnlineView) -> list[str]:
        """Where rows for the view have to be written: its place, made if there is none, and what is
        filled beside it.
        """

    def new_generation(self, view: OnlineView) -> str:
        """A new, empty place for the view that nobody reads; what is written to the view goes there
        too from now on.
        """

    def swap(self, view: OnlineView, generation: str, watermark: Watermark) -> None:
        """Make a place the view's own, with its mark, in one step; what was there before goes."""

    def first_version(self, view: OnlineView, version: int) -> int:
        """From which version of its table a first run has begun to fill the view's place; the given
        one if none has yet.
        """

    def watermark(self, view: OnlineView) -> Watermark | None:
        """How far the view is online; None before its first whole run."""

    def move_watermark(self, view: OnlineView, watermark: Watermark) -> None:
        """Move the mark; within a version of the table it never goes back.

        Raises `OnlineStoreUnavailable` within `alone` where the records that were there when it
        began are not any more: the mark would speak for rows that are gone.
        """

    def exclusive(self, view: OnlineView) -> AbstractContextManager[None]:
        """Within it nobody else materializes the view, which has a place; waits for its turn. What
        a dead run left beside goes.
        """

    def views(self, project: str) -> dict[str, list[str]]:
        """The schemas in the store by the view's name."""

    def drop(self, schema: str) -> None:
        """Remove a view's records, of one schema, and its mark."""

    def count(self, view: OnlineView) -> int:
        """How many records the view has."""

    def erase(self, view: OnlineView, keys: Sequence[bytes]) -> int:
        """Remove records, those of earlier definitions too, while nobody materializes; returns how
        many the view had.
        """

    def scrub(self) -> None:
        """Leave no byte of what was removed in the backend's files."""

    def close(self) -> None:
        """Close this thread's connection."""

    def teardown(self, project: str) -> None:
        """Remove everything of the project."""
