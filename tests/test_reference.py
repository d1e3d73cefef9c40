"""docs/reference.md says what the code does; its examples are a domain that loads and builds."""

import dataclasses
import inspect
import re
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest

import punctual
from orchestration.steps import steps_of
from pipelines.build import build
from punctual import column_types, name_checks, use_case
from punctual.column_types import column_type
from punctual.errors import ExitCode
from punctual.home import Home
from punctual.loaded_domain import LoadedDomain
from punctual.progress import Progress
from punctual.repository import load_domain
from punctual.times import duration_text, moment
from punctual.value_checks import _LABEL_KINDS, METRICS
from training.fit import DEFAULTS

PAGE = (Path(__file__).parent.parent / "docs" / "reference.md").read_text()
EXPORTS = sorted(re.findall(r"import (\w+) as \1", inspect.getsource(punctual)))
FILE = re.compile(r"<!-- file: (\w+\.py) -->\n```python\n(.*?)```", re.DOTALL)
TABLE = re.compile(r"((?:^\|.*\|\n)+)", re.MULTILINE)


def section(name):
    """The text under a heading, up to the next heading."""
    match = re.search(rf"^##+ `?{re.escape(name)}`?\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
    assert match, f"docs/reference.md has no section {name!r}"
    return match[1]


def table(text, *columns):
    """The cells of the table with these column names, without the marks of code."""
    for found in TABLE.findall(text):
        head, _, *rows = (
            [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in found.splitlines()
        )
        if head[: len(columns)] == list(columns):
            return [[bare(cell) for cell in row] for row in rows]
    raise AssertionError(f"no table of {columns}")


def bare(cell):
    return cell[1:-1] if re.fullmatch(r"`[^`]*`", cell) else cell


def names(cell):
    """The texts that a cell marks as code."""
    return set(re.findall(r"`([^`]+)`", cell)) or ({cell} if cell else set())


def declared_defaults(thing):
    """Every parameter of a declaration, with its default; `*required*` where there is none."""
    factories = {
        field.name: field.default_factory()
        for field in (dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ())
        if field.default_factory is not dataclasses.MISSING
    }
    return {
        name: "*required*"
        if parameter.default is inspect.Parameter.empty
        else factories.get(name, parameter.default)
        for name, parameter in inspect.signature(thing).parameters.items()
    }


@pytest.mark.parametrize("name", EXPORTS)
def test_a_declaration_has_the_options_and_defaults_of_the_page(name):
    known = {**{each: getattr(punctual, each) for each in EXPORTS}, "timedelta": timedelta}
    documented = {
        option: default if default == "*required*" else eval(default, dict(known))
        for option, default, _ in table(section(name), "option", "default", "meaning")
    }
    assert documented == declared_defaults(getattr(punctual, name))


def test_recipe_parameters_and_their_defaults():
    rows = table(section("Recipe"), "parameter", "expected", "default")
    assert {row[0]: row[1] for row in rows} == use_case._RECIPE_PARAMETERS
    given = {name: eval(default) for name, _, default in rows if default != "XGBoost's"}
    assert given == DEFAULTS


def test_metrics_and_which_way_they_point():
    rows = table(section("Metrics"), "metric", "task", "better is")
    assert {(name, task) for name, task, _ in rows} == {
        (name, task) for task, found in METRICS.items() for name in found
    }
    assert {name for name, _, _ in rows} == set(get_args(use_case.Metric))
    assert {name for name, _, better in rows if better == "lower"} == use_case.LOWER_IS_BETTER


def test_column_types_and_what_each_may_be_used_for():
    rows = table(section("Column types"), "type", "also")
    assert {row[0] for row in rows if "(" not in row[0]} == set(column_types._TYPES)
    for declared, also, *uses in rows:
        type_ = column_type(declared)
        if type_.kind != "decimal":
            assert names(also) == {
                name for name, of in column_types._ALIASES.items() if of == declared
            }, declared
        labels = ", ".join(task for task, kinds in _LABEL_KINDS.items() if type_.kind in kinds)
        expected = [
            bool(type_.feast) and type_.kind != "decimal",
            bool(type_.feast),
            type_.is_exact,
            type_.kind == "boolean",
        ]
        assert uses == [*("yes" if each else "no" for each in expected), labels or "no"], declared


def test_types_of_request_columns():
    rows = table(section("RequestFeature"), "Feast's type", "column of the requests")
    assert {feast: re.search(r"[A-Z]+", of)[0] for feast, of in rows} == column_types._OF_FEAST


def test_names_that_are_the_platforms_own():
    rows = dict(table(section("Names"), "of", "names that may not be given"))
    assert {of: names(cell) for of, cell in rows.items()} == {
        "columns of events, features, join keys": set(name_checks._TABLE_COLUMNS),
        "columns of requests": set(name_checks._REQUEST_COLUMNS),
        "columns of sources": {*name_checks._SOURCE_COLUMNS, "__"},
        "rules": set(name_checks._RULE_NAMES),
    }
    assert f"at most {name_checks.MAX_CHARACTERS} characters" in section("Names")


def test_exit_codes():
    rows = table(section("Exit codes"), "code", "name", "meaning")
    assert {name: int(code) for code, name, _ in rows} == {each.name: each for each in ExitCode}


@pytest.fixture(scope="module")
def files():
    """The page's examples, put together to the modules of a domain."""
    found = {}
    for name, text in FILE.findall(PAGE):
        found[name] = found.get(name, "") + text + "\n\n"
    assert PAGE.count("```python") == len(FILE.findall(PAGE)), "an example belongs to no file"
    return found


@pytest.fixture
def library(files, tmp_path):
    """The domain of the page's examples in a repository and a data folder of its own."""
    repository = tmp_path / "repository"
    (repository / "library").mkdir(parents=True)
    original = Path(__file__).parent.parent / "feature_repo" / "feature_store.yaml"
    (repository / "feature_store.yaml").write_bytes(original.read_bytes())
    for name, text in files.items():
        (repository / "library" / name).write_text(text)
    return load_domain(Home.at(tmp_path / "home", repository), "library")


def test_the_examples_are_a_domain_that_builds(library: LoadedDomain):
    raw = library.home.path("raw")
    raw.mkdir(parents=True)
    (raw / "books.csv").write_text("book_id,pages\n1,120\n2,900\n")
    (raw / "loans.csv").write_text(
        "loan_id,member_id,book_id,branch,return_branch,borrowed_at,returned_at\n"
        "1,7,1,north,south,2024-11-01 10:00,2024-11-05 10:00\n"
        "2,7,2,north,north,2024-11-02 10:00,2024-11-29 10:00\n"
        "3,7,2,north,north,2024-11-30 10:00,\n"
        "4,7,3,north,north,2024-11-30 11:00,\n"
    )
    built = build(library, moment("2024-12-01T06:00Z"), Progress(quiet=True))
    assert {each.source: each.quarantined for each in built.sources} == {"books": 0, "loans": 1}
    assert {each.events: each.new for each in built.events} == {
        "returns": 2,
        "loans_made": 3,
        "outcomes": 2,
    }
    assert {each.view for each in built.views} == set(library.views)


def test_names_of_features_that_the_page_gives(library):
    given = {feature.name for view in library.views.values() for feature in view.features}
    assert {"returns_count_30d", "is_late_share_30d"} <= given
    read = library.service_projections("late_return_v1")
    assert "return_branch_returns" in {each.name_to_use() for each in read}


def test_the_table_of_steps(library):
    default = dataclasses.replace(
        library.domain, schedule=declared_defaults(punctual.Domain)["schedule"], time_limits={}
    )
    steps = {each.name: each for each in steps_of(dataclasses.replace(library, domain=default))}
    rows = table(section("Steps"), "step", "runs", "cron (UTC)", "time limit", "after", "condition")
    assert {row[0] for row in rows} == set(steps)
    for name, _, cron, limit, after, condition in rows:
        step = steps[name]
        assert cron == step.cron
        assert limit == duration_text(timedelta(seconds=step.timeout_seconds))
        assert names(after) == set(step.after)
        wanted = f"only with a {step.needs}" if step.needs else ""
        wanted = wanted or (
            f"first run only without a {step.first_run_without}" if step.first_run_without else ""
        )
        assert condition == wanted
        assert (step.retries, step.retry_delay_seconds) == (2, 15), "the page says 15 and 30 s"
