"""A training run on the shops: registration, gate, rollback and the behaviour of the model."""

import json
import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from orchestration.cli import main
from punctual.errors import GateRefused, NoChampion, UnknownName
from punctual.home import Home
from punctual.model_card import decode_card, encode_card
from punctual.times import moment
from stores.models import aliases, artifact_folder, read_card
from training import publish
from training.__main__ import show_card
from training.run import raise_if_refused

GOLDEN = Path(__file__).parent.parent / "golden"


def test_the_first_model_that_beats_the_baselines_is_champion_with_a_full_card(
    first,
):
    assert first.promoted
    assert publish.champion_version(Home.at(), "next_sales") == "1"
    card = read_card(Home.at(), "next_sales", "1")
    assert card == first.card
    assert card.training_set.rows == sum(part.rows for part in card.split.values()) + 2 * 12
    assert card.split["train"].end == "2020-07-01T00:00:00Z"
    assert card.trained_until == "2020-08-01T00:00:00Z"
    assert [(each.kind, each.name) for each in card.definitions] == [
        ("feature service", "next_sales_v1"),
        ("view", "shop_sales"),
        ("view", "last_day"),
        ("request-time view", "shop_day"),
    ]
    assert {"xgboost", "scikit-learn", "feast"} <= set(card.libraries)

    folder = artifact_folder(Home.at(), "next_sales", card.run_id)
    assert {path.name for path in folder.iterdir()} == {
        "model",
        "model_card.json",
        "test_predictions.parquet",
        "reference.parquet",
        "feature_importance.png",
        "predicted_and_true.png",
    }
    tested = pq.read_table(folder / "test_predictions.parquet")
    assert tested.column_names == [
        "shop_id",
        "day",
        "event_timestamp",
        "label",
        "label_timestamp",
        "prediction",
    ]
    assert tested.num_rows == card.split["test"].rows


def test_the_card_is_the_reviewed_one(first):
    card = json.loads(encode_card(first.card))
    # Fields that differ by run, release or processor.
    card["run_id"], card["parameters"]["best_iteration"] = "…", 0
    card["libraries"] = dict.fromkeys(card["libraries"], "…")
    card["gate"]["message"] = re.sub(r"[\d.]+ rmse", "… rmse", card["gate"]["message"])
    card["parity_rows"] = card["parity_rows"][:1]
    for each in card["definitions"]:
        each["definition"] = ""  # Feast's bytes
    assert (
        json.dumps(rounded(card), indent=2, ensure_ascii=False) + "\n"
        == (GOLDEN / "model_card.json").read_text()
    )


def rounded(value):
    """Rounds numbers: the last bits of a sum differ between processors."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{round(value, 3) + 0.0:.2g}") if isinstance(value, float) else value


def test_the_printed_card_is_the_reviewed_one(capsys):
    show_card(decode_card((GOLDEN / "model_card.json").read_bytes()))
    assert capsys.readouterr().out == (GOLDEN / "model_card.txt").read_text()


def test_a_run_can_be_repeated_to_the_bit(first, fit):
    second = fit()
    assert first.card.training_set == second.card.training_set
    assert first.card.metrics == second.card.metrics
    assert first.card.parity_rows == second.card.parity_rows


def test_a_challenger_that_does_not_beat_the_champion_is_refused_and_stays_challenger(first, fit):
    worse = fit(parameters={"n_estimators": 1})
    assert not worse.promoted
    assert aliases(Home.at(), "next_sales") == {"champion": "1", "challenger": "2"}
    with pytest.raises(
        GateRefused, match=r"challenger 2 scored .* champion 1 scored .* Champion 1 unchanged\."
    ):
        raise_if_refused(Home.at(), worse)


def test_champion_and_challenger_are_scored_on_rows_after_the_training_of_both(built_shop, fit):
    fit(as_of=moment("2020-12-01"))
    early = fit()
    # The champion was trained until October 2nd; the earlier challenger has no later rows.
    assert early.verdict.rows == 0
    assert not early.promoted
    assert "only 0 rows are later than both models' training" in early.verdict.message


def test_a_rollback_makes_the_earlier_champion_champion_again(first, capsys):
    with pytest.raises(NoChampion, match="the first; no earlier champion exists"):
        publish.rollback(Home.at(), "next_sales")
    # The same model is registered again as the next version.
    again = read_card(Home.at(), "next_sales")
    publish.publish(Home.at(), again, publish.load_pipeline(Home.at(), again), [], {})
    publish.promote(Home.at(), "next_sales", again.version)
    assert main(["rollback", "next_sales", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"use_case": "next_sales", "from": "2", "to": "1"}
    assert publish.champion_version(Home.at(), "next_sales") == "1"
    with pytest.raises(NoChampion):
        publish.rollback(Home.at(), "next_sales")
    assert publish.rollback(Home.at(), "next_sales", "2") == ("1", "2")
    with pytest.raises(UnknownName, match="no version '9'"):
        publish.rollback(Home.at(), "next_sales", "9")


def test_predictions_grow_with_past_sales_and_do_not_depend_on_row_order(
    first,
):
    pipeline = publish.load_pipeline(Home.at(), first.card)
    tested = first.card.parity_rows
    frame = pd.DataFrame([row.features for row in tested]).astype(float)
    predicted = pipeline.predict(frame)
    assert pipeline.predict(frame[::-1])[::-1].tolist() == predicted.tolist()
    richer = frame.assign(**{name: frame[name] * 1.5 for name in frame.columns if "cents" in name})
    assert (pipeline.predict(richer) > predicted)[
        frame["shop_sales__cents_mean_28d"] < 150_000
    ].mean() >= 0.9


def test_nothing_is_written_outside_the_data_folder(trained_once):
    _, _, left_behind = trained_once
    assert left_behind == []


def test_a_card_that_was_written_is_read_back_the_same(trained_once):
    card = trained_once[1].card
    assert decode_card(encode_card(card)) == card
