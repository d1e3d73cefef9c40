"""The layout's promises, kept true by reading imports; the lists of exceptions here only shrink."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = {"pipelines", "training", "inference"}
OURS = {"feature_repo", "stores", "orchestration", "benchmarks", *STAGES}
MAY_IMPORT = {
    "feature_repo": set(),
    "stores": {"feature_repo"},
    "pipelines": {"feature_repo", "stores"},
    "training": {"feature_repo", "stores"},
    "inference": {"feature_repo", "stores"},
    "orchestration": {"feature_repo", "stores", *STAGES},
    "benchmarks": {"feature_repo", "stores", "inference"},
}
# Asking the clock is a command line's right; Feast's online interface and a run's own wall times have no other way.
MAY_ASK_THE_CLOCK = {
    "feature_repo/commands.py",
    "stores/online.py",
    "stores/offline.py",
}


def modules(package):
    return sorted(path for path in (ROOT / package).rglob("*.py") if "__pycache__" not in path.parts)


def imported(path):
    """Top-level packages of ours that a file imports, with whether the import runs when the file is imported."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        for name in names:
            yield name.split(".")[0], id(node) not in inside


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_what_the_picture_allows(package):
    for path in modules(package):
        for name, _ in imported(path):
            if name in OURS and name != package:
                assert name in MAY_IMPORT[package], f"{path.relative_to(ROOT)} imports {name}"


def test_the_front_door_imports_a_stage_only_when_asked_for_it():
    for path in modules("orchestration"):
        for name, at_import in imported(path):
            assert not (at_import and name in STAGES), f"{path.relative_to(ROOT)} imports {name} at its top"


def test_no_platform_file_names_a_domain():
    domains = [path.parent.name for path in (ROOT / "feature_repo").glob("*/use_case.py")]
    for package in OURS:
        for path in modules(package):
            if set(path.relative_to(ROOT).parts) & set(domains):
                continue
            text = ast.unparse(_without_docstrings_and_examples(path))
            for domain in domains:
                assert f"feature_repo.{domain}" not in text, f"{path.relative_to(ROOT)} imports the domain {domain}"


def _without_docstrings_and_examples(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def test_only_a_command_line_asks_the_clock():
    asks = {"now", "utcnow", "today"}
    for package in OURS:
        for path in modules(package):
            name = str(path.relative_to(ROOT))
            if name in MAY_ASK_THE_CLOCK or path.name == "__main__.py":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in asks
                if call and isinstance(node.func.value, ast.Name) and node.func.value.id in {"datetime", "date", "pd"}:
                    pytest.fail(f"{name}:{node.lineno} asks the clock")


def test_every_package_says_what_it_is_for_and_every_platform_file_is_kept_from_feast():
    for package in OURS:
        doc = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text()))
        assert doc and "Never:" in doc, f"{package}/__init__.py is no map"
    ignored = (ROOT / "feature_repo" / ".feastignore").read_text().split()
    own = {path.name for path in (ROOT / "feature_repo").glob("*.py")} - {"__init__.py"}
    assert own <= set(ignored), f"list in .feastignore: {own - set(ignored)}"


def test_there_is_no_drawer_for_everything():
    for package in OURS:
        for path in modules(package):
            assert path.stem not in {"utils", "util", "helpers", "common", "core", "misc"}, path


def test_no_module_grows_past_the_second_idea():
    for package in OURS:
        for path in modules(package):
            lines = len(path.read_text().splitlines())
            assert lines <= 420, f"{path.relative_to(ROOT)} has {lines} lines; look for the second idea"
