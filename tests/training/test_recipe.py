"""A use case's recipe: XGBoost's parameters, checked when the domain is loaded."""

import pyarrow as pa
import pytest

from punctual import Recipe
from punctual.errors import InvalidDeclaration
from punctual.home import Home
from punctual.model_card import model_features
from punctual.repository import load_domain
from training.fit import DEFAULTS, parameters_of


def declare(repository, parameters):
    path = repository / "shop" / "use_case.py"
    text = path.read_text().replace("import Gate, ", "import Gate, Recipe, ")
    path.write_text(
        text.replace('metric="rmse",', f'metric="rmse", recipe=Recipe(parameters={parameters}),')
    )


def test_a_recipe_with_wrong_parameters_is_refused_when_the_domain_is_loaded(shop, tmp_path):
    declare(tmp_path / "repository", {"max_dept": 3, "subsample": 1.5})
    with pytest.raises(InvalidDeclaration) as refused:
        load_domain(Home.at(), "shop")
    message = str(refused.value)
    assert "no parameter 'max_dept' in a recipe. Did you mean 'max_depth'?" in message
    assert "recipe parameter 'subsample' is 1.5, expected a number above 0 and at most 1" in message
    assert "(use case 'next_sales')" in message


def test_a_recipe_changes_the_defaults_and_a_run_changes_the_recipe(shop, tmp_path):
    declare(tmp_path / "repository", {"max_depth": 3, "gamma": 0.5})
    use_case = load_domain(Home.at(), "shop").use_cases["next_sales"]
    assert parameters_of(use_case) == {**DEFAULTS, "max_depth": 3, "gamma": 0.5}
    assert parameters_of(use_case, {"max_depth": 2})["max_depth"] == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_estimators", 0),
        ("n_estimators", 10.5),
        ("max_depth", True),
        ("learning_rate", "0.1"),
        ("learning_rate", 0),
        ("reg_lambda", float("nan")),
        ("gamma", float("inf")),
        ("min_child_weight", -1),
        ("objective", 1),
    ],
)
def test_a_value_that_xgboost_would_refuse_is_a_problem(name, value):
    assert len(Recipe(parameters={name: value}).problems()) == 1


def test_the_defaults_are_a_recipe():
    assert Recipe(parameters=DEFAULTS).problems() == []


def test_a_feature_that_is_neither_a_number_nor_text_is_no_input_of_a_model():
    types = {"a": pa.string(), "b": pa.bool_(), "c": pa.float32(), "d": pa.timestamp("us", "UTC")}
    rows = pa.schema(types.items()).empty_table()
    kinds = [feature.kind for feature in model_features(rows, ["a", "b", "c"])]
    assert kinds == ["category", "number", "number"]
    with pytest.raises(InvalidDeclaration, match="feature 'd' is timestamp.*leave it out"):
        model_features(rows, [*types])
