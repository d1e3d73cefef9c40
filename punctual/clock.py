"""The moment at which a command stands, and a clock that goes on from there."""

from __future__ import annotations

import contextlib
import os
import time
from datetime import UTC, datetime, timedelta

from punctual.errors import BrokenClock, DataFolderError
from punctual.home import Home
from punctual.times import LAST, InvalidTime, aware, from_micros, micros, moment

NOW = "now"


class Clock:
    """A clock that starts at a moment and goes on, `speed` times as fast as the wall's.

    It stops at the last moment that the platform accepts. `started` is what `time.monotonic()`
    said when the clock was set, if that was before it was made.
    """

    def __init__(self, start: datetime, speed: float = 1.0, started: float | None = None) -> None:
        self.start = aware(start)
        self.speed = speed
        self._started = time.monotonic() if started is None else started

    def __call__(self) -> datetime:
        """The moment it shows, aware UTC."""
        seconds = (time.monotonic() - self._started) * self.speed
        return self.start + timedelta(seconds=min(seconds, (LAST - self.start).total_seconds()))


def wall_clock() -> datetime:
    """What the machine's clock says, aware UTC."""
    return datetime.now(UTC)


def starting_moment(home: Home, as_of: str | None, demo_at: datetime | None) -> datetime:
    """Where a command's clock stands: `--as-of`, else where this data folder's clock has got to,
    else the domain's demo.

    A domain without a demo moment lives in the present. The data folder's clock never goes back of
    itself.
    """
    if as_of == NOW or (as_of is None and demo_at is None):
        return wall_clock()
    if as_of is not None:
        return moment(as_of)
    assert demo_at is not None
    reached = reached_moment(home)
    return demo_at if reached is None else max(demo_at, reached)


def reached_moment(home: Home) -> datetime | None:
    """How far this data folder's clock has got, None if it was never set; may raise `BrokenClock`."""
    path = home.path("clock")
    if not path.exists():
        return None
    text = path.read_bytes()[:100].decode(errors="replace").strip()
    try:
        return aware(from_micros(int(text)))
    except (ValueError, OverflowError, InvalidTime):
        raise BrokenClock(
            f"{path} holds {text!r}; expected microseconds since 1970, in the years that Punctual"
            " accepts. Set the clock again with --as-of MOMENT on a build, or remove the file: the"
            " clock then starts at the domain's demo moment."
        ) from None


def remember_moment(home: Home, reached: datetime) -> None:
    """Note how far this data folder's clock has got, so that the next command goes on from there.

    The clock does not go back; a damaged file is replaced.
    """
    path = home.path("clock")
    with contextlib.suppress(BrokenClock):
        if (before := reached_moment(home)) is not None and before >= reached:
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
