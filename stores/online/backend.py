"""The protocol of an online store backend: it keeps records by generation and key."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from punctual.errors import ExitCode, PunctualError
from stores.online.view import OnlineView


class OnlineStoreUnavailable(PunctualError):
    """The online store does not answer, or another process changes the same records."""

    exit_code = ExitCode.TRY_AGAIN


class GenerationGone(Exception):
    """The generation was replaced or removed; a writer asks for the current generations again."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """All rows of a table version that are effective by `until` (microseconds) are online."""

    version: int
    until: int


# Keys, and the views that are read by them.
KeyGroup = tuple[Sequence[bytes | None], Sequence[OnlineView]]

# Per key, a record for each view of the group; None where there is none.
RecordRows = list[tuple[bytes | None, ...]]


class Records(Protocol):
    """A backend keeps records by generation and key. A generation is one filling of one view.

    A view has one generation that readers see; a rebuild fills another one and swaps it in.
    Methods raise `OnlineStoreUnavailable` or `DataFolderError` if the backend does not answer or
    cannot be written. `get` and `put` raise `GenerationGone` if they notice it.
    """

    #: The address of the backend, for messages.
    where: str

    def read_records(self, groups: Sequence[KeyGroup]) -> list[RecordRows]:
        """The records of each group, from the current generations of its views.

        Raises `NotBuilt` for a view without a generation.
        """

    def get(self, generation: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records of one generation; None for a key without a record."""

    def put(
        self,
        generation: str,
        keys: Sequence[bytes],
        before: Sequence[bytes | None] | None,
        after: Sequence[bytes],
    ) -> list[int]:
        """Compare and set: replace each record that still equals `before`, atomically per record.

        None stands for an absent record; `before=None` says that all are absent. Returns the
        positions of the keys whose record equals neither `before` nor `after`, ascending.
        """

    def generation(self, view: OnlineView) -> str | None:
        """The generation that readers of the view see; None before the first write."""

    def writable_generations(self, view: OnlineView) -> list[str]:
        """The generations that rows of the view are written to.

        The current one comes first, and is created if the view has none; then the one that a
        rebuild is filling, if any.
        """

    def new_generation(self, view: OnlineView) -> str:
        """Create an empty generation for a rebuild; rows written to the view go there too."""

    def swap(self, view: OnlineView, generation: str, watermark: Watermark) -> None:
        """Make a generation and its watermark the view's own in one step; remove the old one."""

    def first_version(self, view: OnlineView, version: int) -> int:
        """The table version with which the first run began; `version` if this is the first run."""

    def watermark(self, view: OnlineView) -> Watermark | None:
        """The view's watermark; None before its first complete run."""

    def move_watermark(self, view: OnlineView, watermark: Watermark) -> None:
        """Set the watermark; within a table version it never moves back.

        Within `exclusive`, raises `OnlineStoreUnavailable` if the generation that was current at
        the beginning was replaced: the watermark would cover rows that are gone.
        """

    def exclusive(self, view: OnlineView) -> AbstractContextManager[None]:
        """Lock the view for one materialization; waits for the lock.

        Creates the view's generation if there is none, and removes what an interrupted rebuild
        left.
        """

    def views(self, project: str) -> dict[str, list[str]]:
        """The schemas in the store, by view name."""

    def drop(self, schema: str) -> None:
        """Remove all records of a schema, and its watermark."""

    def count(self, view: OnlineView) -> int:
        """The number of records of the view."""

    def erase(self, view: OnlineView, keys: Sequence[bytes]) -> int:
        """Remove the records of some keys, those of earlier definitions too.

        Waits until no run materializes the view. Returns the number of records that the present
        definition had.
        """

    def scrub(self) -> None:
        """Rewrite the backend's files so that no byte of removed records remains."""

    def close(self) -> None:
        """Close this thread's connection."""

    def teardown(self, project: str) -> None:
        """Remove everything of the project."""
