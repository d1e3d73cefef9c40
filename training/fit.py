"""Fits preprocessing, models and baselines as scikit-learn pipelines, on the training part only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from xgboost import XGBClassifier, XGBRegressor

from punctual.model_card import ModelFeature
from punctual.use_case import ParameterValue, UseCase
from training.split import Part

SEED = 20131205
# General-purpose: many small steps with early stopping. A use case overrides them in its recipe.
DEFAULTS: dict[str, ParameterValue] = {
    "n_estimators": 1000,
    "learning_rate": 0.05,
    "max_depth": 6,
    "min_child_weight": 5,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "reg_lambda": 1.0,
    "early_stopping_rounds": 50,
}


def parameters_of(
    use_case: UseCase, changes: Mapping[str, ParameterValue] | None = None
) -> dict[str, ParameterValue]:
    """XGBoost's parameters for a use case: the defaults, its recipe, and changes for this run."""
    return {**DEFAULTS, **use_case.recipe.parameters, **(changes or {})}


def fit(
    use_case: UseCase,
    features: list[ModelFeature],
    parts: dict[str, Part],
    parameters: Mapping[str, ParameterValue],
) -> Pipeline:
    """Fit the model on the training part; the validation part decides when to stop.

    `parameters` are those of `parameters_of`. Missing numbers stay missing: the trees learn a
    default direction for them. Unknown, rare and missing categories each get a code of their own.
    """
    preprocess = _preprocessing(features)
    train, validation = parts["train"], parts["validation"]
    inputs = preprocess.fit_transform(train.inputs)
    chosen = {**parameters, "random_state": SEED, "tree_method": "hist"}
    if use_case.task == "binary":
        model: Any = XGBClassifier(**chosen, eval_metric="logloss")
    else:
        model = XGBRegressor(**chosen, eval_metric="rmse")
    model.fit(
        inputs,
        train.labels,
        eval_set=[(preprocess.transform(validation.inputs), validation.labels)],
        verbose=False,
    )
    return Pipeline([("preprocess", preprocess), ("model", model)])


def fit_baselines(
    use_case: UseCase, features: list[ModelFeature], train: Part
) -> dict[str, Pipeline]:
    """The gate's baselines: the training part's mean, and a linear model on the same features."""
    numbers = [feature.name for feature in features if feature.kind == "number"]
    categories = [feature.name for feature in features if feature.kind == "category"]
    prepare = ColumnTransformer(
        [
            (
                "numbers",
                Pipeline(
                    [
                        ("impute", SimpleImputer(strategy="median", keep_empty_features=True)),
                        ("scale", StandardScaler()),
                    ]
                ),
                numbers,
            ),
            (
                "categories",
                OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=50),
                categories,
            ),
        ]
    )
    if use_case.task == "binary":
        mean: Any = DummyClassifier(strategy="prior")
        linear: Any = LogisticRegression(max_iter=300)
        names = ("base_rate", "logistic_regression")
    else:
        mean, linear, names = DummyRegressor(), Ridge(), ("mean", "ridge_regression")
    fitted = {
        names[0]: Pipeline([("model", mean)]),
        names[1]: Pipeline([("prepare", prepare), ("model", linear)]),
    }
    for pipeline in fitted.values():
        pipeline.fit(train.inputs, train.labels)
    return fitted


def predict(use_case: UseCase, pipeline: Pipeline, part: Part) -> np.ndarray:
    """Probabilities of a binary label, or predicted values; float64, in row order."""
    if use_case.task == "binary":
        return pipeline.predict_proba(part.inputs)[:, 1].astype(np.float64)
    return pipeline.predict(part.inputs).astype(np.float64)


def _preprocessing(features: list[ModelFeature]) -> ColumnTransformer:
    numbers = [feature.name for feature in features if feature.kind == "number"]
    categories = [feature.name for feature in features if feature.kind == "category"]
    encode = OrdinalEncoder(
        handle_unknown="use_encoded_value",
        unknown_value=-1,
        encoded_missing_value=-2,
        min_frequency=20,
    )
    return ColumnTransformer(
        [("numbers", StandardScaler(), numbers), ("categories", encode, categories)],
        verbose_feature_names_out=False,
    )
