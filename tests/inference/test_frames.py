"""Every kind of frame gives the right values or an error that names row and column."""

import decimal
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from inference.features import OnlineFeatures
from inference.predict import predict_frame
from punctual.errors import InvalidRequest
from punctual.home import Home

NOW = datetime(2024, 2, 20, 12, 0, tzinfo=UTC)
PROMISED = datetime(2024, 2, 21, 8, 0, tzinfo=UTC)
ROWS = [
    {"courier": "A", "depot": "D1", "route": 2, "weight_grams": 2_500, "promised": PROMISED},
    {"courier": "B", "depot": None, "route": 3, "weight_grams": 400, "promised": PROMISED},
]


@pytest.fixture
def online(domain, use_case):
    return OnlineFeatures(domain, use_case)


@pytest.fixture
def expected(online):
    return online.read(ROWS, NOW)


def frame(**changes):
    return pd.DataFrame(ROWS).assign(**changes)


FRAMES = {
    "generator": lambda: (dict(row) for row in ROWS),
    "arrow": lambda: pa.Table.from_pylist(ROWS),
    "polars": lambda: pl.DataFrame(ROWS),
    "pandas": frame,
    "category as key": lambda: frame(courier=pd.Categorical(["A", "B"])),
    "key in the index": lambda: frame().set_index("courier"),
    "two keys in the index": lambda: frame().set_index(["courier", "route"]),
    "key in the index beside one without a name": lambda: (
        frame(place=[7, 8]).set_index(["courier", "place"]).rename_axis(["courier", None])
    ),
    "nullable types": lambda: frame().convert_dtypes(),
    "arrow types": lambda: frame().convert_dtypes(dtype_backend="pyarrow"),
    "floats that are whole": lambda: frame(route=[2.0, 3.0], weight_grams=[2_500.0, 400.0]),
    "missing keys as NaN": lambda: frame(depot=["D1", float("nan")]),
    "missing keys as NA": lambda: frame(depot=pd.array(["D1", pd.NA], "string")),
    "small integers": lambda: frame(route=np.array([2, 3], np.int8)),
    "numpy values": lambda: frame(route=pd.Series([np.int32(2), np.float64(3.0)], dtype=object)),
    "decimals": lambda: frame(weight_grams=[decimal.Decimal(2_500), decimal.Decimal(400)]),
    "moments of another zone": lambda: frame(
        promised=frame()["promised"].dt.tz_convert("Asia/Kolkata")
    ),
    "moments as text": lambda: frame(promised="2024-02-21T09:00:00+01:00"),
    "a column more": lambda: frame(note="mine", other=[1, "mixed"]),
}


@pytest.mark.parametrize("form", FRAMES)
def test_every_frame_gives_the_same_features(online, expected, form):
    assert online.read(FRAMES[form](), NOW).equals(expected)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            lambda: frame().rename(columns={"courier": "Courier"}),
            "column 'courier' is missing; the rows have Courier, depot, route, weight_grams,"
            r" promised. Is it 'Courier'\? Rename it.",
        ),
        (
            lambda: frame().rename(columns={"depot": "dep0t"}),
            r"column 'dep0t' is unknown. Did you mean 'depot'\?",
        ),
        (lambda: frame().drop(columns=["route"]), "column 'route' is missing"),
        (
            lambda: frame(route=[2, "three"], courier=["A", 7]),
            r"rows\[1\].courier is 7; expected a valid string; "
            r"rows\[1\].route is 'three'; expected a valid integer",
        ),
        (lambda: frame(route=[2.5, 3.0]), r"rows\[0\].route is 2.5; expected a valid integer"),
        (lambda: frame(route=[2**63, 3]), r"rows\[0\].route is 9223372036854775808; expected an"),
        (lambda: frame(route=[True, False]), r"rows\[0\].route is True; expected a valid integer"),
        (
            lambda: pd.concat([frame(), frame()[["route"]]], axis=1),
            "more than one column 'route'; give each column a name of its own",
        ),
        (lambda: ROWS[0], "the rows came as dict; expected a pandas, polars or Arrow frame"),
        (lambda: "A", "the rows came as str; expected"),
        (lambda: [ROWS[0], "B"], r"rows\[1\] is str; expected a mapping"),
    ],
)
def test_all_problems_of_a_frame_are_reported_at_once(online, rows, said):
    with pytest.raises(InvalidRequest, match=said):
        online.read(rows(), NOW)


def test_an_error_about_many_rows_names_the_first(online):
    many = pd.concat([frame(courier=7)] * 50, ignore_index=True)
    with pytest.raises(InvalidRequest, match=r"^[^\n]*rows\[19\].*; and 80 more"):
        online.read(many, NOW)


def test_a_frame_without_rows_gives_one_without_rows(home, online, expected):
    assert online.read(frame().head(0), NOW).equals(expected.slice(0, 0))
    assert online.read([], NOW).num_rows == 0
    predicted = predict_frame(Home.at(), "parcel_lateness", frame().head(0), NOW)
    assert len(predicted) == 0
    whole = predict_frame(Home.at(), "parcel_lateness", frame(), NOW)
    assert predicted.columns.tolist() == whole.columns.tolist()


def test_a_prediction_is_refused_for_a_null_key_as_by_the_server(home):
    with pytest.raises(InvalidRequest, match=r"rows\[1\].courier is null; expected a valid string"):
        predict_frame(Home.at(), "parcel_lateness", frame(courier=["A", None]), NOW)
