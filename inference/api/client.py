"""Asks a running server, as any client would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from punctual.errors import ExitCode, InvalidRequest, PunctualError
from punctual.times import iso

_SECONDS = 60.0


class ServerUnreachable(PunctualError):
    """Nobody answers at the address of the server, or not as it would."""

    exit_code = ExitCode.TRY_AGAIN


class ServerUnable(PunctualError):
    """The server understood the request and cannot answer it now."""

    exit_code = ExitCode.TRY_AGAIN


def ask(
    url: str, use_case: str, rows: Sequence[Mapping[str, Any]], at: datetime | None = None
) -> dict[str, Any]:
    """The server's answer for JSON rows. Raises `InvalidRequest` where it refuses them,
    `ServerUnable` where it is not ready.
    """
    import requests

    body = {
        "use_case": use_case,
        "rows": [dict(row) for row in rows],
        **({} if at is None else {"at": iso(at)}),
    }
    where = f"{url.rstrip('/')}/predict"
    try:
        response = requests.post(where, json=body, timeout=_SECONDS)
        told = response.json()
    except (requests.RequestException, ValueError) as error:
        raise ServerUnreachable(
            f"{where} gave no answer: {error}. Start one: punctual serve {use_case}."
        ) from error
    if response.status_code == 200:
        return dict(told)
    message = told.get("message", response.text) if isinstance(told, dict) else response.text
    raise (InvalidRequest if response.status_code in (413, 422) else ServerUnable)(
        f"{where} answered {response.status_code}: {message}"
    )
