"""A home is a value: several can be open in one process, and a folder may have any name."""

import csv
import shutil

import pandas as pd
import pytest

from orchestration.notebook import Punctual
from pipelines.build import build
from pipelines.materialize import apply_if_changed, materialize
from punctual.clock import remember_moment, starting_moment
from punctual.home import Home
from punctual.locks import exclusive_lock, is_running
from punctual.progress import Progress
from punctual.repository import feature_store, load_domain
from punctual.times import moment

BUILT = moment("2020-12-01T06:00Z")
MORNINGS = pd.DataFrame(
    {"shop_id": [3], "day": ["2020-12-01"], "opens": [moment("2020-12-01T08:00Z")]}
)
ODD_NAMES = ["a b", "50%2F", "what?", "a#b", "things [1]", "it's", "${HOME}", "größe"]


@pytest.fixture
def homes(tmp_path, built_shop, copy_home):
    """Two data folders of the shops: in the second, every shop has sold a hundred times as much."""
    first, second = tmp_path / "first", tmp_path / "second"
    copy_home(built_shop, first)
    shutil.copytree(built_shop / "raw", second / "raw")
    sales = second / "raw" / "sales.csv"
    header, *rows = sales.read_text().splitlines()
    scaled = [f"{shop},{day},{cents}00,{flag}" for shop, day, cents, flag in csv.reader(rows)]
    sales.unlink()
    sales.write_text("\n".join([header, *scaled]) + "\n")
    return first, second


def online(folder):
    """Brings the shops of a data folder online."""
    home = Home.at(folder)
    domain = load_domain(home, "shop")
    progress = Progress(quiet=True)
    build(domain, BUILT, progress)
    store = feature_store(home)
    apply_if_changed(home, store)
    materialize(store, domain, BUILT, progress)


def test_two_homes_in_one_process_read_and_write_their_own_folders(homes, monkeypatch, tmp_path):
    monkeypatch.setenv("PUNCTUAL_HOME", str(tmp_path / "neither"))
    for folder in homes:
        online(folder)

    first, second = (Punctual(folder) for folder in homes)
    sold = [
        punctual.online_features("next_sales", MORNINGS, BUILT)["shop_sales__cents_sum_7d"][0]
        for punctual in (first, second)
    ]
    assert sold[1] == 100 * sold[0]

    as_of = "2020-11-20"
    labels = [
        punctual.training_set("next_sales", as_of)["label"].sum() for punctual in (first, second)
    ]
    assert labels[1] == 100 * labels[0]
    again = first.online_features("next_sales", MORNINGS, BUILT)["shop_sales__cents_sum_7d"][0]
    assert again == sold[0]
    assert not (tmp_path / "neither").exists()


def test_each_home_has_its_own_clock_and_locks(tmp_path):
    first, second = Home.at(tmp_path / "first"), Home.at(tmp_path / "second")
    remember_moment(first, BUILT)

    demo_at = moment("2020-01-01T00:00Z")
    assert starting_moment(first, None, demo_at) == BUILT
    assert starting_moment(second, None, demo_at) == demo_at
    with exclusive_lock(first, "build"):
        assert is_running(first, "build") and not is_running(second, "build")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_data_folder_may_have_any_name(shop, tmp_path, name):
    home = Home.at(tmp_path / name)
    store = feature_store(home)

    apply_if_changed(home, store)

    assert (home.folder / "registry.db").is_file()
    registered = {view.name for view in feature_store(home).list_feature_views()}
    assert registered == {"last_day", "shop_sales"}
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(name[:2])) == [
        name
    ]
