"""What a command imports: Feast without its type checks, except in `apply`, and no library that it does not need."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def finished(*arguments):
    """A command line's process, at its end."""
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
assert pipelines(["quarantine", "shop", "sales"]) == 0
assert main(["features", "quarantine", "shop", "sales"]) == 0
assert typeguard.typechecked is typechecked

import feast
try:
    feast.Entity(name="broken", join_keys=5)
except typeguard.TypeCheckError:
    print("checked")
"""
    ran = finished("-c", program)
    assert ran.stdout.splitlines()[-1:] == ["checked"], ran.stderr


def test_typeguard_itself_is_left_as_it_was(shop):
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
