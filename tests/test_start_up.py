"""Commands import only what they need; only `apply` runs Feast's type checks."""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from punctual.home import Home
from stores.models import artifact_folder, model_registry

ROOT = Path(__file__).parent.parent
HEAVY = {
    "feast",
    "pandas",
    "numpy",
    "pyarrow",
    "duckdb",
    "mlflow",
    "sklearn",
    "xgboost",
    "scipy",
    "matplotlib",
}


def finished(*arguments):
    """The finished process of a command line."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def declare_an_entity_with_a_number_for_join_keys(repository):
    with (repository / "shop" / "shop.py").open("a") as module:
        module.write('\nbroken = Entity(name="broken", join_keys=5)\n')


def test_apply_refuses_a_definition_of_a_wrong_type(shop, tmp_path):
    declare_an_entity_with_a_number_for_join_keys(tmp_path / "repository")
    for command in (["-m", "orchestration.cli", "features", "apply"], ["-m", "pipelines", "apply"]):
        applied = finished(*command)
        assert applied.returncode != 0
        assert 'argument "join_keys" (int)' in applied.stderr


def test_definitions_that_materialize_registers_are_checked(built_shop, tmp_path):
    materialize = ("-m", "orchestration.cli", "features", "materialize", "shop")
    with (tmp_path / "repository" / "shop" / "shop.py").open("a") as module:
        module.write(
            '\nbroken = Entity(name="broken", join_keys=("a",), value_type=ValueType.INT64)\n'
        )
    refused = finished(*materialize)
    assert refused.returncode == 2
    assert 'argument "join_keys" (tuple)' in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (built_shop / "online.db").exists()

    module = tmp_path / "repository" / "shop" / "shop.py"
    module.write_text(module.read_text().replace('("a",)', '["a"]'))
    done = finished(*materialize)
    assert done.returncode == 0, done.stderr
    registered = finished("-m", "orchestration.cli", "feast", "entities", "list")
    assert "broken" in registered.stdout


def test_another_command_imports_feast_without_its_type_checks(shop, tmp_path):
    declare_an_entity_with_a_number_for_join_keys(tmp_path / "repository")
    built = finished("-m", "orchestration.cli", "features", "build", "shop")
    assert built.returncode != 0
    assert "TypeCheckError" not in built.stderr
    assert "object of type 'int' has no len()" in built.stderr


def test_a_program_that_calls_a_command_keeps_feasts_type_checks(shop):
    program = """
import typeguard
from orchestration.cli import main
from pipelines.__main__ import main as pipelines

typechecked = typeguard.typechecked
assert pipelines(["quarantine", "shop", "sales"]) == 75
assert main(["features", "quarantine", "shop", "sales"]) == 75
assert typeguard.typechecked is typechecked

import feast
try:
    feast.Entity(name="broken", join_keys=5)
except typeguard.TypeCheckError:
    print("checked")
"""
    ran = finished("-c", program)
    assert ran.stdout.splitlines()[-1:] == ["checked"], ran.stderr


def test_typeguard_itself_is_unchanged(shop):
    program = """
import sys
from punctual.feast_import import skip_type_checks

skip_type_checks()
assert "feast" not in sys.modules and "typeguard" not in sys.modules
import feast
import typeguard

feast.Entity(name="unchecked", join_keys=("key",))
print(typeguard.typechecked.__module__)
"""
    ran = finished("-c", program)
    assert ran.stdout.splitlines()[-1:] == ["typeguard"], ran.stderr


def imported(*arguments):
    """The top-level modules that a command line imports, and its output."""
    ran = finished("-X", "importtime", *arguments)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return set(re.findall(r"\| +(\w+)$", ran.stderr, re.MULTILINE)), ran.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["features"], ["status"], ["features", "build"], ["features", "apply"]),
        *(["train"], ["serve"], ["predict"], ["up"]),
    ],
    ids=" ".join,
)
def test_help_imports_no_heavy_library(home, arguments):
    names, _ = imported("-m", "orchestration.cli", *arguments, "--help")
    assert names & {*HEAVY, "rich", "typeguard", "sqlalchemy"} == set()


@pytest.fixture
def online_shop(built_shop, tmp_path):
    """The shop, built and materialized, with a champion in the model registry; returns the home."""
    materialized = finished("-m", "pipelines", "materialize", "shop")
    assert materialized.returncode == 0, materialized.stderr
    card = (ROOT / "tests" / "golden" / "model_card.json").read_bytes()
    with model_registry(Home.at()) as client:
        client.create_registered_model("next_sales")
        client.create_model_version("next_sales", "by hand", "its_run")
        client.set_registered_model_alias("next_sales", "champion", "1")
    folder = artifact_folder(Home.at(), "next_sales", "its_run")
    folder.mkdir(parents=True)
    folder.joinpath("model_card.json").write_bytes(card)
    return built_shop


def status():
    """The libraries that `punctual status` imports, and its output."""
    names, printed = imported("-m", "orchestration.cli", "status", "--json")
    return names & HEAVY, json.loads(printed)


def test_status_imports_no_heavy_library_and_shows_the_same(online_shop):
    first, shown = status()
    assert "feast" in first
    assert "mlflow" not in first
    assert shown["champion"]["version"] == "1"
    assert shown["views"]["shop_sales"]["online_rows"] == 12
    assert shown["views"]["shop_sales"]["fresh"] is True
    assert shown["events"]["closed_days"]["rows"] > 0
    assert [step["step"] for step in shown["schedule"]] == ["materialize"]
    assert status() == (set(), shown)


def test_status_sees_a_changed_definition_at_once(online_shop, tmp_path):
    status()
    module = tmp_path / "repository" / "shop" / "shop.py"
    module.write_text(
        module.read_text().replace(
            'over=("28d",), description="Days', 'over=("14d",), description="Days'
        )
    )
    names, shown = status()
    assert "feast" in names
    assert shown["views"]["shop_sales"]["built_until"] is None
    assert shown["views"]["last_day"]["fresh"] is True
    assert status() == (set(), shown)


def test_status_ignores_a_damaged_cache(online_shop):
    _, shown = status()
    (kept,) = (online_shop / "cache" / "declared").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert status()[1] == shown
    assert status() == (set(), shown)


def test_status_works_without_a_writable_cache(online_shop):
    (online_shop / "cache").write_text("no folder")
    assert status()[1]["champion"]["version"] == "1"
    names, shown = status()
    assert "feast" in names
    assert shown["views"]["last_day"]["fresh"] is True


@pytest.mark.parametrize(("own", "nice"), [(True, 10), (False, 0)])
def test_materialize_lowers_the_priority_of_its_own_process_only(built_shop, own, nice):
    arguments = ["materialize", "shop", "--as-of", "2020-12-01T06:00Z", "--quiet", "--json"]
    program = f"""
    import os, sys
    from pipelines.__main__ import main
    sys.argv[1:] = {arguments}
    before = os.nice(0)
    assert main({None if own else arguments}) == 0
    print(os.nice(0) - before)
    """
    ran = finished("-c", textwrap.dedent(program))
    assert ran.stdout.splitlines()[-1:] == [str(nice)], ran.stderr
