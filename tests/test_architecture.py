"""The picture of the layout, kept true by reading imports; lists of exceptions only shrink.

orchestration            starts stages and knows when they run
    |
pipelines  training  inference     one stage each; none imports another
    |
stores                   where stages meet, in rooms: tables offline online models predictions
    |
punctual                 what a domain declares and all agree on; knows no store and no stage
    |
feature_repo             one folder per domain; imports `punctual` and Feast only
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = {"pipelines", "training", "inference"}
MAY_IMPORT = {
    "feature_repo": {"punctual"},
    "punctual": set(),
    "stores": {"punctual"},
    "pipelines": {"punctual", "stores"},
    "training": {"punctual", "stores"},
    "inference": {"punctual", "stores"},
    "orchestration": {"punctual", "stores", *STAGES},
    "benchmarks": {"punctual", "stores", "inference"},
}
OURS = set(MAY_IMPORT)
# A room is imported through its `__init__`; inside a room its modules import one another.
ROOMS = {f"stores.{room}" for room in ("tables", "offline", "online", "models", "predictions")}
# Rooms that a room may import: offline, online and freshness read tables.
ROOM_MAY_IMPORT = {
    "stores.tables": set(),
    "stores.offline": {"stores.tables"},
    "stores.online": {"stores.tables", "stores.offline"},
    "stores.models": set(),
    "stores.predictions": set(),
}
# Only command lines read the clock, and Feast's interfaces, whose calls carry no time.
MAY_ASK_THE_CLOCK = {
    "punctual/clock.py",
    "stores/online/store.py",
    "stores/offline/store.py",
}


def modules(package):
    return sorted(
        path for path in (ROOT / package).rglob("*.py") if "__pycache__" not in path.parts
    )


def dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module):
    return next((room for room in ROOMS if module == room or module.startswith(f"{room}.")), None)


def imported(path):
    """Modules that a file imports, with whether the import runs when the file is imported."""
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
            yield name, id(node) not in inside


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_what_the_picture_allows(package):
    for path in modules(package):
        for name, _ in imported(path):
            top = name.split(".")[0]
            if top in OURS and top != package:
                assert top in MAY_IMPORT[package], f"{path.relative_to(ROOT)} imports {name}"


def test_a_room_of_the_stores_is_imported_through_its_init():
    for package in sorted(OURS - {"benchmarks"}):
        for path in modules(package):
            here = room_of(dotted(path))
            for name, _ in imported(path):
                room = room_of(name)
                if room is not None and room != here:
                    assert name == room, f"{path.relative_to(ROOT)} imports {name}, past {room}"


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_the_rooms_below_it(room):
    for path in modules(room.replace(".", "/")):
        for name, _ in imported(path):
            other = room_of(name)
            if other is not None and other != room:
                assert other in ROOM_MAY_IMPORT[room], f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("package", ["punctual", *sorted(ROOMS)])
def test_an_init_gives_every_name_that_it_lists(package):
    path = ROOT / package.replace(".", "/") / "__init__.py"
    block = next(node for node in ast.parse(path.read_text()).body if isinstance(node, ast.If))
    names = [alias.name for line in block.body for alias in line.names]
    module = __import__(package, fromlist=names)
    for name in names:
        assert getattr(module, name) is not None


def test_the_punctual_command_imports_a_stage_only_on_demand():
    for path in modules("orchestration"):
        for name, at_import in imported(path):
            assert not (at_import and name.split(".")[0] in STAGES), (
                f"{path.relative_to(ROOT)} imports {name} at its top"
            )


def test_no_platform_file_names_a_domain():
    domains = [path.parent.name for path in (ROOT / "feature_repo").glob("*/use_case.py")]
    for package in OURS:
        for path in modules(package):
            if set(path.relative_to(ROOT).parts) & set(domains):
                continue
            text = ast.unparse(_without_docstrings_and_examples(path))
            for domain in domains:
                assert f"feature_repo.{domain}" not in text, (
                    f"{path.relative_to(ROOT)} imports the domain {domain}"
                )


def _without_docstrings_and_examples(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def test_only_a_command_line_reads_the_clock():
    asks = {"now", "utcnow", "today"}
    for package in OURS:
        for path in modules(package):
            name = str(path.relative_to(ROOT))
            if name in MAY_ASK_THE_CLOCK or path.name == "__main__.py":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                    continue
                owner = node.func.value
                if (
                    node.func.attr in asks
                    and isinstance(owner, ast.Name)
                    and owner.id in {"datetime", "date", "pd"}
                ):
                    pytest.fail(f"{name}:{node.lineno} asks the clock")


def test_every_package_has_a_docstring():
    for package in OURS:
        for path in (ROOT / package).rglob("__init__.py"):
            doc = ast.get_docstring(ast.parse(path.read_text()))
            assert doc and "Never:" in doc, (
                f"{path.relative_to(ROOT)} has no docstring with a line that starts with Never"
            )


def test_the_feature_repository_holds_its_configuration_and_domains_only():
    files = {path.name for path in (ROOT / "feature_repo").iterdir() if path.is_file()}
    assert files == {"__init__.py", "feature_store.yaml"}


def test_no_module_is_called_common_or_utils():
    for package in OURS:
        for path in modules(package):
            assert path.stem not in {"utils", "util", "helpers", "common", "core", "misc"}, path


def test_no_module_is_longer_than_its_limit():
    for package in OURS:
        for path in modules(package):
            lines = len(path.read_text().splitlines())
            assert lines <= 420, f"{path.relative_to(ROOT)} has {lines} lines; split it by topic"
