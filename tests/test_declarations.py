"""Names and values of a declaration are checked together when a domain is loaded."""

import shutil

import pytest

from punctual.errors import InvalidDeclaration, UnknownDomain, UnknownName
from punctual.home import Home
from punctual.name_checks import name_problem
from punctual.repository import feature_store, load_domain


@pytest.fixture
def edit(shop, tmp_path):
    """Replaces text in the shop's modules."""

    def change(old, new, module="shop.py", domain="shop"):
        path = tmp_path / "repository" / domain / module
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def problems(domain="shop"):
    with pytest.raises(InvalidDeclaration) as raised:
        load_domain(Home.at(), domain)
    return "\n".join(raised.value.problems)


@pytest.mark.parametrize(
    "name", ["eu/sales", "..", "a b", "1st", "_x", "a__b", "größe", "", "x" * 101]
)
def test_a_name_has_letters_digits_and_single_underscores(name):
    assert "use letters, digits and single underscores" in name_problem("use case", name)


def test_a_valid_name_has_no_problem_and_an_invalid_one_gets_an_alternative():
    assert name_problem("view", "sales_7d") is None
    assert name_problem("use case", "eu/sales").endswith("such as 'eu_sales'.")


USE_CASE = "use_case.py"


@pytest.mark.parametrize(
    ("old", "new", "module", "said"),
    [
        ('name="next_sales"', 'name="eu/sales"', USE_CASE, "use case 'eu/sales': use letters"),
        ('metric="rmse"', 'metric="accuracy"', USE_CASE, "no metric 'accuracy' in Punctual"),
        ('metric="rmse"', 'metric="roc_auc"', USE_CASE, "use one of rmse, mae, r2"),
        ('task="regression"', 'task="forecast"', USE_CASE, "no task 'forecast' in Punctual"),
        ('train="180d"', 'train="half a year"', USE_CASE, "split: train: 'half a year'"),
        ('validation="30d"', 'validation="24h"', USE_CASE, "split: validation is 24h; expected"
                                                           " more"),
        ("horizon=timedelta(hours=24)", "horizon=timedelta(0)", USE_CASE, "label horizon is"),
        ("timedelta(hours=24))", "timedelta(hours=24), coverage=1.5)", USE_CASE, "coverage is 1.5"),
        ("minimum_rows=100", "minimum_rows=0", USE_CASE, "minimum_rows is 0"),
        ("minimum_rows=100", "beats_champion_by=float('nan')", USE_CASE, "beats_champion_by is"
                                                                         " nan"),
        ('metric="rmse"', 'metric="rmse", threshold=2', USE_CASE, "threshold is 2"),
        ('metric="rmse"', 'metric="rmse", optional_keys=("shop",)', USE_CASE, "no join key 'shop'"),
        ('Label("cents"', 'Label("day"', USE_CASE, "label 'day' is DATE; task 'regression' needs"),
        ('name="shop_sales"', 'name="Last_Day"', "shop.py", "'Last_Day' and 'last_day' differ"
                                                            " only"),
        ("every=DAILY", "every=timedelta(0)", "shop.py", "every is 0:00:00; expected more than 0"),
        (
            "available_after=timedelta(hours=1)",
            "available_after=timedelta(hours=-1)",
            "shop.py",
            "available_after is -1 day, 23:00:00; expected 0 or more",
        ),
        ("ttl=timedelta(days=3)", "ttl=timedelta(days=-3)", "shop.py", "ttl is -3 days"),
        ('count(over=("28d",)', "count(over=()", "shop.py", "count has no windows"),
        ('mean("cents", over=("7d"', 'mean("cents", over=("7x"', "shop.py", "'7x'"),
        ('sum_of("cents"', 'sum_of("day"', "shop.py", "sum('day') needs numbers"),
        ('sum_of("cents"', 'mean("cents"', "shop.py", "cents_mean_7d"),
        ('key=("shop_id", "day")', "key=()", "shop.py", "source 'sales': key is empty"),
        ('key=("shop_id", "day")', 'key=("shop", "day")', "shop.py", "key column 'shop' is not"),
        ('key=("shop_id",'
         ' "day")', 'key=("shop_id")', "shop.py", "expected a tuple of column names"),
        ('id=("shop_id", "day")', "id=()", "shop.py", "id is empty"),
        (
            'Rule("sales_not_negative", "cents >= 0")',
            'Rule("a", "true"), Rule("a", "true")',
            "shop.py",
            "rule 'a' is declared 2 times",
        ),
        ('"opens": "TIMESTAMPTZ"', '"opens": "TIMESTAMP"', "shop.py", "declare it as TIMESTAMPTZ"),
        ('"opens": "TIMESTAMPTZ"', '"label": "BIGINT"', "shop.py", "column of its requests 'label'"
                                                                   " is reserved by the platform"),
        ('name="shop_request"', 'name="last_day_table"', "shop.py", "the table of view 'last_day'"),
        ('name="mornings"', 'name="closed_days"', "shop.py", "'closed_days' is declared 2 times"),
        ('name="shop",\n   '
         ' description="Daily', 'name="x",\n    description="Daily', "shop.py", "Domain 'x'"),
        ('"is_promotion":'
         ' "Whether', '"shop_id": "Whether', "shop.py", "is a join key and a feature"),
        ("sum_of,\n", "sum_of,\n    summe,\n", "shop.py", "shop.py, line 9: ImportError"),
    ],
)  # fmt: skip
def test_a_declared_value_is_checked_when_the_domain_is_loaded(edit, old, new, module, said):
    edit(old, new, module)
    assert said in problems()


def test_all_problems_are_reported_at_once(edit):
    edit('metric="rmse"', 'metric="accuracy"', USE_CASE)
    edit('name="next_sales"', 'name="next sales"', USE_CASE)
    edit("ttl=timedelta(days=3)", "ttl=timedelta(days=-3)")
    found = problems()
    assert all(said in found for said in ("'accuracy'", "'next sales'", "ttl is -3 days"))


def test_two_inputs_of_one_name_behind_a_request_time_view_are_refused(edit):
    edit(
        'Field(name="opens", dtype=UnixTimestamp)]',
        'Field(name="cents_mean_7d", dtype=UnixTimestamp)]',
    )
    assert "'shop_day' has 2 inputs named 'cents_mean_7d'" in problems()


def test_a_second_domain_may_not_reuse_the_names_of_the_first(edit, tmp_path):
    shutil.copytree(tmp_path / "repository" / "shop", tmp_path / "repository" / "market")
    edit(
        'name="shop",\n    description="Daily',
        'name="market",\n    description="Daily',
        domain="market",
    )
    edit('name="last_day"', 'name="LAST_DAY"', domain="market")
    edit('name="next_sales"', 'name="market_sales"', "use_case.py", domain="market")
    for domain, other in (("shop", "market"), ("market", "shop")):
        found = problems(domain)
        assert f"view 'shop_sales' exists in domain '{other}' too" in found
        assert f"feature service 'next_sales_v1' exists in domain '{other}' too" in found
        assert f"request source 'shop_request' exists in domain '{other}' too" in found
        assert "use case" not in found
        assert "entity 'shop'" not in found
    assert "view 'LAST_DAY' exists in domain 'shop' too" in problems("market")


def test_a_domain_loads_although_another_one_is_broken(edit, tmp_path):
    broken = tmp_path / "repository" / "broken"
    broken.mkdir()
    (broken / "use_case.py").write_text("raise ValueError('not yet written')\n")
    assert load_domain(Home.at(), "shop").name == "shop"
    assert "use_case.py, line 1: ValueError: not yet written" in problems("broken")


def test_what_a_repository_lacks_is_named(shop, tmp_path):
    repository = tmp_path / "repository"
    (repository / "market").mkdir()
    with pytest.raises(UnknownDomain, match="Known: shop. Its folder has no use_case.py."):
        load_domain(Home.at(), "market")
    (repository / "feature_store.yaml").unlink()
    with pytest.raises(UnknownName, match="has no .*feature_store.yaml. Copy .*feature_repo/"):
        feature_store(Home.at())
