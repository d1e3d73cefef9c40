"""A batch gives every request of a period the features that were known at its timestamp."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pyarrow.parquet as pq
import pytest

from inference.batch import batch, newest_batch
from inference.predict import Predictor, predict_rows
from inference.request_rows import checked_rows
from punctual.errors import InvalidRequest, NoChampion, NotBuilt
from punctual.home import Home
from stores.predictions import PredictionLog, logged_predictions
from stores.tables import known_events

NOW = datetime(2024, 2, 20, 12, 0, tzinfo=UTC)


def test_a_batch_predicts_every_request_of_its_period_once(domain, use_case):
    done = batch(domain, use_case, NOW)

    rows = pq.read_table(done.path)
    asked = known_events(
        domain, use_case.requests, as_of=NOW, since=NOW - timedelta(days=1), until=NOW
    )
    assert done.rows == rows.num_rows == asked.num_rows > 70
    assert rows["parcel"].to_pylist() == asked["parcel"].to_pylist()
    assert rows["event_timestamp"].to_pylist() == asked["event_timestamp"].to_pylist()
    assert (done.since, done.until, done.model_version) == (NOW - timedelta(days=1), NOW, "1")
    assert done.mean == pytest.approx(sum(rows["prediction"].to_pylist()) / done.rows)
    assert (
        done.decided
        == sum(rows["decision"].to_pylist())
        == sum(each >= 0.4 for each in rows["prediction"].to_pylist())
    )
    assert done.path.name == "20240219T120000Z-20240220T120000Z-v1.parquet"


def test_batch_and_online_agree_on_one_entity_at_one_time(domain, use_case):
    from pipelines.build import build
    from punctual.progress import Progress

    # The online store is as of the start of an hour in which parcels are booked, as after an
    # hourly run.
    build(domain, NOW + timedelta(hours=2), Progress(quiet=True))
    requests = known_events(
        domain,
        use_case.requests,
        as_of=NOW + timedelta(hours=2),
        since=NOW,
        until=NOW + timedelta(hours=1),
    )
    assert requests.num_rows >= 3
    predictor = Predictor.load(domain, use_case)
    names = list(predictor.row_model.model_fields)
    for request in requests.to_pylist():
        at = request["event_timestamp"]
        rows = checked_rows(predictor.row_model, [{name: request[name] for name in names}])
        predict_rows(
            predictor, rows, clock=lambda at=at: at, log=PredictionLog(Home.at(), use_case.name)
        )

    done = pq.read_table(batch(domain, use_case, NOW + timedelta(hours=1), since=NOW).path)
    online = logged_predictions(Home.at(), use_case.name)

    assert online["parcel"].to_pylist() == done["parcel"].to_pylist()
    for name in predictor.features.names:
        assert online[name].to_pylist() == done[name].to_pylist(), name
    # Features are equal bit for bit; a linear model's sum may be rounded differently for one row
    # than for many.
    assert online["prediction"].to_pylist() == pytest.approx(
        done["prediction"].to_pylist(), abs=1e-12
    )


def test_a_repeated_batch_changes_nothing_and_leaves_no_other_file(domain, use_case):
    first = batch(domain, use_case, NOW)
    before = pq.read_table(first.path)

    assert batch(domain, use_case, NOW) == first
    assert pq.read_table(first.path).equals(before)
    assert [path.name for path in first.path.parent.iterdir()] == [first.path.name]


def test_adjacent_periods_share_no_request(domain, use_case):
    middle = known_events(domain, use_case.requests, as_of=NOW)["event_timestamp"].to_pylist()[-40]

    early = batch(domain, use_case, middle, since=NOW - timedelta(days=1))
    late = batch(domain, use_case, NOW, since=middle)

    assert early.rows + late.rows == batch(domain, use_case, NOW).rows
    assert (
        newest_batch(Home.at(), use_case.name, "1", NOW).name
        == "20240219T120000Z-20240220T120000Z-v1.parquet"
    )
    assert newest_batch(Home.at(), use_case.name, "1", middle) == early.path
    assert newest_batch(Home.at(), use_case.name, "2", NOW) is None


def test_a_time_after_the_build_is_cut_to_it_and_a_much_later_one_refused(domain, use_case):
    ahead = batch(domain, use_case, NOW + timedelta(hours=3))
    assert (ahead.as_of, ahead.until) == (NOW + timedelta(hours=3), NOW)

    with pytest.raises(
        NotBuilt,
        match=r"are built until 2024-02-20T12:00:00Z, the batch begins after 2024-02-22T12:00:00Z;"
        r" run: punctual features build",
    ):
        batch(domain, use_case, NOW + timedelta(days=3))


def test_a_batch_of_a_past_time_uses_nothing_known_later(domain, use_case):
    then = NOW - timedelta(days=10)

    done = batch(domain, use_case, then)

    rows = pq.read_table(done.path)
    assert max(rows["event_timestamp"].to_pylist()) <= then
    last = max(
        each
        for each in rows["courier_deliveries__deliveries_count_24h"].to_pylist()
        if each is not None
    )
    assert last < 40


def test_a_period_without_requests_gives_an_empty_file_and_an_empty_period_none(domain, use_case):
    moments = known_events(domain, use_case.requests, as_of=NOW)["event_timestamp"].to_pylist()
    gap = next(
        later for earlier, later in pairwise(moments) if later - earlier > timedelta(minutes=10)
    )

    done = batch(domain, use_case, gap - timedelta(minutes=1), since=gap - timedelta(minutes=9))

    assert (done.rows, done.mean, done.decided) == (0, None, 0)
    assert pq.read_table(done.path).num_rows == 0
    with pytest.raises(InvalidRequest, match="is empty; choose an earlier --since"):
        batch(domain, use_case, NOW, since=NOW)


def test_a_regression_has_no_decision(domain):
    done = batch(domain, domain.use_cases["parcel_delay"], NOW)

    assert done.decided is None
    assert "decision" not in pq.read_table(done.path).column_names


def test_a_batch_without_a_champion_is_refused(home, domain, use_case, models):
    models.dethrone(use_case.name)
    with pytest.raises(NoChampion):
        batch(domain, use_case, NOW)
    models.promote(use_case.name, "1")


def test_a_batch_needs_no_feast_registry(home, domain, use_case):
    registered = batch(domain, use_case, NOW).path.read_bytes()
    (home / "registry.db").unlink()
    assert batch(domain, use_case, NOW).path.read_bytes() == registered
