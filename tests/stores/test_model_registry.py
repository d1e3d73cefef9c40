"""What is read from MLflow's database file is what MLflow answers."""

import sqlite3

import pytest

from punctual.errors import BrokenModel, BrokenRegistry, NoChampion, UnknownName
from punctual.home import Home
from stores.models import aliases, artifact, model_registry, read_card, registered_version
from stores.models import registry_file as file


@pytest.fixture
def registry(home):
    """MLflow's client: `sales` has two versions, `sizes` one; each run has a file `note.txt`."""
    client = model_registry(Home.at())
    for name, versions in {"sales": 2, "sizes": 1}.items():
        client.create_registered_model(name)
        experiment = client.create_experiment(name, artifact_location=f"file://{home}/models")
        for _ in range(versions):
            run = client.create_run(experiment).info.run_id
            client.log_text(run, f"a run of {name}", "note.txt")
            client.create_model_version(name, f"runs:/{run}/model", run)
    client.set_registered_model_alias("sales", "champion", "1")
    client.set_registered_model_alias("sales", "challenger", "2")
    return client


def test_aliases_and_versions_are_those_that_mlflow_gives(registry):
    for name in ("sales", "sizes", "unknown"):
        expected = registry.get_registered_model(name).aliases if name != "unknown" else {}
        assert aliases(Home.at(), name) == {
            alias: str(version) for alias, version in expected.items()
        }
    champion = registry.get_model_version_by_alias("sales", "champion")
    assert (
        registered_version(Home.at(), "sales")
        == ("1", champion.run_id)
        == file.version_of_alias(Home.at(), "sales", "champion")
    )
    second = registry.get_model_version("sales", "2")
    assert (
        registered_version(Home.at(), "sales", "2")
        == ("2", second.run_id)
        == file.registered_version(Home.at(), "sales", "2")
    )


def test_an_alias_that_moves_is_seen_at_once(registry):
    registry.set_registered_model_alias("sales", "champion", "2")
    assert registered_version(Home.at(), "sales").version == "2"
    registry.delete_registered_model_alias("sales", "champion")
    with pytest.raises(NoChampion, match="'sales' has no champion"):
        registered_version(Home.at(), "sales")


def test_a_deleted_version_is_unknown(registry):
    registry.delete_model_version("sales", "2")
    assert file.registered_version(Home.at(), "sales", "2") is None
    with pytest.raises(UnknownName, match="Known: 1"):
        registered_version(Home.at(), "sales", "2")
    assert aliases(Home.at(), "sales") == {"champion": "1"}


@pytest.mark.parametrize("version", ["1.0", "x", "7"])
def test_a_version_that_is_not_registered_is_unknown(registry, version):
    with pytest.raises(UnknownName):
        registered_version(Home.at(), "sales", version)


def test_the_files_of_a_run_are_read_from_its_folder(registry):
    run = registered_version(Home.at(), "sizes", "1").run_id
    assert (
        artifact(Home.at(), run, "note.txt")
        == b"a run of sizes"
        == file.artifact(Home.at(), run, "note.txt")
    )
    assert file.artifact(Home.at(), run, "other.txt") is None
    with pytest.raises(BrokenModel, match="no readable model_card.json"):
        read_card(Home.at(), "sizes", "1")


def test_a_registry_without_its_tables_is_left_to_mlflow_to_judge(registry, home):
    with sqlite3.connect(home / "mlflow.db") as database:
        database.execute("ALTER TABLE registered_model_aliases RENAME TO aliases")
    assert file.aliases(Home.at(), "sales") is None
    with pytest.raises(BrokenRegistry, match="no such table"):
        aliases(Home.at(), "sales")


def test_a_file_that_is_no_registry_is_refused(home):
    home.mkdir()
    (home / "mlflow.db").write_bytes(b"no database at all" * 1000)
    assert file.aliases(Home.at(), "sales") is None
    with pytest.raises(BrokenRegistry, match="cannot be read"):
        registered_version(Home.at(), "sales")
