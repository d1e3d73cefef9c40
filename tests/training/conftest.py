"""The shops with a first champion; each test gets a copy of its data folder."""

import os
from pathlib import Path

import pytest

from pipelines.materialize import apply_definitions
from punctual.home import Home
from punctual.progress import Progress
from punctual.repository import feature_store, find_use_case
from punctual.times import moment
from training.run import train

AS_OF = moment("2020-10-01")
REPOSITORY = Path(__file__).parent.parent / "repository"


def train_shop(as_of=AS_OF, **options):
    domain, use_case = find_use_case(Home.at(), "next_sales")
    store = feature_store(Home.at())
    apply_definitions(store, [domain])
    return train(store, domain, use_case, as_of=as_of, progress=Progress(quiet=True), **options)


@pytest.fixture
def fit():
    """Trains the shops' model in the data folder of the environment."""
    return train_shop


@pytest.fixture(scope="session")
def trained_once(shop_built_once, copy_home, tmp_path_factory):
    """A data folder with a first champion, its run, and the files found where it was trained."""
    folder, beside = tmp_path_factory.mktemp("trained"), tmp_path_factory.mktemp("beside")
    copy_home(shop_built_once, folder / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUNCTUAL_HOME", str(folder / "home"))
        patch.setenv("PUNCTUAL_REPOSITORY", str(REPOSITORY))
        patch.chdir(beside)
        done = train_shop()
    return folder / "home", done, os.listdir(beside)


@pytest.fixture
def first(trained_once, shop, copy_home):
    """The run that made the first champion, in a copy of its data folder."""
    home, done, _ = trained_once
    copy_home(home, shop)
    return done
