"""The rows of a request: their columns and types, validation, and the problems found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
)

from inference.features import OnlineFeatures
from inference.json_types import MAX_ROWS, json_type, problem_text
from punctual.column_types import ColumnType, column_type, type_of_feast
from punctual.errors import InvalidDeclaration, InvalidRequest
from stores.predictions import RESERVED_COLUMNS


@dataclass(frozen=True)
class Problem:
    """The problem of one field of a request."""

    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.field} {self.problem}" if self.field else self.problem


@dataclass(frozen=True)
class RowColumn:
    """A column of a request's rows.

    An optional column may be omitted or null. Ids are only returned and logged.
    """

    name: str
    type: ColumnType
    role: Literal["join_key", "request", "id"]
    optional: bool


def row_columns(features: OnlineFeatures) -> list[RowColumn]:
    """The join keys and request columns of the service, and the ids of the requests."""
    use_case = features.use_case
    asked = {**features.request_columns, **features.keys}
    types = {name: type_of_feast(kind) for name, kind in asked.items()}
    wrong = [
        f"'{name}' is of type {asked[name]}, which has no JSON representation; use another type."
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
        f"'{each.name}' is a reserved column name of the prediction log."
        for each in columns
        if each.name in RESERVED_COLUMNS
    ]
    if wrong:
        raise InvalidDeclaration(f"the request of '{use_case.name}'", wrong)
    return columns


def row_model(features: OnlineFeatures) -> type[BaseModel]:
    """The pydantic model of a row: missing, mistyped and unknown columns are refused."""
    fields: dict[str, Any] = {}
    for column in row_columns(features):
        description = {
            "join_key": "Join key",
            "request": "Known to the caller at the prediction moment",
            "id": "Returned and logged",
        }[column.role]
        type_ = json_type(column.type)
        fields[column.name] = (
            (type_ | None, Field(None, description=description))
            if column.optional
            else (type_, Field(description=description))
        )
    title = "".join(part.capitalize() for part in features.use_case.name.split("_"))
    return create_model(
        f"{title}Row",
        __config__=ConfigDict(extra="forbid"),
        __doc__=features.use_case.description,
        **fields,
    )


def checked_rows(model: type[BaseModel], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows from Python or a command line, validated as by the server.

    Raises `InvalidRequest` with every problem.
    """
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
    """A row given as text on a command line, in the types of its columns; empty text is null.

    A value that cannot be converted stays text; `checked_rows` refuses it.
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
    """Pydantic's errors as problems of fields, such as `rows[0].carrier is missing`."""
    return [_problem(error, columns, (*prefix, *error["loc"])) for error in errors]


def _problem(
    error: Mapping[str, Any], columns: Sequence[str], location: tuple[str | int, ...]
) -> Problem:
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "json_invalid":
        return Problem("", f"the body is not JSON: {context.get('error', error['msg'])}")
    if kind == "union_tag_not_found":
        return Problem(
            "use_case", "is missing; expected a name, because several use cases are served"
        )
    if kind == "union_tag_invalid":
        return Problem(
            "use_case", f"is {context.get('tag')!r}; expected one of {context.get('expected_tags')}"
        )
    return Problem(
        _field(location),
        problem_text(error, columns if len(location) > 1 else ("use_case", "at", "rows")),
    )


def _field(location: Sequence[str | int]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
