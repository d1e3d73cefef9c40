"""The command that erases an entity from the online store, on SQLite and on Redis."""

import json

import pytest

from orchestration.cli import main
from pipelines.materialize import online_database
from punctual.home import Home
from punctual.repository import feature_store, load_domain
from stores.online import OnlineView

MOMENT = "2020-12-01T06:00Z"


@pytest.fixture(params=["sqlite", "redis"])
def online_shop(request, built_shop):
    """The shops, built and materialized; returns the number of records of `shop_sales`."""
    if request.param == "redis":
        settings = Home.at().repository / "feature_store.yaml"
        url = request.getfixturevalue("redis_server").url
        before = "path: ${PUNCTUAL_HOME}/online.db"
        assert before in settings.read_text()
        settings.write_text(settings.read_text().replace(before, f"redis: {url}"))
    assert main(["features", "materialize", "shop", "--as-of", MOMENT, "--quiet"]) == 0

    def count():
        store = feature_store(Home.at())
        view = load_domain(Home.at(), "shop").views["shop_sales"]
        return online_database(store).count(OnlineView.of(store.project, view))

    return count


def test_an_erased_entity_has_no_record_and_the_others_keep_theirs(online_shop, capsys):
    assert online_shop() == 12
    capsys.readouterr()

    assert main(["features", "erase", "shop_sales", "--key", "shop_id=7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "view": "shop_sales",
        "keys": {"shop_id": 7},
        "records": 1,
    }
    assert online_shop() == 11

    assert main(["features", "erase", "shop_sales", "--key", "shop_id=7"]) == 0
    assert capsys.readouterr().out == "shop_sales, shop_id=7: it had no record.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shop_sale", "--key", "shop_id=7"], "no view 'shop_sale'"),
        (["shop_sales", "--key", "shop=7"], "is keyed by shop_id; got shop"),
        (["shop_sales", "--key", "shop_id=seven"], "key 'shop_id' is 'seven'; expected an integer"),
        (["shop_sales", "--key", "shop_id"], "--key shop_id has no value"),
        (
            ["shop_sales", "--key", "shop_id=7", "--key", "shop_id=8"],
            "--key shop_id is given twice",
        ),
    ],
)
def test_an_impossible_erasure_is_refused(shop, capsys, arguments, said):
    assert main(["features", "erase", *arguments]) == 2
    assert said in capsys.readouterr().err
