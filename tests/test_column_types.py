"""Every type that a source may declare: file, training row, online store and request."""

import datetime as dt
import shutil
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from inference.features import OnlineFeatures
from inference.request_rows import checked_rows, row_model
from pipelines.build import build
from pipelines.materialize import apply_definitions, materialize
from punctual.column_types import UnknownColumnType, column_type
from punctual.errors import InvalidDeclaration
from punctual.home import Home
from punctual.progress import Progress
from punctual.repository import feature_store, load_domain
from stores.offline import historical_features
from stores.tables import known_events

REPOSITORY = Path(__file__).parent / "repository"
NOW = datetime(2024, 1, 10, tzinfo=UTC)
SINGLE = 0.100000001490116119384765625  # 0.1 as a 32-bit float

# For each type: the text of four rows, their values, and their feature values.
VALUES = {
    "BOOLEAN": (["true", "false", "", "true"], [True, False, None, True], None),
    "TINYINT": (["-128", "127", "", "0"], [-128, 127, None, 0], None),
    "SMALLINT": (["-32768", "32767", "", "7"], [-(2**15), 2**15 - 1, None, 7], None),
    "INTEGER": (["-2147483648", "2147483647", "", "7"], [-(2**31), 2**31 - 1, None, 7], None),
    "BIGINT": (
        ["-9223372036854775808", "9223372036854775807", "", "9007199254740993"],
        [-(2**63), 2**63 - 1, None, 2**53 + 1],
        None,
    ),
    "UTINYINT": (["0", "255", "", "1"], [0, 255, None, 1], None),
    "USMALLINT": (["0", "65535", "", "1"], [0, 65_535, None, 1], None),
    "UINTEGER": (["0", "4294967295", "", "1"], [0, 2**32 - 1, None, 1], None),
    "FLOAT": (["-0.5", "0.1", "", "16777217"], [-0.5, SINGLE, None, 16_777_216.0], None),
    "DOUBLE": (
        ["-0.1", "1.7e308", "", "0.30000000000000004"],
        [-0.1, 1.7e308, None, 0.1 + 0.2],
        None,
    ),
    "DECIMAL(15, 2)": (
        ["-9999999999999.99", "0.10", "", "1234567890123.45"],
        [Decimal("-9999999999999.99"), Decimal("0.10"), None, Decimal("1234567890123.45")],
        [-9999999999999.99, 0.1, None, 1234567890123.45],
    ),
    "DECIMAL(18, 9)": (
        ["-999999999.999999999", "0.000000001", "", "1"],
        [Decimal("-999999999.999999999"), Decimal("0.000000001"), None, Decimal("1.000000000")],
        None,
    ),
    "VARCHAR": (["Ærø ✈", '\' "" ;', "", "NULL"], ["Ærø ✈", "' \" ;", None, "NULL"], None),
    "DATE": (
        ["1900-01-01", "2261-12-31", "", "2024-02-29"],
        [dt.date(1900, 1, 1), dt.date(2261, 12, 31), None, dt.date(2024, 2, 29)],
        None,
    ),
    "TIME": (
        ["00:00:00", "23:59:59.999999", "", "12:30:00"],
        [dt.time(0), dt.time(23, 59, 59, 999_999), None, dt.time(12, 30)],
        None,
    ),
    "TIMESTAMP": (
        ["1900-01-01 00:00:00", "2261-12-31 23:59:59.999999", "", "2024-01-01 00:00:00.000001"],
        [
            datetime(1900, 1, 1),
            datetime(2261, 12, 31, 23, 59, 59, 999_999),
            None,
            datetime(2024, 1, 1, 0, 0, 0, 1),
        ],
        [
            datetime(1900, 1, 1, tzinfo=UTC),
            datetime(2261, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            None,
            datetime(2024, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        ],
    ),
    "TIMESTAMPTZ": (
        ["1900-01-01 00:00:00+00", "2261-12-31 23:59:59.999999Z", "", "2024-01-01 01:00:00+01:00"],
        [
            datetime(1900, 1, 1, tzinfo=UTC),
            datetime(2261, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            None,
            datetime(2024, 1, 1, tzinfo=UTC),
        ],
        None,
    ),
}
COLUMNS = {kind: f"c{number}" for number, kind in enumerate(VALUES)}
FEATURES = [kind for kind in VALUES if column_type(kind).feast]
MEASURES = [kind for kind in VALUES if column_type(kind).is_exact]
KEYS = [kind for kind in FEATURES if column_type(kind).kind != "decimal"]
IDS = ["DATE", "TIME", "DECIMAL(18, 9)", "UINTEGER", "TIMESTAMPTZ"]
REQUESTED = ["BOOLEAN", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "VARCHAR", "TIMESTAMPTZ"]

DOMAIN = f"""
from datetime import timedelta
from feast import Entity, FeatureService, Field, RequestSource
from feast.types import Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp
from punctual import (
    CsvSource,
    Domain,
    Events,
    Label,
    RequestFeature,
    TimeSplit,
    UseCase,
    count,
    latest_feature_view,
    request_feature_view,
    share,
    std,
    sum_of,
    windowed_feature_view,
)

DAY = timedelta(days=1)
columns = {{name: kind for kind, name in {COLUMNS!r}.items()}}
types_domain = Domain("kinds", "A column of every type")
file = CsvSource("file", "types.csv", {{"id": "BIGINT", **columns}}, key=("id",), null_values=("",))
select = (
    "SELECT *, TIMESTAMP '2024-01-02' AS event_timestamp,"
    " TIMESTAMP '2024-01-02' AS created_timestamp FROM file"
)
everything = Events("everything", (file,), select, ("id",), {{"id": "BIGINT", **columns}})
ids = {{"id_" + {COLUMNS!r}[kind]: kind for kind in {IDS!r}}}
known = ", ".join(
    f"coalesce({{name[3:]}}, (SELECT max({{name[3:]}}) FROM file)) AS {{name}}" for name in ids
)
later = select.replace("01-02", "01-05").replace("SELECT *", "SELECT *, " + known)
asked = Events("asked", (file,), later, ("id", *ids), {{"id": "BIGINT", **columns, **ids}})
outcome = Events("outcome", (file,), later, ("id", *ids), asked.columns)
thing = Entity(name="thing", join_keys=["id"], description="A row of the file")
newest = latest_feature_view(
    name="newest",
    entities=[thing],
    events=everything,
    every=DAY,
    available_after=timedelta(0),
    fields={{{COLUMNS!r}[kind]: kind for kind in {FEATURES!r}}},
    description="The row",
)
sums = windowed_feature_view(
    name="sums",
    entities=[thing],
    events=everything,
    every=DAY,
    available_after=timedelta(0),
    description="Sums",
    features=[
        *(sum_of({COLUMNS!r}[kind], over=("30d",), description=kind) for kind in {MEASURES!r}),
        share("c0", over=("30d",), description="BOOLEAN"),
    ],
)
for _kind in {KEYS!r}:
    _column = {COLUMNS!r}[_kind]
    globals()["by_" + _column] = windowed_feature_view(
        name="by_" + _column,
        entities=[Entity(name="of_" + _column, join_keys=[_column])],
        events=everything,
        every=DAY,
        available_after=timedelta(0),
        description=_kind,
        features=[count(over=("30d",), description="Rows")],
    )
    globals()["of_" + _column] = Entity(name="of_" + _column, join_keys=[_column])

request = RequestSource(name="request", schema=[
    Field(name=name, dtype=dtype)
    for name, dtype in zip(
        [{COLUMNS!r}[kind] for kind in {REQUESTED!r}],
        [Bool, Int32, Int64, Float32, Float64, String, UnixTimestamp],
    )
])


@request_feature_view(
    sources=[request],
    features=[RequestFeature("saw_" + {COLUMNS!r}[kind], String, kind) for kind in {REQUESTED!r}],
    description="What the function is given",
)
def echo(inputs):
    return {{
        "saw_" + name: [None if value is None else repr(value) for value in values]
        for name, values in inputs.items()
    }}


by_views = [globals()["by_" + {COLUMNS!r}[kind]] for kind in {KEYS!r}]
all_v1 = FeatureService(name="all_v1", features=[newest, sums, echo, *by_views])
every_type = UseCase(
    "every_type", "Every type", "binary", "all_v1", asked, Label("c0", of=outcome, horizon=DAY),
    TimeSplit("9d", "9d", "9d"), "roc_auc",
)
"""


@pytest.fixture(scope="module")
def types(tmp_path_factory):
    """A built and materialized domain with a column of every type; returns its home."""
    folder = tmp_path_factory.mktemp("types")
    repository = folder / "repository" / "kinds"
    repository.mkdir(parents=True)
    shutil.copy(REPOSITORY / "feature_store.yaml", repository.parent)
    (repository / "use_case.py").write_text(DOMAIN)
    home = Home.at(folder / "home", repository.parent)
    home.folder.mkdir()
    cells = zip(*(texts for texts, _, _ in VALUES.values()), strict=True)
    lines = [",".join(['"' + cell + '"' if cell else "" for cell in row]) for row in cells]
    numbered = [f"{number},{line}" for number, line in enumerate(lines)]
    (home.folder / "types.csv").write_text(
        "\n".join([f"id,{','.join(COLUMNS.values())}", *numbered])
    )
    domain = load_domain(home, "kinds")
    built = build(domain, NOW, Progress(quiet=True))
    assert built.sources[0].rows_clean == 4
    store = feature_store(home)
    apply_definitions(store, [domain])
    materialize(store, domain, NOW, Progress(quiet=True))
    return home


@pytest.fixture(scope="module")
def domain(types):
    return load_domain(types, "kinds")


@pytest.fixture(scope="module")
def training_rows(types, domain):
    """The requests with their features, in order of id, as training and batch read them."""
    requests = known_events(domain, domain.use_cases["every_type"].requests, as_of=NOW)
    rows = historical_features(
        feature_store(types),
        requests.drop_columns(["created_timestamp"]),
        feature_store(types).get_feature_service("all_v1"),
        as_of=NOW,
    )
    return rows.sort_by("id")


@pytest.fixture(scope="module")
def online(domain):
    return OnlineFeatures(domain, domain.use_cases["every_type"])


def request_rows():
    """The four rows as a caller sends them.

    A null is sent as the first row's value, and timestamps have a zone.
    """
    rows = []
    for number in range(4):
        row = {"id": number}
        for kind, (_, values, _) in VALUES.items():
            value = values[number] if values[number] is not None else values[0]
            if isinstance(value, datetime):
                value = value if value.tzinfo else value.replace(tzinfo=UTC)
            row[COLUMNS[kind]] = value
            row[f"id_{COLUMNS[kind]}"] = value
        rows.append(row)
    return rows


@pytest.mark.parametrize("kind", VALUES)
def test_a_column_keeps_its_values_from_the_file_to_the_training_set(training_rows, kind):
    assert training_rows[COLUMNS[kind]].to_pylist() == VALUES[kind][1]


@pytest.mark.parametrize("kind", FEATURES)
def test_a_feature_has_the_values_of_its_column_offline_and_online(training_rows, online, kind):
    _, values, as_feature = VALUES[kind]
    name = f"newest__{COLUMNS[kind]}"
    assert training_rows[name].to_pylist() == (as_feature or values)
    assert online.read(request_rows(), NOW)[name].to_pylist() == (as_feature or values)


@pytest.mark.parametrize("kind", MEASURES)
def test_a_sum_has_the_values_of_its_measure(training_rows, online, kind):
    values = VALUES[kind][1]
    name = f"sums__{COLUMNS[kind]}_sum_30d"
    is_integer = column_type(kind).kind == "integer"
    expected = [
        None if value is None else value if is_integer else float(value) for value in values
    ]
    assert training_rows[name].to_pylist() == expected
    assert online.read(request_rows(), NOW)[name].to_pylist() == expected


def test_a_share_of_a_boolean_is_null_where_it_is_unknown(training_rows):
    assert training_rows["sums__c0_share_30d"].to_pylist() == [1.0, 0.0, None, 1.0]


@pytest.mark.parametrize("kind", KEYS)
def test_a_join_key_finds_its_rows_offline_and_online(training_rows, online, kind):
    name = f"by_{COLUMNS[kind]}__everything_count_30d"
    values = VALUES[kind][1]
    expected = [None if value is None else values.count(value) for value in values]
    assert training_rows[name].to_pylist() == expected
    found = online.read(request_rows(), NOW)[name].to_pylist()
    assert [found[0], found[1], found[3]] == [expected[0], expected[1], expected[3]]


@pytest.mark.parametrize("kind", REQUESTED)
def test_a_request_column_reaches_a_function_as_in_training(training_rows, online, kind):
    name = f"echo__saw_{COLUMNS[kind]}"
    sent = checked_rows(row_model(online), [as_json(row) for row in request_rows()])
    found = online.read(sent, NOW)[name].to_pylist()
    expected = training_rows[name].to_pylist()
    assert [found[0], found[1], found[3]] == [expected[0], expected[1], expected[3]]


@pytest.mark.parametrize("kind", IDS)
def test_a_request_id_is_read_with_the_type_of_the_events(training_rows, online, kind):
    sent = checked_rows(row_model(online), [as_json(row) for row in request_rows()])
    found, name = [row[f"id_{COLUMNS[kind]}"] for row in sent], f"id_{COLUMNS[kind]}"
    expected = training_rows[name].to_pylist()
    assert [found[0], found[1], found[3]] == [expected[0], expected[1], expected[3]]


def as_json(row):
    """The row after a round trip through JSON."""

    def plain(value):
        return (
            value.isoformat()
            if isinstance(value, dt.date | dt.time)
            else (str(value) if isinstance(value, Decimal) else value)
        )

    asked = {
        "id",
        *(COLUMNS[kind] for kind in {*KEYS, *REQUESTED}),
        *(f"id_{COLUMNS[kind]}" for kind in IDS),
    }
    return {name: plain(value) for name, value in row.items() if name in asked}


@pytest.mark.parametrize(
    ("declared", "canonical"),
    [
        ("int", "INTEGER"),
        ("Long", "BIGINT"),
        ("string", "VARCHAR"),
        ("varchar(20)", "VARCHAR"),
        ("real", "FLOAT"),
        ("double  precision", "DOUBLE"),
        ("bool", "BOOLEAN"),
        ("timestamp with time zone", "TIMESTAMPTZ"),
        ("datetime", "TIMESTAMP"),
        ("decimal", "DECIMAL(18, 3)"),
        ("numeric( 9 )", "DECIMAL(9, 0)"),
        ("Decimal(9,2)", "DECIMAL(9, 2)"),
    ],
)
def test_a_type_is_known_by_every_alias_in_every_case(declared, canonical):
    assert column_type(declared).duckdb == canonical


@pytest.mark.parametrize(
    "declared",
    [
        "HUGEINT",
        "UBIGINT",
        "UUID",
        "JSON",
        "INTEGER[]",
        "TIMESTAMP_NS",
        "DECIMAL(38, 2)",
        "INTERVAL",
    ],
)
def test_an_unsupported_type_is_refused_with_the_supported_ones(declared):
    with pytest.raises(UnknownColumnType, match="18 digits"):
        column_type(declared)


def test_a_source_with_an_unknown_type_is_refused_when_the_domain_is_loaded(shop, tmp_path):
    path = tmp_path / "repository" / "shop" / "shop.py"
    path.write_text(path.read_text().replace('"cents": "BIGINT"', '"cents": "HUGEINT"', 1))
    with pytest.raises(InvalidDeclaration, match="source 'sales', column 'cents': type 'HUGEINT'"):
        load_domain(Home.at(), "shop")
