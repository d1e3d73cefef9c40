"""A training run on the shops: what is registered, what the gate and a rollback do, how a fitted model behaves."""

import json
import os

import pandas as pd
import pyarrow.parquet as pq
import pytest

from feature_repo.domains import feature_store, find_use_case
from feature_repo.errors import GateRefused, NoChampion, UnknownName
from feature_repo.model_card import decode_card
from feature_repo.times import moment
from orchestration.cli import main
from pipelines.materialize import apply_definitions
from training import publish
from training.progress import Progress
from training.run import raise_if_refused, train

AS_OF = moment("2020-10-01")


@pytest.fixture
def ready(built_shop):
    domain, use_case = find_use_case("next_sales")
    store = feature_store()
    apply_definitions(store, [domain])
    return store, domain, use_case


def fit(ready, as_of=AS_OF, **options):
    return train(*ready, as_of=as_of, progress=Progress(5, quiet=True), **options)


def test_the_first_model_that_beats_the_baselines_is_champion_and_its_card_says_what_it_rests_on(ready):
    done = fit(ready)
    assert done.promoted
    assert publish.champion_version("next_sales") == "1"
    card = publish.read_card("next_sales", "1")
    assert card == done.card
    assert card.training_set["rows"] == sum(part["rows"] for part in card.split.values()) + 2 * 12
    assert card.split["train"]["end"] == "2020-07-01T00:00:00Z"
    assert card.trained_until == "2020-08-01T00:00:00Z"
    assert set(card.view_fingerprints) == {"shop_sales", "last_day"}
    assert {"xgboost", "scikit-learn", "feast"} <= set(card.libraries)

    registry = publish.client()
    files = {file.path for file in registry.list_artifacts(card.run_id)}
    assert {"model_card.json", "test_predictions.parquet", "reference.parquet", "feature_importance.png", "predicted_and_true.png"} <= files
    tested = pq.read_table(registry.download_artifacts(card.run_id, "test_predictions.parquet"))
    assert tested.column_names == ["shop_id", "day", "event_timestamp", "label", "label_timestamp", "prediction"]
    assert tested.num_rows == card.split["test"]["rows"]


def test_a_run_can_be_repeated_to_the_bit(ready):
    first, second = fit(ready), fit(ready)
    assert first.card.training_set == second.card.training_set
    assert first.card.metrics == second.card.metrics
    assert first.card.parity_rows == second.card.parity_rows


def test_a_challenger_that_does_not_beat_the_champion_is_refused_and_stays_challenger(ready):
    fit(ready)
    worse = fit(ready, parameters={"n_estimators": 1})
    assert not worse.promoted
    assert publish.aliases("next_sales") == {"champion": "1", "challenger": "2"}
    with pytest.raises(GateRefused, match=r"challenger 2 scored .* champion 1 scored .* Champion 1 unchanged\."):
        raise_if_refused(worse)


def test_champion_and_challenger_are_judged_on_rows_later_than_both_their_training(ready):
    fit(ready, as_of=moment("2020-12-01"))
    early = fit(ready)
    # The champion was trained until October 2nd; the earlier challenger has no later rows to show.
    assert early.verdict.rows == 0
    assert not early.promoted
    assert "only 0 rows are later than both models' training" in early.verdict.message


def test_a_rollback_makes_the_earlier_champion_champion_again(ready, capsys):
    fit(ready)
    with pytest.raises(NoChampion, match="the first; there is no earlier one"):
        publish.rollback("next_sales")
    publish.promote("next_sales", fit(ready).card.version)
    assert main(["rollback", "next_sales", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"use_case": "next_sales", "from": "2", "to": "1"}
    assert publish.champion_version("next_sales") == "1"
    with pytest.raises(NoChampion):
        publish.rollback("next_sales")
    assert publish.rollback("next_sales", "2") == ("1", "2")
    with pytest.raises(UnknownName, match="no version '9'"):
        publish.rollback("next_sales", "9")


def test_the_model_predicts_more_for_a_shop_that_sold_more_and_the_same_whatever_the_order_of_rows(ready):
    done = fit(ready)
    pipeline = publish.load_pipeline("next_sales", done.card.version)
    tested = done.card.parity_rows
    frame = pd.DataFrame([row["features"] for row in tested]).astype(float)
    predicted = pipeline.predict(frame)
    assert pipeline.predict(frame[::-1])[::-1].tolist() == predicted.tolist()
    richer = frame.assign(**{name: frame[name] * 1.5 for name in frame.columns if "cents" in name})
    assert (pipeline.predict(richer) > predicted)[frame["shop_sales__cents_mean_28d"] < 150_000].mean() >= 0.9


def test_nothing_is_written_beside_the_data_folder(ready, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(os.listdir(tmp_path))
    fit(ready)
    assert set(os.listdir(tmp_path)) == before


def test_a_card_that_was_written_is_read_back_the_same(ready):
    from feature_repo.model_card import encode_card

    card = fit(ready).card
    assert decode_card(encode_card(card)) == card
