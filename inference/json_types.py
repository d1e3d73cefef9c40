"""JSON values of a column type: their validation and the text of its errors."""

from __future__ import annotations

import difflib
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, Strict

from punctual.column_types import MAX_DIGITS, ColumnType
from punctual.times import END, FIRST, LAST, iso

MAX_ROWS = 1000


def _moment(value: Any) -> Any:
    """Parse ISO 8601 text with a time zone; aware datetimes pass, numbers are refused."""
    if isinstance(value, datetime):
        read = value
    elif isinstance(value, str):
        try:
            read = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(
                "is not a timestamp; expected ISO 8601 with a time zone, such as"
                " 2013-12-05T20:00:00Z"
            ) from None
    else:
        raise ValueError(
            "is not a timestamp; expected ISO 8601 text with a time zone, such as"
            " 2013-12-05T20:00:00Z"
        )
    if read.tzinfo is None:
        raise ValueError(f"has no time zone; expected one, for example {read.isoformat()}Z")
    if not FIRST <= read < END:
        raise ValueError(f"is outside the years {FIRST.year} to {LAST.year}")
    return read.astimezone(UTC)


Moment = Annotated[AwareDatetime, BeforeValidator(_moment)]


def _fits(type_: ColumnType) -> AfterValidator:
    """Refuses integers outside the type; JSON would round them as bounds of the schema."""

    def check(value: int) -> int:
        if not type_.low <= value <= type_.high:
            bits = type_.high.bit_length() + (type_.low < 0)
            sign = "" if type_.low else " that is not negative"
            raise ValueError(f"is {value}; expected an integer of {bits} bits{sign}")
        return value

    return AfterValidator(check)


def _is_text(value: str) -> str:
    """Refuses a lone surrogate, which JSON can represent and UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"is {value!r}, which is not Unicode text; expected text") from None
    return value


def _single(value: float) -> float:
    """The number rounded to 32 bits, as in a FLOAT column of the training set."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        raise ValueError(f"is {value}; expected a number in the range of a 32-bit float") from None


def _iso(kind: type[date] | type[time], example: str) -> BeforeValidator:
    """Accepts ISO 8601 text, and a Python value as it is."""

    def read(value: Any) -> Any:
        if isinstance(value, kind) and not isinstance(value, datetime):
            return value
        try:
            return kind.fromisoformat(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"is {_value_text(value)}; expected a {kind.__name__} as {example}"
            ) from None

    return BeforeValidator(read)


def _decimal(type_: ColumnType) -> Any:
    def exact(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
            raise ValueError(f"is {_value_text(value)}; expected a number")
        return value

    bounds = Field(max_digits=MAX_DIGITS, decimal_places=type_.digits, allow_inf_nan=False)
    return Annotated[Decimal, BeforeValidator(exact), bounds]


def json_type(type_: ColumnType) -> Any:
    """The pydantic type that validates a value of the column type."""
    if type_.kind == "integer":
        return Annotated[int, Strict(), _fits(type_)]
    if type_.kind == "float":
        number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
        return number if type_.duckdb == "DOUBLE" else Annotated[number, AfterValidator(_single)]
    if type_.kind == "decimal":
        return _decimal(type_)
    return {
        "boolean": Annotated[bool, Strict()],
        "text": Annotated[str, Strict(), AfterValidator(_is_text)],
        "date": Annotated[date, _iso(date, "2013-12-05")],
        "time": Annotated[time, _iso(time, "20:15:00")],
        "timestamp": Moment,
    }[type_.kind]


def problem_text(error: Mapping[str, Any], known: Sequence[str]) -> str:
    """The text of a pydantic error in the API's own words."""
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        name = str(error["loc"][-1])
        close = difflib.get_close_matches(name, known, n=1)
        return (
            f"is unknown.{f' Did you mean {close[0]!r}?' if close else ''} Known:"
            f" {', '.join(known)}"
        )
    if kind == "value_error":
        return str(context.get("error", error["msg"]))
    if kind == "too_long":
        return (
            f"has more than the {context.get('max_length', MAX_ROWS)} rows that one request may"
            " have"
        )
    if kind == "too_short":
        return "is empty; expected at least one row"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"is {_value_text(error.get('input'))}; expected a JSON object"
    expected = str(error["msg"]).removeprefix("Input should be ")
    return f"is {_value_text(error.get('input'))}; expected {expected}"


def _value_text(value: Any) -> str:
    if isinstance(value, datetime):
        return str(iso(value))
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
