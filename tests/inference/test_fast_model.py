"""The fast model equals the registered pipeline bit for bit, or is not used."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from xgboost import XGBClassifier, XGBRegressor

from inference.champion import Champion, load_champion, reference
from inference.fast import pipeline as fast_model
from inference.fast.parity import difference, parity_inputs
from inference.fast.pipeline import FEW_ROWS, FastModel
from inference.fast.trees import Trees
from punctual.errors import BrokenModel
from punctual.home import Home
from punctual.model_card import REFERENCE_FILE, ModelFeature, model_input
from stores.models import artifact_folder, read_card
from training.fit import fit, fit_baselines
from training.publish import publish

NUMBERS, CATEGORIES = ["delay", "distance", "hour", "wind"], ["maker", "engine"]
FEATURES = [
    *(ModelFeature(name, "number") for name in NUMBERS[:2]),
    *(ModelFeature(name, "category") for name in CATEGORIES),
    *(ModelFeature(name, "number") for name in NUMBERS[2:]),
]
# "tiny" and "rare" are too infrequent for their own code.
MAKERS, ENGINES = ["big", "small", "tiny", "rare", None], ["jet", "prop"]
SMALL = {
    "n_estimators": 80,
    "min_child_weight": 2,
    "early_stopping_rounds": 8,
    "learning_rate": 0.2,
    "max_depth": 9,
    "subsample": 0.6,
    "colsample_bytree": 0.25,
    "reg_lambda": 5.0,
    "max_bin": 128,
}


def made_inputs(rows, seed):
    random = np.random.default_rng(seed)
    frame = {name: random.normal(100, 30, rows) for name in NUMBERS}
    frame["delay"][random.random(rows) < 0.2] = np.nan
    frame["hour"] = np.floor(frame["hour"])
    maker = random.choice(np.array(MAKERS, object), rows, p=[0.5, 0.3, 0.004, 0.004, 0.192])
    engine = random.choice(np.array(ENGINES, object), rows)
    columns = {**frame, "maker": maker, "engine": engine}
    return pd.DataFrame({feature.name: columns[feature.name] for feature in FEATURES})


def made_labels(inputs, seed):
    random = np.random.default_rng(seed)
    delay, maker = inputs["delay"].fillna(60).to_numpy(), (inputs["maker"] == "big").to_numpy()
    return (
        delay / 10
        + 4 * maker
        + (inputs["engine"] == "jet").to_numpy()
        + random.normal(0, 2, len(inputs))
    )


def parts(task, rows=3_000):
    found = {}
    for seed, name in enumerate(("train", "validation")):
        inputs = made_inputs(rows, seed)
        labels = made_labels(inputs, seed)
        found[name] = SimpleNamespace(
            inputs=inputs, labels=(labels > 12).astype(float) if task == "binary" else labels
        )
    return found


def card(task, features=FEATURES):
    return SimpleNamespace(task=task, features=features, parity_rows=[])


@pytest.fixture(scope="module")
def trained():
    """For each task a pipeline as training makes it, with its fast model."""
    found = {}
    for task in ("binary", "regression"):
        pipeline = fit(SimpleNamespace(task=task), FEATURES, parts(task), SMALL)
        found[task] = SimpleNamespace(pipeline=pipeline, fast=FastModel.of(card(task), pipeline))
    return found


def registered(task, pipeline, frame):
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # scikit-learn's, which adds up huge numbers to see whether all are finite
        return Champion(card(task), pipeline).predict_registered(frame)


def columns(frame, features=FEATURES):
    numbers = frame[[each.name for each in features if each.kind == "number"]].to_numpy(np.float64)
    return numbers, [frame[each.name].tolist() for each in features if each.kind == "category"]


def one_by_one(fast, numbers, categories):
    return np.concatenate(
        [
            fast.predict(numbers[at : at + 1], [each[at : at + 1] for each in categories])
            for at in range(len(numbers))
        ]
    )


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_every_call_gives_the_bits_of_the_pipeline(trained, task):
    frame = made_inputs(400, seed=9)
    fast, numbers, categories = trained[task].fast, *columns(frame)

    expected = registered(task, trained[task].pipeline, frame)

    assert fast._trees is not None
    assert trained[task].pipeline.named_steps["model"].best_iteration < SMALL["n_estimators"] - 1
    assert fast.predict(numbers, categories).tobytes() == expected.tobytes()
    assert one_by_one(fast, numbers, categories).tobytes() == expected.tobytes()
    for few in (2, FEW_ROWS, FEW_ROWS + 1):
        assert (
            fast.predict(numbers[:few], [each[:few] for each in categories]).tobytes()
            == expected[:few].tobytes()
        )


number = st.one_of(
    st.floats(allow_infinity=False),
    st.floats(0, 200),
    st.sampled_from([np.nan, 0.0, -0.0, 1e300, -1e300, 1.7e308, -1.7e308, 5e-324]),
)
row = st.fixed_dictionaries(
    {
        **dict.fromkeys(NUMBERS, number),
        "maker": st.one_of(st.sampled_from([*MAKERS, "", "unheard of"]), st.text(max_size=3)),
        "engine": st.sampled_from([*ENGINES, None, "jets"]),
    }
)


@pytest.mark.parametrize("task", ["binary", "regression"])
@settings(max_examples=60, deadline=None)
@given(rows=st.lists(row, min_size=1, max_size=6))
def test_odd_rows_are_predicted_as_the_pipeline_does(trained, task, rows):
    names = [feature.name for feature in FEATURES]
    frame = pd.DataFrame(
        {
            name: np.array([each[name] for each in rows], object if name in CATEGORIES else float)
            for name in names
        }
    )
    fast, numbers, categories = trained[task].fast, *columns(frame)

    expected = registered(task, trained[task].pipeline, frame)

    assert fast.predict(numbers, categories).tobytes() == expected.tobytes()
    assert one_by_one(fast, numbers, categories).tobytes() == expected.tobytes()
    many = FEW_ROWS + 1
    tiled = fast.predict(
        np.repeat(numbers[:1], many, axis=0), [each[:1] * many for each in categories]
    )
    assert tiled.tobytes() == expected[:1].tobytes() * many


@pytest.mark.parametrize("infinite", [np.inf, -np.inf])
def test_an_infinite_number_is_refused_as_the_pipeline_does(trained, infinite):
    frame = made_inputs(3, seed=1)
    frame.loc[1, "wind"] = infinite

    with pytest.raises(ValueError, match="infinity"):
        registered("binary", trained["binary"].pipeline, frame)
    with pytest.raises(ValueError, match="infinite"):
        trained["binary"].fast.predict(*columns(frame))


def test_no_rows_give_no_predictions(trained):
    assert trained["binary"].fast.predict(np.empty((0, 4)), [[], []]).tolist() == []
    assert (
        Champion(card("binary"), trained["binary"].pipeline)
        .predict_matrix(np.empty((0, 4)), [[], []])
        .tolist()
        == []
    )


def test_the_cards_order_of_features_is_kept(trained):
    turned = FEATURES[::-1]
    fast = FastModel.of(card("binary", turned), trained["binary"].pipeline)
    frame = made_inputs(50, seed=3)

    assert (
        fast.predict(*columns(frame, turned)).tobytes()
        == registered("binary", trained["binary"].pipeline, frame).tobytes()
    )


def test_infrequent_unknown_and_missing_categories_have_the_encoders_codes(trained):
    encode = trained["binary"].pipeline.named_steps["preprocess"].named_transformers_["categories"]
    maker, engine = trained["binary"].fast._codes

    assert maker.known["tiny"] == maker.known["rare"] == 3.0
    assert (maker.unknown, engine.unknown) == (-1.0, -1.0)
    asked = pd.DataFrame(
        {"maker": ["big", "tiny", None, "unheard of"], "engine": ["jet", "prop", None, "jets"]},
        dtype=object,
    )
    assert encode.transform(asked).tolist() == [
        [maker.known.get(one, maker.unknown), engine.known.get(other, engine.unknown)]
        for one, other in asked.to_numpy().tolist()
    ]


@pytest.mark.parametrize("kept", [NUMBERS, CATEGORIES])
def test_a_model_of_only_numbers_or_only_categories_is_fast(kept):
    features = [feature for feature in FEATURES if feature.name in kept]
    dealt = parts("regression", 500)
    for part in dealt.values():
        part.inputs = part.inputs[[feature.name for feature in features]]
    pipeline = fit(SimpleNamespace(task="regression"), features, dealt, SMALL)
    frame = dealt["validation"].inputs

    predicted = FastModel.of(card("regression", features), pipeline).predict(
        *columns(frame, features)
    )

    assert predicted.tobytes() == registered("regression", pipeline, frame).tobytes()


def pipeline_of(encode=None, scale=None, model=None, remainder="drop", numbers=NUMBERS):
    prepare = ColumnTransformer(
        [
            ("numbers", scale or StandardScaler(), numbers),
            (
                "categories",
                encode or OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
                CATEGORIES,
            ),
        ],
        remainder=remainder,
    )
    return Pipeline([("preprocess", prepare), ("model", model or XGBRegressor(n_estimators=5))])


UNLIKE = {
    "one-hot": lambda: pipeline_of(encode=OneHotEncoder(handle_unknown="ignore")),
    "unknown categories are an error": lambda: pipeline_of(encode=OrdinalEncoder()),
    "not centred": lambda: pipeline_of(scale=StandardScaler(with_mean=False)),
    "not scaled": lambda: pipeline_of(scale=StandardScaler(with_std=False)),
    "a feature passed through": lambda: pipeline_of(numbers=NUMBERS[1:], remainder="passthrough"),
    "a feature dropped": lambda: pipeline_of(numbers=NUMBERS[1:]),
    "another link": lambda: pipeline_of(
        model=XGBRegressor(n_estimators=5, objective="reg:absoluteerror")
    ),
    "dart": lambda: pipeline_of(model=XGBRegressor(n_estimators=5, booster="dart")),
    "missing is a number": lambda: pipeline_of(model=XGBRegressor(n_estimators=5, missing=-2.0)),
}


@pytest.mark.parametrize("unlike", UNLIKE)
def test_a_pipeline_of_another_shape_is_used_as_it_is(unlike):
    part = parts("regression", 400)["train"]
    inputs = part.inputs.fillna({"maker": "none"})
    pipeline = UNLIKE[unlike]().fit(inputs, part.labels)

    assert FastModel.of(card("regression"), pipeline) is None
    champion = Champion(card("regression"), pipeline)
    assert (
        champion.predict_matrix(*columns(inputs)).tobytes()
        == pipeline.predict(inputs).astype(float).tobytes()
    )


def test_three_classes_another_task_or_no_pipeline_are_unsupported(trained):
    part = parts("regression", 400)["train"]
    classes = pipeline_of(model=XGBClassifier(n_estimators=3)).fit(
        part.inputs, np.digitize(part.labels, [8, 12])
    )

    assert FastModel.of(card("binary"), classes) is None
    assert FastModel.of(card("regression"), trained["binary"].pipeline) is None
    assert FastModel.of(card("binary", FEATURES[:-1]), trained["binary"].pipeline) is None
    assert FastModel.of(card("binary"), trained["binary"].pipeline.named_steps["model"]) is None
    for baseline in fit_baselines(SimpleNamespace(task="regression"), FEATURES, part).values():
        assert FastModel.of(card("regression"), baseline) is None


@pytest.mark.parametrize(
    "unlike",
    [
        {"num_parallel_tree": 3},
        {"base_score": 7.5},
        {"max_depth": 1},
        {"n_estimators": 1, "max_depth": 0, "max_leaves": 1},
    ],
)
def test_boosters_of_other_shapes_give_the_same_bits_by_trees_or_by_xgboost(unlike):
    part = parts("regression", 400)["train"]
    model = XGBRegressor(**{"n_estimators": 7, **unlike})
    pipeline = pipeline_of(model=model).fit(part.inputs, part.labels)

    fast = FastModel.of(card("regression"), pipeline)

    assert (fast._trees is None) == ("num_parallel_tree" in unlike)
    numbers, categories = columns(part.inputs)
    assert (
        one_by_one(fast, numbers[:50], [each[:50] for each in categories]).tobytes()
        == pipeline.predict(part.inputs)[:50].astype(float).tobytes()
    )


def test_a_booster_that_sums_differently_is_left_to_xgboost(trained, monkeypatch):
    booster = trained["binary"].pipeline.named_steps["model"].get_booster()
    known = Trees.predict

    monkeypatch.setattr(
        Trees, "predict", lambda self, matrix: np.nextafter(known(self, matrix), np.float32(1))
    )

    assert Trees.of(booster, 5) is None


def test_a_system_without_the_c_librarys_functions_leaves_probabilities_to_xgboost(
    trained, monkeypatch
):
    def none(name):
        raise OSError(name)

    monkeypatch.setattr("ctypes.PyDLL", none)

    fast = FastModel.of(card("binary"), trained["binary"].pipeline)
    frame = made_inputs(5, seed=4)
    assert fast._trees is None
    assert (
        fast.predict(*columns(frame)).tobytes()
        == registered("binary", trained["binary"].pipeline, frame).tobytes()
    )


@pytest.fixture
def flights_like(home, use_case):
    """Registers a model that training makes of the champion's rows; returns its version."""
    made = read_card(Home.at(), use_case.name)
    rows = reference(Home.at(), made)
    inputs, labels = model_input(rows, made.features), rows["label"].to_numpy()
    part = SimpleNamespace(inputs=inputs, labels=labels)
    pipeline = fit(
        use_case, made.features, {"train": part, "validation": part}, {**SMALL, "n_estimators": 30}
    )
    predicted = pipeline.predict_proba(inputs.iloc[:5])[:, 1]
    for each, prediction in zip(made.parity_rows, predicted, strict=True):
        each.prediction = float(prediction)
    file = artifact_folder(Home.at(), use_case.name, made.run_id) / REFERENCE_FILE
    publish(Home.at(), made, pipeline, [file], {})
    return made.version


def test_a_champion_that_training_made_is_fast_and_faithful(domain, use_case, flights_like):
    champion = load_champion(domain, use_case, flights_like)
    inputs = parity_inputs(champion.card, reference(Home.at(), champion.card))

    assert champion.fast is not None
    expected = champion.predict_registered(inputs.frame)
    assert champion.predict(inputs.frame).tobytes() == expected.tobytes()
    assert (
        champion.predict_matrix(inputs.numbers, inputs.categories).tobytes() == expected.tobytes()
    )
    assert len(inputs.rows) == len(inputs.frame) and inputs.rows[-1] == "parity row 4 of the card"
    assert any(
        name.endswith("without last_delivery__service_class") for name in inputs.rows[: inputs.made]
    )
    assert any(
        name.endswith("with last_delivery__service_class = 'unknown to the encoder'")
        for name in inputs.rows[: inputs.made]
    )


def test_a_frame_with_nan_for_a_category_is_judged_by_the_pipeline(domain, use_case, flights_like):
    champion = load_champion(domain, use_case, flights_like)
    frame = parity_inputs(champion.card, reference(Home.at(), champion.card)).frame.iloc[-3:].copy()
    frame["last_delivery__service_class"] = pd.Series([np.nan] * 3, dtype=object, index=frame.index)

    assert champion.predict(frame).tobytes() == champion.predict_registered(frame).tobytes()


def one_bit_more(fast):
    fast._trees._value = np.nextafter(fast._trees._value, np.float32(9))


def another_code(fast):
    codes = fast._codes[0].known
    codes["fast"], codes["plain"] = codes["plain"], codes["fast"]


def another_mean(fast):
    fast._mean = fast._mean + 1e-3


@pytest.mark.parametrize("tamper", [one_bit_more, another_code, another_mean])
def test_a_fast_model_that_differs_by_a_bit_is_refused(
    domain, use_case, flights_like, monkeypatch, tamper
):
    of = FastModel.of.__func__

    def tampered(cls, card, pipeline):
        fast = of(cls, card, pipeline)
        tamper(fast)
        return fast

    monkeypatch.setattr(FastModel, "of", classmethod(tampered))

    with pytest.raises(
        BrokenModel,
        match=r"version 2 of 'parcel_lateness' predicts 0\.\d+ with the fast model and"
        r" 0\.\d+ with its registered pipeline for .*row \d+ of "
        r".* \(predicted .*\), the largest of \d+ differences; expected equal bits\. .* Install"
        r" these versions, train again or roll back\.",
    ):
        load_champion(domain, use_case, flights_like)


def test_a_difference_names_the_largest_and_the_batching(trained):
    frame = made_inputs(FEW_ROWS + 8, seed=6)
    numbers, categories = columns(frame)
    inputs = SimpleNamespace(
        numbers=numbers,
        categories=categories,
        rows=[f"row {at}" for at in range(len(frame))],
        made=0,
    )
    fast = trained["binary"].fast
    expected = registered("binary", trained["binary"].pipeline, frame)

    def off_when_alone(numbers, categories):
        return fast.predict(numbers, categories) + (len(numbers) == 1) * numbers[:, -1] / 1e6

    found = difference(inputs, expected, off_when_alone)
    worst = int(np.argmax(np.abs(numbers[:, -1])))
    assert (found.row, found.batching, found.rows) == (
        f"row {worst}",
        "predicted one at a time",
        len(frame),
    )
    assert difference(inputs, expected, fast.predict) is None
    assert (
        difference(inputs, np.where(np.arange(len(frame)) == 2, np.nan, expected), fast.predict).row
        == "row 2"
    )


def test_a_model_whose_pipeline_is_unknown_here_needs_no_reference(domain, use_case):
    champion = load_champion(domain, use_case)

    assert champion.fast is None
    inputs = parity_inputs(champion.card, reference(Home.at(), champion.card))
    assert (
        champion.predict_matrix(inputs.numbers, inputs.categories).tobytes()
        == champion.predict(inputs.frame).tobytes()
    )


def test_threads_share_a_fast_model(trained):
    from concurrent.futures import ThreadPoolExecutor

    numbers, categories = columns(made_inputs(64, seed=8))
    fast = trained["binary"].fast
    expected = one_by_one(fast, numbers, categories).tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert {
            each.result().tobytes()
            for each in [pool.submit(one_by_one, fast, numbers, categories) for _ in range(12)]
        } == {expected}


def test_the_schema_of_xgboosts_json_is_the_known_one(trained):
    """XGBoost's schema may change with a release; this test fails before a server does."""
    model = json.loads(
        trained["binary"].pipeline.named_steps["model"].get_booster().save_raw("json")
    )["learner"]

    assert model["objective"]["name"] == "binary:logistic"
    assert (
        fast_model.Trees.of(trained["binary"].pipeline.named_steps["model"].get_booster(), 3)
        is not None
    )
    assert {
        "left_children",
        "right_children",
        "split_indices",
        "split_conditions",
        "default_left",
        "split_type",
    } <= set(model["gradient_booster"]["model"]["trees"][0])
