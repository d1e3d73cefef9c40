"""What we read from MLflow's database equals MLflow's answers; only MLflow writes to it."""

import sqlite3

import pytest

from punctual.errors import BrokenModel, BrokenRegistry, NoChampion, UnknownName
from punctual.home import Home
from stores.models import (
    aliases,
    artifact,
    artifact_folder,
    artifact_location,
    model_registry,
    read_card,
    registered_version,
    registered_versions,
)


@pytest.fixture
def registry(home):
    """MLflow's client with models `sales` (versions 1 and 2) and `sizes` (version 1).

    Each run has the file `note.txt`.
    """
    with model_registry(Home.at()) as client:
        for name, versions in {"sales": 2, "sizes": 1}.items():
            client.create_registered_model(name)
            experiment = client.create_experiment(name, artifact_location(name))
            for _ in range(versions):
                run = client.create_run(experiment).info.run_id
                folder = artifact_folder(Home.at(), name, run)
                folder.mkdir(parents=True)
                folder.joinpath("note.txt").write_text(f"a run of {name}")
                client.create_model_version(name, f"runs:/{run}/model", run)
        client.set_registered_model_alias("sales", "champion", "1")
        client.set_registered_model_alias("sales", "challenger", "2")
        yield client


def test_aliases_and_versions_equal_those_of_mlflow(registry):
    for name in ("sales", "sizes"):
        expected = registry.get_registered_model(name).aliases
        assert aliases(Home.at(), name) == {
            alias: str(version) for alias, version in expected.items()
        }
    assert aliases(Home.at(), "unknown") == {}
    champion = registry.get_model_version_by_alias("sales", "champion")
    assert registered_version(Home.at(), "sales") == ("1", champion.run_id)
    second = registry.get_model_version("sales", "2")
    assert registered_version(Home.at(), "sales", "2") == ("2", second.run_id)
    assert registered_versions(Home.at(), "sales") == [
        ("1", champion.run_id),
        ("2", second.run_id),
    ]


def test_an_alias_that_moves_is_seen_at_once(registry):
    registry.set_registered_model_alias("sales", "champion", "2")
    assert registered_version(Home.at(), "sales").version == "2"
    registry.delete_registered_model_alias("sales", "champion")
    with pytest.raises(NoChampion, match="'sales' has no champion"):
        registered_version(Home.at(), "sales")


def test_a_deleted_version_is_unknown(registry):
    registry.delete_model_version("sales", "2")
    with pytest.raises(UnknownName, match="Known: 1"):
        registered_version(Home.at(), "sales", "2")
    assert aliases(Home.at(), "sales") == {"champion": "1"}


@pytest.mark.parametrize("version", ["1.0", "x", "7"])
def test_a_version_that_is_not_registered_is_unknown(registry, version):
    with pytest.raises(UnknownName, match="Known: 1, 2"):
        registered_version(Home.at(), "sales", version)


def test_the_files_of_a_run_are_read_from_its_folder(registry):
    run = registered_version(Home.at(), "sizes", "1").run_id
    assert artifact(Home.at(), "sizes", run, "note.txt") == b"a run of sizes"
    with pytest.raises(BrokenModel, match="no readable model_card.json"):
        read_card(Home.at(), "sizes", "1")


def test_a_registry_without_its_tables_is_refused(registry, home):
    with sqlite3.connect(home / "mlflow.db") as database:
        database.execute("ALTER TABLE registered_model_aliases RENAME TO aliases")
    with pytest.raises(BrokenRegistry, match="no such table"):
        aliases(Home.at(), "sales")


def test_a_file_that_is_not_a_registry_is_refused(home):
    home.mkdir()
    (home / "mlflow.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(BrokenRegistry, match="cannot be read: file is not a database"):
        registered_version(Home.at(), "sales")
    with (
        pytest.raises(BrokenRegistry, match="cannot be read: file is not a database"),
        model_registry(Home.at()),
    ):
        pass


@pytest.mark.parametrize("name", ["a b", "50%2F", "what?", "a#b", "things [1]"])
def test_a_data_folder_may_have_any_name(tmp_path, name):
    home = Home.at(tmp_path / name)
    with model_registry(home) as client:
        client.create_registered_model("sales")
        client.create_model_version("sales", "punctual:///models/sales/1/artifacts/model", "1")
    assert registered_versions(home, "sales") == [("1", "1")]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.name for path in home.folder.iterdir()] == ["mlflow.db"]
