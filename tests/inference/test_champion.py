"""A champion is found, checked against its card, and predicts as it did at registration."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from inference.champion import champion_card, champion_version, load_champion, reference
from inference.predict import Predictor
from inference.request_rows import checked_rows
from punctual.errors import BrokenModel, NoChampion, StoreOutdated, UnknownName
from punctual.home import Home
from punctual.model_card import model_input
from stores.models import artifact_folder, registered_version

DEMO_AT = datetime(2024, 2, 20, 12, 0, tzinfo=UTC)


def test_the_champion_predicts_as_it_did_at_registration(domain, use_case):
    champion = load_champion(domain, use_case)

    rows = champion.card.parity_rows
    columns = {
        feature.name: [row.features[feature.name] for row in rows]
        for feature in champion.card.features
    }
    assert champion.card.version == "1"
    assert champion.predict(model_input(columns, champion.card.features)).tolist() == pytest.approx(
        [row.prediction for row in rows], abs=1e-12
    )


def test_without_a_model_registry_there_is_no_champion_and_no_registry_is_made(
    home, domain, use_case
):
    (home / "mlflow.db").unlink()

    with pytest.raises(
        NoChampion,
        match="use case 'parcel_lateness' has no champion yet; run: punctual train parcel_lateness",
    ):
        load_champion(domain, use_case)
    assert not (home / "mlflow.db").exists()


def test_a_model_without_the_alias_is_no_champion(domain, use_case, models):
    models.dethrone("parcel_lateness")

    with pytest.raises(NoChampion):
        champion_version(Home.at(), "parcel_lateness")
    assert load_champion(domain, use_case, "1").card.version == "1"


def test_a_given_version_is_loaded_and_an_unknown_one_named(domain, use_case, models):
    models.register_again("parcel_lateness")

    assert champion_version(Home.at(), "parcel_lateness") == "1"
    assert load_champion(domain, use_case, "2").card.version == "2"
    with pytest.raises(
        UnknownName, match=r"no version '9' in the model registry of 'parcel_lateness'. Known: 1, 2"
    ):
        load_champion(domain, use_case, "9")


def test_a_model_whose_predictions_differ_from_its_card_is_refused(domain, use_case, models):
    def raise_expectations(card):
        card.parity_rows[2].prediction += 2e-6

    version = models.register_again("parcel_lateness", raise_expectations)

    with pytest.raises(
        BrokenModel,
        match=r"version 2 of 'parcel_lateness' predicts 0\.\d+ where it predicted 0\.\d+ .*"
        r" libraries numpy 2\.",
    ):
        load_champion(domain, use_case, version)


def test_a_model_reads_the_definitions_it_was_trained_with(domain, use_case, row):
    bare = replace(domain, views={}, on_demand_views={}, services={})

    def predicted(loaded):
        predictor = Predictor.load(loaded, use_case)
        rows = checked_rows(predictor.row_model, [row()])
        values = predictor.read(rows, DEMO_AT)
        return predictor.predict(values).tolist(), values.columns

    assert predicted(bare) == predicted(domain)


def test_a_model_whose_views_are_gone_from_the_online_store_too_is_refused(home, domain, use_case):
    (home / "online.db").unlink()

    with pytest.raises(
        StoreOutdated,
        match=r"version 1 of 'parcel_lateness' was trained before feature service 'parcels_v1', .* "
        r"changed, and what it reads is not online: .*courier_deliveries",
    ):
        Predictor.load(replace(domain, views={}, on_demand_views={}, services={}), use_case)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model/model.pkl", "version 2 of 'parcel_lateness' cannot be loaded"),
        ("model_card.json", "version 2 of 'parcel_lateness' has no readable model_card.json"),
        ("reference.parquet", "version 2 of 'parcel_lateness' has no readable reference.parquet"),
    ],
)
@pytest.mark.parametrize("torn", [False, True])
def test_a_model_with_missing_or_truncated_files_is_broken(
    domain, use_case, models, file, message, torn
):
    version = models.register_again("parcel_lateness")
    run_id = registered_version(Home.at(), "parcel_lateness", version).run_id
    path = artifact_folder(Home.at(), "parcel_lateness", run_id) / file
    content = path.read_bytes()
    path.unlink()
    if torn:
        path.write_bytes(content[: len(content) // 2])

    with pytest.raises(BrokenModel, match=message):
        load_champion(domain, use_case, version)
        reference(Home.at(), champion_card(domain, use_case, version))


def test_the_reference_has_the_models_features_and_predictions(domain, use_case):
    card = champion_card(domain, use_case)

    rows = reference(Home.at(), card)

    assert {
        *(feature.name for feature in card.features),
        "prediction",
        "label",
        "event_timestamp",
    } <= set(rows.column_names)
