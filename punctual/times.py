"""Moments and durations as the platform writes and reads them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta

from punctual.errors import NaiveTimestamp, PunctualError

MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class InvalidTime(PunctualError):
    """A moment or a duration that cannot be read."""


def aware(moment: datetime) -> datetime:
    """The same moment in UTC; a naive datetime is an error, not a guess."""
    if moment.tzinfo is None:
        raise NaiveTimestamp(
            f"{moment.isoformat()} has no time zone; give one, for example {moment.isoformat()}+00:00."
        )
    return moment.astimezone(UTC)


def taken_for_utc(moment: datetime) -> datetime:
    """The moment with its zone; a naive one is in UTC, as tables hold moments and Feast hands them on."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def moment(text: str) -> datetime:
    """An ISO 8601 moment with its zone, or a date alone, which means its midnight in UTC."""
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return datetime.combine(date.fromisoformat(text), time(), UTC)
        return aware(datetime.fromisoformat(text))
    except ValueError:
        raise InvalidTime(
            f"'{text}' is no moment; expected ISO 8601 with a zone, such as 2013-12-05T15:00Z, or a date alone (midnight UTC)."
        ) from None


def duration(text: str | timedelta) -> timedelta:
    """'90m', '3h', '7d', '2w' as a timedelta."""
    if isinstance(text, timedelta):
        return text
    match = re.fullmatch(r"(\d+)([smhdw])", text)
    if not match:
        raise InvalidTime(
            f"'{text}' is no duration; expected a whole number and one of s, m, h, d, w, such as 36h or 30d."
        )
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def duration_text(value: timedelta) -> str:
    """The shortest of the forms that `duration` reads: 24 hours are '24h', two days and more count in days."""
    seconds = int(value.total_seconds())
    for unit in ("d", "h", "m"):
        size = _UNITS[unit]
        if seconds % size == 0 and seconds >= (2 * size if unit == "d" else size):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def micros(value: datetime | timedelta) -> int:
    """Microseconds since 1970 in UTC, or of a duration; exact, unlike `timestamp()`."""
    span = value if isinstance(value, timedelta) else aware(value) - EPOCH
    return span // MICROSECOND


def from_micros(value: int) -> datetime:
    """The inverse of `micros` for moments."""
    return EPOCH + timedelta(microseconds=value)


def iso(value: datetime | None) -> str | None:
    """ISO 8601 in UTC with a Z, microseconds only where there are any."""
    if value is None:
        return None
    return aware(value).isoformat().replace("+00:00", "Z")
