"""The parcels domain with two use cases, built, materialized and with registered models.

Each test works on its own copy of the data folder.
"""

import csv
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest

from punctual.home import Home

DEMO_AT = datetime(2024, 2, 20, 12, 0, tzinfo=UTC)

DOMAIN = Path(__file__).parent / "parcels" / "use_case.py"


def write_repository(folder):
    """Writes the feature repository, with 4,100 parcels of 51 days."""
    domain = folder / "parcels"
    domain.mkdir(parents=True)
    (domain / "__init__.py").touch()
    shutil.copy(DOMAIN, domain)
    shutil.copy(Path(__file__).parents[2] / "feature_repo" / "feature_store.yaml", folder)
    random = np.random.default_rng(7)
    start = datetime(2024, 1, 1)
    with (domain / "parcels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "parcel",
                "courier",
                "depot",
                "route",
                "weight_grams",
                "booked",
                "promised",
                "delivered",
                "service_class",
            ]
        )
        for parcel in range(4_100):
            booked = start + timedelta(seconds=int(parcel * 1_080 + random.integers(0, 900)))
            number = int(random.integers(0, 6))
            weight = int(random.integers(50, 9_000))
            promised = booked + timedelta(hours=20)
            delay = -90 + 35 * number + weight / 100 + random.normal(0, 60)
            delivered = (
                None
                if parcel % 97 == 0
                else promised + timedelta(minutes=int(np.clip(delay, -900, 900)))
            )
            depot = "" if parcel % 5 == 0 else f"D{int(random.integers(0, 3))}"
            kind = ("fast", "plain")[number % 2]
            writer.writerow(
                [
                    parcel,
                    "ABCDEF"[number],
                    depot,
                    int(random.integers(1, 5)),
                    weight,
                    booked,
                    promised,
                    delivered,
                    kind,
                ]
            )


@pytest.fixture(scope="session")
def built(once):
    """The feature repository and a data folder that is built and materialized as of `DEMO_AT`.

    Each use case has a champion. Tests read the folder and never change it.
    """
    folder = once("parcels_built", build_parcels)
    return folder / "repository", folder / "home"


def build_parcels(folder):
    repository, home = folder / "repository", folder / "home"
    write_repository(repository)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUNCTUAL_HOME", str(home))
        patch.setenv("PUNCTUAL_REPOSITORY", str(repository))
        from pipelines.build import build
        from pipelines.materialize import apply_definitions, materialize
        from punctual.progress import Progress
        from punctual.repository import feature_store, load_domain

        domain, quiet = load_domain(Home.at(), "parcels"), Progress(quiet=True)
        store = feature_store(Home.at())
        build(domain, DEMO_AT, quiet)
        apply_definitions(store, [domain])
        materialize(store, domain, DEMO_AT, quiet)
        for name in domain.use_cases:
            promote(name, train_and_register(store, domain, name))


def train_and_register(store, domain, name):
    """Fits a small model, registers it with card and reference; returns its version."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    from inference.features import OnlineFeatures
    from punctual.definitions import pinned_definitions
    from punctual.model_card import (
        PREDICTION_COLUMN,
        REFERENCE_FILE,
        Metrics,
        ModelCard,
        ParityRow,
        TrainingSetManifest,
        Verdict,
        model_features,
        model_input,
    )
    from punctual.plain import plain
    from stores.offline import historical_features
    from stores.tables import known_events
    from training.publish import publish

    use_case = domain.use_cases[name]
    requests = known_events(
        domain, use_case.requests, as_of=DEMO_AT, until=DEMO_AT - timedelta(days=5)
    )
    labels = {
        row["parcel"]: row
        for row in known_events(domain, use_case.label.of, as_of=DEMO_AT).to_pylist()
    }
    requests = requests.filter(
        pa.array(
            [
                labels[parcel][use_case.label.column] is not None
                for parcel in requests["parcel"].to_pylist()
            ]
        )
    )
    label = np.array(
        [float(labels[parcel][use_case.label.column]) for parcel in requests["parcel"].to_pylist()]
    )
    entity_rows = requests.drop_columns(["created_timestamp"]).append_column(
        "at", requests["event_timestamp"]
    )
    rows = historical_features(
        store, entity_rows, store.get_feature_service(use_case.feature_service), as_of=DEMO_AT
    )
    features = model_features(rows, OnlineFeatures(domain, use_case, store=store).names)
    numbers = [each.name for each in features if each.kind == "number"]
    categories = [each.name for each in features if each.kind == "category"]
    prepare = ColumnTransformer(
        [
            (
                "numbers",
                make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler()),
                numbers,
            ),
            ("categories", OneHotEncoder(handle_unknown="ignore"), categories),
        ]
    )
    model = LogisticRegression() if use_case.task == "binary" else Ridge()
    pipeline = Pipeline([("prepare", prepare), ("model", model)]).fit(
        model_input(rows, features), label
    )
    inputs = model_input(rows, features)
    predictions = (
        pipeline.predict_proba(inputs)[:, 1]
        if use_case.task == "binary"
        else pipeline.predict(inputs)
    )
    parity = [
        ParityRow(plain(row), float(each))
        for row, each in zip(inputs[:5].to_dict("records"), predictions, strict=False)
    ]
    test_score = {"roc_auc": 0.7} if use_case.task == "binary" else {"rmse": 90.0}
    card = ModelCard(
        use_case=name, description=use_case.description, task=use_case.task, version="", run_id="",
        as_of="2024-02-20T12:00:00Z", trained_until="2024-02-15T12:00:00Z",
        feature_service=use_case.feature_service,
        definitions=pinned_definitions(domain, use_case.feature_service), features=features,
        label=use_case.label.column, label_horizon="48h", threshold=use_case.threshold,
        metric=use_case.metric,
        training_set=TrainingSetManifest("2024-02-20T12:00:00Z", {}, rows.num_rows, "", {}),
        split={}, parameters={}, metrics={"test": Metrics(rows.num_rows, **test_score)},
        baselines={}, gate=Verdict(True, "", use_case.metric, 0.0, {}, None, 0),
        libraries={"numpy": "2"}, parity_rows=parity, limits="",
    )  # fmt: skip
    reference = rows.append_column("label", pa.array(label)).append_column(
        PREDICTION_COLUMN, pa.array(predictions)
    )
    with TemporaryDirectory() as folder:
        file = Path(folder) / REFERENCE_FILE
        pq.write_table(reference, file)
        publish(domain.home, card, pipeline, [file], {})
    return card.version


def register_again(use_case, change=lambda card: None):
    """Registers the champion's model again with a changed card; returns the new version."""
    from punctual.model_card import REFERENCE_FILE
    from stores.models import artifact_folder, read_card
    from training.publish import load_pipeline, publish

    home = Home.at()
    card = read_card(home, use_case)
    pipeline = load_pipeline(home, card)
    reference = artifact_folder(home, use_case, card.run_id) / REFERENCE_FILE
    change(card)
    publish(home, card, pipeline, [reference], {})
    return card.version


def promote(use_case, version):
    from training.publish import promote

    promote(Home.at(), use_case, version)


def dethrone(use_case):
    from stores.models import model_registry

    with model_registry(Home.at()) as registry:
        registry.delete_registered_model_alias(use_case, "champion")


@pytest.fixture
def home(built, tmp_path, monkeypatch, copy_home):
    """A copy of the built data folder that only this test uses."""
    repository, original = built
    copy = tmp_path / "home"
    copy_home(original, copy)
    monkeypatch.setenv("PUNCTUAL_HOME", str(copy))
    monkeypatch.setenv("PUNCTUAL_REPOSITORY", str(repository))
    return copy


@pytest.fixture
def domain(home):
    from punctual.repository import load_domain

    return load_domain(Home.at(), "parcels")


@pytest.fixture
def use_case(domain):
    return domain.use_cases["parcel_lateness"]


@pytest.fixture
def predictor(domain, use_case):
    from inference.predict import Predictor

    return Predictor.load(domain, use_case)


@pytest.fixture
def models():
    """Functions that register another version of the champion's model and move its alias."""
    return SimpleNamespace(register_again=register_again, promote=promote, dethrone=dethrone)


@pytest.fixture
def row():
    """Makes a valid request row; a column set to `...` is left out."""

    def make(**changes):
        whole = {
            "courier": "A",
            "depot": "D1",
            "route": 2,
            "weight_grams": 2_500,
            "promised": "2024-02-21T08:00:00Z",
            **changes,
        }
        return {name: value for name, value in whole.items() if value is not ...}

    return make


@pytest.fixture
def punctual(home):
    """Starts `python -m inference …` on the test's data folder; kills it after the test."""
    started = []

    def start(*arguments):
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PYTHONUNBUFFERED": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "inference", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
