"""The prediction API: requests are validated whole; predictions are logged before the answer.

`POST /predict` takes `{"use_case": …, "at": …, "rows": [{…}, …]}`. `use_case` may be omitted if the
server has a single use case. `at` is the prediction moment, by default the time of receipt. A
moment ahead of the server's clock is refused. A past moment is refused unless the online store
still has the values of that moment. Each row has the join keys, the request columns and,
optionally, the request's ids, which are returned and logged.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import msgspec
from fastapi import Body, FastAPI, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, create_model

from inference.api.error_responses import PROBLEM_SCHEMA, LimitedBody, add_refusals, described
from inference.api.loaded_models import CHECK_SECONDS, Serving
from inference.features import OnlineFeatures
from inference.json_types import MAX_ROWS, Moment
from inference.predict import Answer, predict_rows
from inference.request_rows import row_columns, row_model
from punctual.errors import InvalidRequest, NotBuilt, PunctualError, unknown_name
from punctual.loaded_domain import LoadedDomain
from punctual.model_card import encode_card
from punctual.times import assume_utc, iso
from punctual.use_case import UseCase
from stores.tables import known_events

# With more rows than this, predicting takes longer than the switch to a worker thread.
_ROWS_INLINE = 32
_PLACEHOLDERS = {
    "boolean": True,
    "integer": 1,
    "decimal": 1.5,
    "float": 1.5,
    "date": "2013-12-05",
    "time": "20:15:00",
}


def create_app(
    use_cases: Sequence[tuple[LoadedDomain, UseCase]],
    clock: Callable[[], datetime],
    *,
    check_every: float = CHECK_SECONDS,
    after_refresh: Callable[[], None] | None = None,
) -> FastAPI:
    """The application that serves the use cases; `clock` returns aware UTC.

    Once started, it loads the champions in the background, checks for a new champion every
    `check_every` seconds, and calls `after_refresh` after each check.
    """
    serving = Serving(use_cases)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        serving.start(check_every, after_refresh)
        yield
        await run_in_threadpool(serving.stop)

    description = "; ".join(
        f"**{use_case.name}**: {use_case.description}" for _, use_case in use_cases
    )
    app = FastAPI(
        title="Punctual predictions",
        description=description,
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(LimitedBody)
    app.state.serving = serving
    add_refusals(
        app,
        [
            column.name
            for domain, use_case in use_cases
            for column in row_columns(OnlineFeatures(domain, use_case))
        ],
    )
    _add_predict(app, serving, clock)
    _add_information(app, serving, clock)
    _add_docs(app)
    return app


def _add_predict(app: FastAPI, serving: Serving, clock: Callable[[], datetime]) -> None:
    only = len(serving.use_cases) == 1
    models = [
        _request_model(domain, use_case, clock(), only=only)
        for domain, use_case in serving.use_cases.values()
    ]
    schemas, components = msgspec.json.schema_components(
        [Answer], ref_template="#/components/schemas/{name}"
    )

    def answer(body: Any) -> bytes:
        served = serving.served(body.use_case)
        rows = [dict(row) for row in body.rows]
        log = serving.logs[body.use_case]
        return msgspec.json.encode(
            predict_rows(
                served.predictor, rows, clock=clock, at=body.at, log=log, fresh=served.fresh
            )
        )

    async def predict(body: Any) -> Response:
        done = (
            answer(body)
            if len(body.rows) <= _ROWS_INLINE
            else await run_in_threadpool(answer, body)
        )
        return Response(done, media_type="application/json")

    # The body's model is built from the domain's declarations, so the signature cannot name it.
    predict.__annotations__["body"] = (
        models[0]
        if len(models) == 1
        else Annotated[Union[tuple(models)], Body(discriminator="use_case")]  # noqa: UP007
    )
    app.post(
        "/predict",
        summary="Predict for one or many rows",
        description=(__doc__ or "").split("\n\n", 1)[1],
        responses={
            200: {
                "description": "One prediction per row, in the order of the rows",
                "content": {"application/json": {"schema": schemas[0]}},
            },
            413: described("The request has too many rows or bytes"),
            422: described(
                "A field is missing, of the wrong type or unknown, or no values are available for"
                " the moment"
            ),
            503: described(
                "No champion, features that are not online, or a prediction log that cannot be"
                " written"
            ),
        },
    )(predict)
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        document["components"]["schemas"].update(components, Problem=PROBLEM_SCHEMA)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _request_model(
    domain: LoadedDomain, use_case: UseCase, now: datetime, *, only: bool
) -> type[BaseModel]:
    """The typed body of a use case's requests, with a known request as the example."""
    features = OnlineFeatures(domain, use_case)
    model = row_model(features)
    example: Any = {"use_case": use_case.name, "rows": [_example(domain, features, now)]}
    named: Any = Literal[use_case.name]  # type: ignore[valid-type]
    fields: dict[str, Any] = {
        "use_case": (named, Field(use_case.name, description="The use case"))
        if only
        else (named, Field(description="The use case")),
        "at": (
            Moment | None,
            Field(
                None,
                description="The prediction moment, ISO 8601 with a time zone; by default the time"
                " of receipt",
            ),
        ),
        "rows": (
            Annotated[list[model], Field(min_length=1, max_length=MAX_ROWS)],  # type: ignore[valid-type]
            Field(description=f"1 to {MAX_ROWS} rows"),
        ),
    }
    title = model.__name__.removesuffix("Row")
    return create_model(
        f"{title}Request",
        __config__=ConfigDict(extra="forbid", json_schema_extra={"example": example}),
        **fields,
    )


def _example(domain: LoadedDomain, features: OnlineFeatures, now: datetime) -> dict[str, Any]:
    """The newest known request of the last 30 days, or placeholder values if there is none."""
    try:
        known = known_events(
            domain, features.use_case.requests, as_of=now, since=now - timedelta(days=30), until=now
        )
    except NotBuilt:
        known = None
    newest = (
        known.slice(known.num_rows - 1).to_pylist()[0]
        if known is not None and known.num_rows
        else {}
    )
    example: dict[str, Any] = {}
    for column in row_columns(features):
        placeholder = (
            iso(now)
            if column.type.kind == "timestamp"
            else _PLACEHOLDERS.get(column.type.kind, "A")
        )
        value = newest.get(column.name, placeholder)
        example[column.name] = iso(assume_utc(value)) if isinstance(value, datetime) else value
    return example


def _add_information(app: FastAPI, serving: Serving, clock: Callable[[], datetime]) -> None:
    @app.get("/", summary="The addresses of this server")
    async def addresses() -> dict[str, Any]:
        return {
            "use_cases": list(serving.use_cases),
            "clock": iso(clock()),
            "predict": "POST /predict",
            "model": "/model",
            "health": ["/livez", "/readyz"],
            "documentation": "/docs",
        }

    @app.get("/livez", summary="Whether the process is alive")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get(
        "/readyz",
        summary="Whether every use case can be served",
        responses={503: {"description": "What is missing"}},
    )
    async def readyz() -> Response:
        loaded = {name: _version(serving, name) for name in serving.use_cases}
        problems = {name: str(problem) for name, problem in serving.problems.items()}
        state = "ready" if serving.is_ready else "not ready"
        body = {
            "status": state,
            "champions": loaded,
            "problems": problems,
            "damaged_records": serving.damaged_records,
        }
        return Response(
            msgspec.json.encode(body),
            200 if serving.is_ready else 503,
            media_type="application/json",
        )

    refusals: dict[int | str, dict[str, Any]] = {
        422: described("Unknown use case"),
        503: described("No champion"),
    }

    @app.get("/model", summary="The model card of a use case's champion", responses=refusals)
    async def model(use_case: str | None = None) -> Response:
        if use_case is None and len(serving.use_cases) > 1:
            raise InvalidRequest(
                "several use cases are served; name one:"
                f" /model?use_case={next(iter(serving.use_cases))}."
            )
        name = use_case or next(iter(serving.use_cases))
        if name not in serving.use_cases:
            raise InvalidRequest(unknown_name("use case", name, serving.use_cases, "this server"))
        return Response(
            encode_card(serving.served(name).predictor.champion.card), media_type="application/json"
        )


def _add_docs(app: FastAPI) -> None:
    page = (Path(__file__).parent / "docs.html").read_bytes()
    # FastAPI's own page loads scripts from a CDN. This page needs no other host, and its policy
    # forbids any.
    policy = (
        "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src"
        " 'unsafe-inline'; img-src data:"
    )

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": policy})


def _version(serving: Serving, use_case: str) -> str | None:
    try:
        return serving.served(use_case).predictor.champion.card.version
    except PunctualError:
        return None
