"""The moment at which a command stands, and a clock that goes on from there."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta

from punctual.errors import DataFolderError
from punctual.home import Home
from punctual.times import aware, from_micros, micros, moment

NOW = "now"


class Clock:
    """A clock that starts at a moment and goes on, `speed` times as fast as the wall's.

    Where it was set before it could be made, `started` is what `time.monotonic()` said then.
    """

    def __init__(self, start: datetime, speed: float = 1.0, started: float | None = None) -> None:
        self.start = aware(start)
        self.speed = speed
        self._started = time.monotonic() if started is None else started

    def __call__(self) -> datetime:
        """The moment it shows, aware UTC."""
        return self.start + timedelta(seconds=(time.monotonic() - self._started) * self.speed)


def wall_clock() -> datetime:
    """What the machine's clock says, aware UTC."""
    return datetime.now(UTC)


def starting_moment(home: Home, as_of: str | None, demo_at: datetime | None) -> datetime:
    """Where a command's clock stands: `--as-of`, else where this data folder's clock has got to, else the domain's demo.

    A domain without a demo moment lives in the present. The data folder's clock never goes back of itself.
    """
    if as_of == NOW or (as_of is None and demo_at is None):
        return wall_clock()
    if as_of is not None:
        return moment(as_of)
    assert demo_at is not None
    path = home.path("clock")
    reached = from_micros(int(path.read_text())) if path.exists() else demo_at
    return max(demo_at, reached)


def remember_moment(home: Home, reached: datetime) -> None:
    """Note how far this data folder's clock has got, so that the next command goes on from there."""
    path = home.path("clock")
    if path.exists() and int(path.read_text()) >= micros(reached):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(str(micros(reached)))
        aside.replace(path)
    except OSError as error:
        raise DataFolderError(
            f"cannot write {path}: {error.strerror}. Mend its rights or choose another --home."
        ) from error
