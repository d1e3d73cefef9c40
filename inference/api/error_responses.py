"""Error responses: the kind of error, a message, and the problem of each invalid field."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference.features import PastNotKept
from inference.request_rows import problems
from punctual.errors import InvalidDeclaration, InvalidRequest, NaiveTimestamp, PunctualError

MAX_BODY_BYTES = 4 * 1024 * 1024
_MAX_DISCARDED_BYTES = 16 * MAX_BODY_BYTES
_CALLERS_FAULT = (InvalidRequest, PastNotKept, NaiveTimestamp)

PROBLEM_SCHEMA = {
    "title": "Problem",
    "type": "object",
    "properties": {
        "error": {
            "type": "string",
            "description": "The kind of error, such as InvalidRequest or NoChampion",
        },
        "message": {
            "type": "string",
            "description": "What happened, what was expected, what to do",
        },
        "problems": {
            "type": "array",
            "description": "The invalid fields of a malformed request",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "problem": {"type": "string"}},
            },
        },
    },
}


def described(description: str) -> dict[str, Any]:
    """The OpenAPI description of an error response."""
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def _refusal(status: int, error: str, message: str, found: Sequence[Any] = ()) -> Response:
    body = {
        "error": error,
        "message": message,
        "problems": [{"field": each.field, "problem": each.problem} for each in found],
    }
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def add_refusals(app: FastAPI, columns: Sequence[str]) -> None:
    """Answer errors with a `Problem`.

    413 and 422 are errors of the caller, 503 is temporary or needs an operator, 500 is a fault of
    the server.
    """

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> Response:
        found = problems(
            [{**each, "loc": _without_tags(each["loc"])} for each in error.errors()], columns
        )
        too_many = any(each["type"] == "too_long" for each in error.errors())
        return _refusal(
            413 if too_many else 422, "InvalidRequest", "; ".join(map(str, found)) + ".", found
        )

    @app.exception_handler(PunctualError)
    async def refused(_request: Request, error: PunctualError) -> Response:
        status = (
            422
            if isinstance(error, _CALLERS_FAULT)
            else 500
            if isinstance(error, InvalidDeclaration)
            else 503
        )
        return _refusal(
            status, type(error).__name__, str(error).removeprefix(f"{type(error).__name__}: ")
        )

    @app.exception_handler(sqlite3.Error)
    async def unreadable(_request: Request, error: sqlite3.Error) -> Response:
        return _refusal(503, "StoreUnreadable", f"the online store cannot be read now: {error}.")

    @app.exception_handler(Exception)
    async def fault(_request: Request, error: Exception) -> Response:
        return _refusal(
            500,
            "InternalError",
            f"a fault of this server: {type(error).__name__}; its log has the details.",
        )

    @app.exception_handler(HTTPException)
    async def other(_request: Request, error: HTTPException) -> Response:
        return _refusal(
            error.status_code,
            "HttpError",
            f"{error.detail}. See /docs for the operations of this server.",
        )


def _without_tags(location: Sequence[str | int]) -> tuple[str | int, ...]:
    """A field's path in the JSON that the caller sent.

    Pydantic's location also has 'body' and the use case that selected the body's model.
    """
    parts = [part for part in location if part != "body"]
    while (
        parts
        and isinstance(parts[0], str)
        and parts[0] not in ("use_case", "at", "rows")
        and len(parts) > 1
    ):
        parts = parts[1:]
    return tuple(parts)


class LimitedBody:
    """Refuses a body that is too long, with or without a Content-Length.

    The excess body is read and discarded, up to a limit: a caller that is still sending would not
    see the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count the bytes of its body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"")
        received = MAX_BODY_BYTES + 1 if length.isdigit() and int(length) > MAX_BODY_BYTES else 0

        async def counted() -> Message:
            nonlocal received
            while True:
                message = await receive()
                received += len(message.get("body", b""))
                if received <= MAX_BODY_BYTES or message["type"] != "http.request":
                    return message
                if not message.get("more_body") or received > _MAX_DISCARDED_BYTES:
                    raise HTTPException(413, f"The body is longer than {MAX_BODY_BYTES:,} bytes")

        await self.app(scope, counted, send)
