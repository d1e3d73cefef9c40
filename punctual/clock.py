"""The clock of a command: the moment at which it starts, and how fast it runs."""

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
    """A clock that starts at a moment and runs `speed` times as fast as real time.

    It stops at the last moment that the platform accepts. `started` is the value of
    `time.monotonic()` at which the clock shows `start`; by default the present value.
    """

    def __init__(self, start: datetime, speed: float = 1.0, started: float | None = None) -> None:
        self.start = aware(start)
        self.speed = speed
        self._started = time.monotonic() if started is None else started

    def __call__(self) -> datetime:
        """The present moment of this clock, aware UTC."""
        seconds = (time.monotonic() - self._started) * self.speed
        return self.start + timedelta(seconds=min(seconds, (LAST - self.start).total_seconds()))


def wall_clock() -> datetime:
    """The moment of the system clock, aware UTC."""
    return datetime.now(UTC)


def starting_moment(home: Home, as_of: str | None, demo_at: datetime | None) -> datetime:
    """The moment at which a command's clock starts, aware UTC.

    With `as_of` it is that moment ("now" is the system clock). Without, it is the system clock for
    a domain without a demo moment, else the later of `demo_at` and the data folder's clock.
    """
    if as_of == NOW or (as_of is None and demo_at is None):
        return wall_clock()
    if as_of is not None:
        return moment(as_of)
    assert demo_at is not None
    reached = reached_moment(home)
    return demo_at if reached is None else max(demo_at, reached)


def reached_moment(home: Home) -> datetime | None:
    """The moment of the data folder's clock, None if it was never set. Raises `BrokenClock`."""
    path = home.path("clock")
    if not path.exists():
        return None
    text = path.read_bytes()[:100].decode(errors="replace").strip()
    try:
        return aware(from_micros(int(text)))
    except (ValueError, OverflowError, InvalidTime):
        raise BrokenClock(
            f"{path} contains {text!r}; expected microseconds since 1970, in the years that"
            " Punctual accepts. Set the clock again with --as-of MOMENT on a build, or remove the"
            " file: the clock then starts at the domain's demo moment."
        ) from None


def remember_moment(home: Home, reached: datetime) -> None:
    """Set the data folder's clock, at which the next command starts.

    An earlier moment than the stored one is ignored; a damaged file is replaced.
    """
    path = home.path("clock")
    with contextlib.suppress(BrokenClock):
        if (before := reached_moment(home)) is not None and before >= reached:
            return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(str(micros(reached)))
        temporary.replace(path)
    except OSError as error:
        raise DataFolderError(
            f"cannot write {path}: {error.strerror}. Correct its permissions or choose another"
            " --home."
        ) from error
