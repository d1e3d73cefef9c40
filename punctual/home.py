"""A home: a data folder, and the feature repository whose domains write to it.

A command line or `Punctual(home)` makes a `Home` and passes it to every function that needs it; one
process can use several. Paths inside the data folder are stored as relative paths, so that the
folder can be moved or copied.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "PUNCTUAL_HOME"
REPOSITORY_VARIABLE = "PUNCTUAL_REPOSITORY"
# The package `feature_repo` next to this one.
INSTALLED_REPOSITORY = Path(__file__).parents[1].absolute() / "feature_repo"


@dataclass(frozen=True)
class Home:
    """A data folder and a feature repository; both paths are absolute."""

    folder: Path
    repository: Path

    @classmethod
    def at(cls, folder: str | Path | None = None, repository: str | Path | None = None) -> Home:
        """The home with a data folder, by default `$PUNCTUAL_HOME`, or `./data` without it.

        The repository is by default `$PUNCTUAL_REPOSITORY`, or the installed `feature_repo`.
        """
        folder = folder or os.environ.get(HOME_VARIABLE) or "data"
        repository = repository or os.environ.get(REPOSITORY_VARIABLE) or INSTALLED_REPOSITORY
        return cls(Path(folder).absolute(), Path(repository).absolute())

    def path(self, *parts: str) -> Path:
        """A path in the data folder."""
        return self.folder.joinpath(*parts)

    @property
    def tables(self) -> Path:
        """The folder of the tables and their manifest."""
        return self.folder / "tables"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which a child process uses this home."""
        return {HOME_VARIABLE: str(self.folder), REPOSITORY_VARIABLE: str(self.repository)}
