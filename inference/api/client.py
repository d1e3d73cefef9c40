"""A client of the prediction API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from punctual.errors import ExitCode, InvalidRequest, PunctualError
from punctual.times import iso

_SECONDS = 60.0


class ServerUnreachable(PunctualError):
    """The address of the server gives no answer, or an answer that is not JSON."""

    exit_code = ExitCode.TRY_AGAIN


class ServerUnable(PunctualError):
    """The server accepted the request and cannot answer it now."""

    exit_code = ExitCode.TRY_AGAIN


def ask(
    url: str, use_case: str, rows: Sequence[Mapping[str, Any]], at: datetime | None = None
) -> dict[str, Any]:
    """The server's answer for JSON rows.

    Raises `InvalidRequest` if the server refuses the rows, `ServerUnable` if it is not ready, and
    `ServerUnreachable` if it does not answer.
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
        answer = response.json()
    except (requests.RequestException, ValueError) as error:
        raise ServerUnreachable(
            f"{where} gave no answer: {error}. Start one: punctual serve {use_case}."
        ) from error
    if response.status_code == 200:
        return dict(answer)
    message = answer.get("message", response.text) if isinstance(answer, dict) else response.text
    raise (InvalidRequest if response.status_code in (413, 422) else ServerUnable)(
        f"{where} answered {response.status_code}: {message}"
    )
