"""The prediction log is append-only, complete and exact, and skips a torn last line."""

import math
import resource
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta

import pytest

from punctual.errors import BrokenTable, DataFolderError
from punctual.home import Home
from stores.predictions import LoggedPrediction, PredictionLog, json_value, logged_predictions
from stores.predictions.log import read_log

AT = datetime(2024, 2, 20, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("PUNCTUAL_HOME", str(tmp_path))
    return tmp_path


def prediction(number, at=AT, received=None, **features):
    return LoggedPrediction(
        prediction_id=f"id-{number}", use_case="late", at=at, received=received or at,
        model_name="late", model_version="1", feature_service="v1",
        row={"courier": "A", "route": number}, features=features, views={},
        prediction=0.25, decision=False,
    )  # fmt: skip


def ids(**bounds):
    return [found.prediction_id for found in read_log(Home.at(), "late", **bounds)]


def files(home):
    return sorted(home.glob("predictions/log/late/*/*.jsonl"))


def test_what_is_appended_is_read_back_exactly(own_home):
    values = {
        "a": 0.1 + 0.2,
        "b": 2**53 + 1,
        "c": None,
        "d": "text",
        "e": True,
        "f": 5e-324,
        "g": AT,
    }
    PredictionLog(Home.at(), "late").append([prediction(1, **values)])

    (found,) = read_log(Home.at(), "late")

    assert found.features == {**values, "g": "2024-02-20T12:00:00Z"}
    assert found.at == AT


def test_non_finite_numbers_are_read_back(own_home):
    PredictionLog(Home.at(), "late").append(
        [
            prediction(1, a=json_value(math.nan), b=json_value(math.inf), c=1.5),
            prediction(2, a=1.0, b=json_value(-math.inf), c=None),
        ]
    )

    table = logged_predictions(Home.at(), "late")

    assert table["b"].to_pylist() == [math.inf, -math.inf]
    assert math.isnan(table["a"].to_pylist()[0]) and table["a"].to_pylist()[1] == 1.0
    assert table["c"].to_pylist() == [1.5, None]


def test_a_request_is_one_append_and_each_process_has_its_own_file(own_home):
    first, second = PredictionLog(Home.at(), "late"), PredictionLog(Home.at(), "late")
    first.append([prediction(1), prediction(2)])
    second.append([prediction(3)])
    first.append([prediction(4)])

    assert len(files(own_home)) == 2
    assert sorted(ids()) == ["id-1", "id-2", "id-3", "id-4"]


def test_a_new_day_of_receipt_is_a_new_file(own_home):
    log = PredictionLog(Home.at(), "late")
    log.append([prediction(1, received=AT)])
    log.append([prediction(2, received=AT + timedelta(days=1))])

    assert [path.parent.name for path in files(own_home)] == ["2024-02-20", "2024-02-21"]


def test_the_torn_last_line_of_a_killed_process_is_left_out(own_home):
    PredictionLog(Home.at(), "late").append([prediction(1), prediction(2)])
    (path,) = files(own_home)
    path.write_bytes(path.read_bytes()[:-40])

    assert ids() == ["id-1"]


def test_any_other_broken_line_is_an_error(own_home):
    PredictionLog(Home.at(), "late").append([prediction(1), prediction(2)])
    (path,) = files(own_home)
    path.write_bytes(b"{}\n" + path.read_bytes())

    with pytest.raises(BrokenTable, match=r"line 1 of the prediction log .*jsonl cannot be read"):
        ids()


def test_a_period_excludes_since_and_includes_until(own_home):
    log = PredictionLog(Home.at(), "late")
    for hours in range(4):
        log.append([prediction(hours, at=AT + timedelta(hours=hours))])

    assert ids(since=AT, until=AT + timedelta(hours=2)) == ["id-1", "id-2"]


def test_a_prediction_for_midnight_that_was_received_earlier_is_found(own_home):
    midnight = datetime(2024, 2, 21, tzinfo=UTC)
    PredictionLog(Home.at(), "late").append(
        [prediction(1, at=midnight, received=midnight - timedelta(seconds=30))]
    )

    assert ids(since=midnight - timedelta(seconds=1)) == ["id-1"]


def test_a_full_disk_leaves_the_log_whole_and_appendable(own_home):
    # A limit on the size of files truncates a write as a full disk does. It is set in a child
    # process.
    program = f"""
        import resource, sys
        sys.path.insert(0, {str(sys.path[0])!r})
        from datetime import UTC, datetime
        from punctual.errors import DataFolderError
        from punctual.home import Home
        from stores.predictions import LoggedPrediction, PredictionLog
        at = datetime(2024, 2, 20, 12, tzinfo=UTC)
        def some(number, size):
            row = {{"text": "x" * size}}
            return [
                LoggedPrediction(
                    f"id-{{number}}", "late", at, at, "late", "1", "v1", row, {{}}, {{}}, 0.5, None
                )
            ]
        log = PredictionLog(Home.at(), "late")
        log.append(some(1, 100))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))
        try:
            log.append(some(2, 5_000))
        except DataFolderError as error:
            print("refused:", "only" in str(error))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        log.append(some(3, 5_000))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "refused: True\n"
    assert sorted(ids()) == ["id-1", "id-3"]
    assert all(path.read_bytes().endswith(b"\n") for path in files(own_home))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_log_that_cannot_be_written_is_an_error_with_what_to_do(own_home):
    (own_home / "predictions").mkdir()
    (own_home / "predictions" / "log").write_text("a file")

    with pytest.raises(DataFolderError, match="free space or fix the folder's permissions"):
        PredictionLog(Home.at(), "late").append([prediction(1)])


def test_an_empty_log_is_an_empty_table_with_its_columns(own_home):
    table = logged_predictions(Home.at(), "late")

    assert table.num_rows == 0
    assert {"prediction_id", "at", "prediction", "model_version"} <= set(table.column_names)
