"""Moments and durations: validation, parsing and formatting."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import overload

from punctual.errors import NaiveTimestamp, PunctualError

MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The platform accepts moments in [FIRST, END): the full years that pandas' nanosecond timestamps
# cover. Other moments overflow in one library or another.
FIRST, END = datetime(1678, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)
LAST = END - MICROSECOND
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class InvalidTime(PunctualError):
    """A moment or a duration that cannot be parsed or is out of range."""


def aware(moment: datetime) -> datetime:
    """The same moment in UTC.

    Raises `NaiveTimestamp` for a datetime without a zone, and `InvalidTime` for one outside the
    years that the platform accepts.
    """
    _refuse_naive(moment)
    if not FIRST <= moment < END:
        raise InvalidTime(
            f"{moment.isoformat()} is outside the years {FIRST.year} to {LAST.year}"
            " that Punctual accepts."
        )
    return moment.astimezone(UTC)


def _refuse_naive(moment: datetime) -> None:
    if moment.tzinfo is None:
        text = moment.isoformat()
        raise NaiveTimestamp(f"{text} has no time zone; give one, for example {text}+00:00.")


def assume_utc(moment: datetime) -> datetime:
    """The moment, with the zone UTC if it has none. Tables and Feast use naive UTC datetimes."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def moment(text: str) -> datetime:
    """Parse an ISO 8601 moment with a zone, or a date, which is its midnight in UTC; aware UTC.

    Raises `InvalidTime` or `NaiveTimestamp`.
    """
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return aware(datetime.combine(date.fromisoformat(text), time(), UTC))
        return aware(datetime.fromisoformat(text))
    except ValueError:
        raise InvalidTime(
            f"{text!r} is not a timestamp; expected ISO 8601 with a zone, such as"
            " 2013-12-05T15:00Z, or a date alone (midnight UTC)."
        ) from None


def duration(text: str | timedelta) -> timedelta:
    """Parse a whole number and a unit (s, m, h, d, w), such as '90m'; a timedelta is unchanged.

    Raises `InvalidTime`.
    """
    if isinstance(text, timedelta):
        return text
    match = re.fullmatch(r"(\d+)([smhdw])", text)
    if not match:
        raise InvalidTime(
            f"{text!r} is not a duration; expected a whole number and one of s, m, h, d, w,"
            " such as 36h or 30d."
        )
    try:
        return timedelta(seconds=int(match[1]) * _UNITS[match[2]])
    except (OverflowError, ValueError):  # ValueError: more digits than int() accepts
        raise InvalidTime(f"'{text[:40]}' is a longer duration than Punctual accepts.") from None


def duration_text(value: timedelta) -> str:
    """The duration in the largest unit that divides it; in days only from two days on, as '24h'."""
    seconds = int(value.total_seconds())
    for unit in ("d", "h", "m"):
        size = _UNITS[unit]
        if seconds % size == 0 and seconds >= (2 * size if unit == "d" else size):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def micros(value: datetime | timedelta) -> int:
    """Microseconds since 1970 UTC, or of a duration; exact, unlike `datetime.timestamp()`."""
    if isinstance(value, timedelta):
        return value // MICROSECOND
    _refuse_naive(value)
    return (value - EPOCH) // MICROSECOND


def from_micros(value: int) -> datetime:
    """The inverse of `micros` for moments."""
    return EPOCH + timedelta(microseconds=value)


@overload
def iso(value: datetime) -> str: ...
@overload
def iso(value: None) -> None: ...
@overload
def iso(value: datetime | None) -> str | None: ...
def iso(value: datetime | None) -> str | None:
    """ISO 8601 in UTC with a Z; microseconds only if they are not 0. None stays None."""
    if value is None:
        return None
    _refuse_naive(value)
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
