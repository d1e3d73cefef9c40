"""What a caller sends: the columns of a row, their types, and what is said of a malformed one."""

from __future__ import annotations

import difflib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
    create_model,
)

from inference.features import OnlineFeatures
from punctual.column_types import MOST_DIGITS, ColumnType, column_type, type_of_feast
from punctual.errors import InvalidDeclaration, InvalidRequest
from punctual.times import END, FIRST, LAST, iso
from stores.predictions import RESERVED

MAX_ROWS = 1000


def _moment(value: Any) -> Any:
    """ISO 8601 with a zone, or an aware datetime where the caller is in Python; numbers are no moments."""
    if isinstance(value, datetime):
        read = value
    elif isinstance(value, str):
        try:
            read = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(
                "is no moment; expected ISO 8601 with a zone, such as 2013-12-05T20:00:00Z"
            ) from None
    else:
        raise ValueError(
            "is no moment; expected ISO 8601 text with a zone, such as 2013-12-05T20:00:00Z"
        )
    if read.tzinfo is None:
        raise ValueError(f"has no time zone; give one, for example {read.isoformat()}Z")
    if not FIRST <= read < END:
        raise ValueError(f"is outside the years {FIRST.year} to {LAST.year}")
    return read.astimezone(UTC)


Moment = Annotated[AwareDatetime, BeforeValidator(_moment)]


def _fits(type_: ColumnType) -> AfterValidator:
    """Refuses integers outside the type; as a bound of the schema they would be rounded in JSON."""

    def check(value: int) -> int:
        if not type_.low <= value <= type_.high:
            bits = type_.high.bit_length() + (type_.low < 0)
            sign = "" if type_.low else " that is not negative"
            raise ValueError(f"is {value}; expected an integer of {bits} bits{sign}")
        return value

    return AfterValidator(check)


def _is_text(value: str) -> str:
    """Refuses half of a surrogate pair, which JSON can hold and UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"is {value!r}, which is not Unicode text; expected text") from None
    return value


def _single(value: float) -> float:
    """The number as a FLOAT column of the training set holds it."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        raise ValueError(f"is {value}; expected a number that a 32-bit float holds") from None


def _iso(kind: type[date] | type[time], example: str) -> BeforeValidator:
    """Takes ISO 8601 text, or the Python value where the caller is in Python."""

    def read(value: Any) -> Any:
        if isinstance(value, kind) and not isinstance(value, datetime):
            return value
        try:
            return kind.fromisoformat(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"is {_shown(value)}; expected a {kind.__name__} as {example}"
            ) from None

    return BeforeValidator(read)


def _decimal(type_: ColumnType) -> Any:
    def exact(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
            raise ValueError(f"is {_shown(value)}; expected a number")
        return value

    bounds = Field(max_digits=MOST_DIGITS, decimal_places=type_.digits, allow_inf_nan=False)
    return Annotated[Decimal, BeforeValidator(exact), bounds]


def _json_type(type_: ColumnType) -> Any:
    """What pydantic checks a value of the type with."""
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


@dataclass(frozen=True)
class Problem:
    """What is wrong with one field of a request."""

    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.field} {self.problem}" if self.field else self.problem


@dataclass(frozen=True)
class RowColumn:
    """A column of a request's rows. An optional one may be omitted or null; ids are only handed back and logged."""

    name: str
    type: ColumnType
    role: Literal["join_key", "request", "id"]
    optional: bool


def row_columns(features: OnlineFeatures) -> list[RowColumn]:
    """The join keys and request columns of the service, and the ids by which a request is found again."""
    use_case = features.use_case
    asked = {**features.request_columns, **features.keys}
    types = {name: type_of_feast(kind) for name, kind in asked.items()}
    wrong = [
        f"'{name}' is of type {asked[name]}, which no JSON value has; use another type."
        for name, type_ in types.items()
        if type_ is None
    ]
    found = {name: type_ for name, type_ in types.items() if type_}
    columns = [
        RowColumn(name, found[name], "join_key", name in use_case.optional_keys)
        for name in sorted(features.keys)
        if name in found
    ]
    columns += [
        RowColumn(name, found[name], "request", False)
        for name in features.request_columns
        if name in found and name not in features.keys
    ]
    columns += [
        RowColumn(name, column_type(use_case.requests.columns[name]), "id", True)
        for name in use_case.requests.id
        if name not in asked
    ]
    wrong += [
        f"'{each.name}' is a name that the prediction log needs for itself."
        for each in columns
        if each.name in RESERVED
    ]
    if wrong:
        raise InvalidDeclaration(f"what a caller of '{use_case.name}' sends", wrong)
    return columns


def row_model(features: OnlineFeatures) -> type[BaseModel]:
    """The typed row of a use case: nothing may be missing, of another type, or unknown."""
    fields: dict[str, Any] = {}
    for column in row_columns(features):
        said = {
            "join_key": "Join key",
            "request": "Known to the caller at the prediction",
            "id": "Handed back and logged",
        }[column.role]
        type_ = _json_type(column.type)
        fields[column.name] = (
            (type_ | None, Field(None, description=said))
            if column.optional
            else (type_, Field(description=said))
        )
    title = "".join(part.capitalize() for part in features.use_case.name.split("_"))
    return create_model(
        f"{title}Row",
        __config__=ConfigDict(extra="forbid"),
        __doc__=features.use_case.description,
        **fields,
    )


def checked_rows(model: type[BaseModel], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows from Python or a command line as the server would take them. Raises `InvalidRequest` with every problem."""
    kind: Any = Annotated[list[model], Field(min_length=1, max_length=MAX_ROWS)]  # type: ignore[valid-type]
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        return [dict(row) for row in adapter.validate_python([dict(row) for row in rows])]
    except ValidationError as error:
        found = problems(
            error.errors(include_url=False), list(model.model_fields), prefix=("rows",)
        )
        raise InvalidRequest("; ".join(map(str, found)) + ".") from None


def from_text(row: Mapping[str, str], columns: Sequence[RowColumn]) -> dict[str, Any]:
    """A row whose values were typed at a command line, in the types of its columns; an empty value is null.

    What does not read as its type stays text, and is refused with the rest.
    """
    kinds: dict[str, str] = {column.name: column.type.kind for column in columns}
    return {name: _from_text(text, kinds.get(name, "text")) for name, text in row.items()}


def _from_text(text: str, kind: str) -> Any:
    if text == "":
        return None
    if kind == "boolean":
        return {"true": True, "false": False}.get(text.lower(), text)
    read = int if kind == "integer" else float if kind == "float" else str
    try:
        return read(text)
    except ValueError:
        return text


def problems(
    errors: Iterable[Mapping[str, Any]], columns: Sequence[str], prefix: tuple[str, ...] = ()
) -> list[Problem]:
    """Pydantic's errors, each with the field it is about: `rows[0].carrier is missing`."""
    return [_problem(error, columns, (*prefix, *error["loc"])) for error in errors]


def _problem(
    error: Mapping[str, Any], columns: Sequence[str], place: tuple[str | int, ...]
) -> Problem:
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "json_invalid":
        return Problem("", f"the body is no JSON: {context.get('error', error['msg'])}")
    if kind == "union_tag_not_found":
        return Problem("use_case", "is missing, and several are served")
    if kind == "union_tag_invalid":
        return Problem(
            "use_case", f"is {context.get('tag')!r}; expected one of {context.get('expected_tags')}"
        )
    return Problem(
        _field(place), _said(error, columns if len(place) > 1 else ("use_case", "at", "rows"))
    )


def _field(place: Sequence[str | int]) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    # A name that the caller made up may hold what no answer can be written in.
    return text.encode(errors="backslashreplace").decode()


def _said(error: Mapping[str, Any], known: Sequence[str]) -> str:
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        name = str(error["loc"][-1])
        close = difflib.get_close_matches(name, known, n=1)
        return f"is unknown.{f' Did you mean {close[0]!r}?' if close else ''} Known: {', '.join(known)}"
    if kind == "value_error":
        return str(context.get("error", error["msg"]))
    if kind == "too_long":
        return f"has more than the {context.get('max_length', MAX_ROWS)} rows that one request may have"
    if kind == "too_short":
        return "is empty; expected at least one row"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"is {_shown(error.get('input'))}; expected a JSON object"
    expected = str(error["msg"]).removeprefix("Input should be ")
    return f"is {_shown(error.get('input'))}; expected {expected}"


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return str(iso(value))
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
