"""A report shows what it judged, what needs attention and what it could not judge."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from inference.batch import batch
from inference.monitoring.drift import LEAST_ROWS
from inference.monitoring.report import monitor
from inference.request_rows import checked_rows
from punctual.errors import InvalidRequest, NoChampion
from punctual.home import Home
from stores.online import view_freshness
from stores.predictions import PredictionLog
from stores.tables import known_events

NOW = datetime(2024, 2, 20, 12, 0, tzinfo=UTC)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def log_predictions(predictor, domain, use_case):
    """Logs predictions for the last requests, as if each was predicted at its own timestamp."""

    def log(count, change=lambda row: row):
        requests = known_events(domain, use_case.requests, as_of=NOW).to_pylist()[-count:]
        names = list(predictor.row_model.model_fields)
        rows = checked_rows(
            predictor.row_model,
            [change({name: request[name] for name in names}) for request in requests[:1_000]],
        )
        fresh = predictor.freshness()
        values = predictor.read(rows, NOW)
        predictions = predictor.predict(values)
        made = predictor.records(rows, values, predictions, at=NOW, received=NOW, fresh=fresh)
        times = [request["event_timestamp"] for request in requests]
        PredictionLog(Home.at(), use_case.name).append(
            [
                msgspec.structs.replace(each, at=at, received=at)
                for each, at in zip(made, times, strict=True)
            ]
        )

    return log


def test_with_nothing_to_judge_the_report_says_so_and_raises_no_alarm(domain, use_case):
    report = monitor(domain, use_case, as_of=NOW)

    assert (report.source, report.rows, report.reasons) == ("nothing", 0, [])
    assert report.notes[0] == (
        "version 1 has 0 logged predictions in (2024-02-13T12:00:00Z, 2024-02-20T12:00:00Z] and no"
        " batch; "
        "run: punctual batch parcel_lateness, or predict"
    )
    assert [path.name for path in report.files] == ["report.json"]


def test_too_few_predictions_are_no_drift(domain, use_case, log_predictions):
    log_predictions(20, lambda row: {**row, "weight_grams": 1_000_000})

    report = monitor(domain, use_case, as_of=NOW)

    assert (
        report.source,
        report.rows,
        report.prediction_drift,
        report.data_drift,
        report.reasons,
    ) == ("log", 20, None, [], [])
    assert f"drift needs {LEAST_ROWS}" in report.notes[0]


def test_with_too_few_logged_predictions_the_last_batch_is_judged(
    domain, use_case, log_predictions
):
    log_predictions(20)
    batch(domain, use_case, NOW, since=NOW - timedelta(days=8))

    report = monitor(domain, use_case, as_of=NOW)

    assert report.source == "batch" and report.rows > LEAST_ROWS
    assert len(report.data_drift) == 12
    assert report.live.rows > 300 and report.live.score is not None
    assert report.live.left_out["waiting for the label"] > 100
    assert "its last batch is evaluated instead" in report.notes[0]


def test_training_rows_need_no_attention_and_are_plotted(domain, use_case):
    batch(domain, use_case, NOW, since=NOW - timedelta(days=20))

    report = monitor(domain, use_case, as_of=NOW)

    assert report.reasons == []
    assert [path.name for path in report.files] == [
        "report.json",
        "predictions.png",
        "data_drift.png",
        "features.png",
        "live.png",
    ]
    assert all(path.read_bytes().startswith(PNG) for path in report.files[1:])
    written = json.loads(report.files[0].read_text())
    assert (written["as_of"], written["reasons"], written["files"][1]) == (
        "2024-02-20T12:00:00Z",
        [],
        "predictions.png",
    )
    assert (
        len(written["data_drift"]) == 12
        and written["freshness"][0]["built_until"] == "2024-02-20T12:00:00Z"
    )


def test_drifted_inputs_and_predictions_need_attention(domain, use_case, log_predictions):
    log_predictions(900, lambda row: {**row, "weight_grams": 60_000})

    report = monitor(domain, use_case, as_of=NOW, since=NOW - timedelta(days=30))

    assert (report.source, report.rows) == ("log", 900)
    assert any(reason.startswith("predictions have drifted: PSI ") for reason in report.reasons)
    assert any(
        "features have drifted, most of all parcel_request_features__" in reason
        for reason in report.reasons
    )
    assert report.data_drift[0].verdict == "large"


def test_predictions_of_other_versions_are_left_out(domain, use_case, log_predictions, models):
    log_predictions(30)
    models.promote(use_case.name, models.register_again(use_case.name))

    report = monitor(domain, use_case, as_of=NOW)

    assert (report.model_version, report.rows) == ("2", 0)
    assert "version 2 has 0 logged predictions (30 by other versions)" in report.notes[0]


def test_a_view_needs_attention_once_newer_values_are_due(domain, use_case):
    due = NOW + timedelta(minutes=65)

    assert monitor(domain, use_case, as_of=due - timedelta(microseconds=1)).reasons == []
    (reason,) = monitor(domain, use_case, as_of=due + timedelta(hours=2)).reasons
    assert reason.startswith("4 of 4 views are stale, ") and reason.endswith(" by 2h")


def test_a_view_that_was_never_built_is_not_fresh(domain, predictor, tmp_path):
    views = [view.online for view in predictor.features.views]
    elsewhere = replace(domain, home=Home.at(tmp_path / "nowhere"))

    found = view_freshness(elsewhere, predictor.features.database, views)

    assert all(
        (each.built_until, each.materialized_until, each.is_stale(NOW)) == (None, None, True)
        for each in found.values()
    )
    assert all(each.behind(NOW) == timedelta(0) for each in found.values())


def test_a_report_on_no_time_and_one_without_a_champion_are_refused(domain, use_case, models):
    with pytest.raises(InvalidRequest, match="is empty; choose an earlier --since"):
        monitor(domain, use_case, as_of=NOW, since=NOW)
    models.dethrone(use_case.name)
    with pytest.raises(NoChampion):
        monitor(domain, use_case, as_of=NOW)


def test_a_report_replaces_the_report_and_plots_of_the_same_time(home, domain, use_case):
    folder = home / "reports" / "parcel_lateness" / "20240220T120000Z"
    folder.mkdir(parents=True)
    (folder / "live.png").write_bytes(b"of an earlier report")

    assert (
        monitor(domain, use_case, as_of=NOW).files
        == list(folder.iterdir())
        == [folder / "report.json"]
    )
