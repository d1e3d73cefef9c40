"""Predictions on Redis equal those on SQLite and fail fast during an outage."""

import shutil
import time

import pytest

from inference.predict import Predictor, predict_rows
from inference.request_rows import checked_rows
from pipelines.materialize import materialize
from punctual.errors import PunctualError
from punctual.home import Home
from punctual.progress import Progress
from punctual.repository import feature_store, find_use_case
from stores.online import OnlineStoreUnavailable
from stores.predictions import PredictionLog

SQLITE = "  path: ${PUNCTUAL_HOME}/online.db\n"


@pytest.fixture
def on_redis(built, home, tmp_path, monkeypatch, redis_server):
    """The parcels domain with its online features on Redis; gives a predictor."""
    repository = tmp_path / "repository"
    shutil.copytree(built[0], repository, ignore=shutil.ignore_patterns("__pycache__"))
    settings = repository / "feature_store.yaml"
    text = settings.read_text()
    assert SQLITE in text
    settings.write_text(
        text.replace(SQLITE, f"  redis: {redis_server.url}\n  timeout_seconds: 1\n")
    )
    monkeypatch.setenv("PUNCTUAL_REPOSITORY", str(repository))
    domain, use_case = find_use_case(Home.at(), "parcel_lateness")
    materialize(feature_store(Home.at()), domain, domain.domain.demo_at, Progress(quiet=True))
    return Predictor.load(domain, use_case)


def answers(predictor, rows, at):
    log = PredictionLog(Home.at(), predictor.use_case.name)
    checked = checked_rows(predictor.row_model, rows)
    answer = predict_rows(predictor, checked, clock=lambda: at, at=at, log=log)
    log.close()
    return [
        (each.probability, each.decision, each.unknown, each.views) for each in answer.predictions
    ]


def test_predictions_equal_those_on_sqlite_and_an_outage_is_an_error_at_once(
    predictor, on_redis, row, redis_server
):
    at = on_redis.domain.domain.demo_at
    rows = [
        row(courier=courier, depot=depot, route=route)
        for courier in "ABZ"
        for depot in ("D1", None)
        for route in (1, 2, 9)
    ] * 3
    expected = answers(predictor, rows, at)
    assert answers(on_redis, rows, at) == expected
    redis_server.stop()
    started = time.monotonic()
    with pytest.raises(
        OnlineStoreUnavailable, match="Redis at 127.0.0.1:.* does not answer"
    ) as refused:
        answers(on_redis, rows, at)
    assert isinstance(refused.value, PunctualError)
    # No timeout was waited for; the margin is for a busy machine.
    assert time.monotonic() - started < 10
    redis_server.start()
    # Redis lost its data, which the next run writes again.
    materialize(feature_store(Home.at()), on_redis.domain, at, Progress(quiet=True))
    assert answers(on_redis, rows, at) == expected
