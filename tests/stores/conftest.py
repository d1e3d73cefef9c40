"""Shared by the tests of the stores: how many examples Hypothesis tries, and tables of literal rows.

The default is for every run; `PUNCTUAL_EXAMPLES=100000 pytest --timeout=0 tests/stores` is the long form.
"""

import os

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings

from stores.table import CREATED, EVENT, Table, connect

settings.register_profile(
    "punctual",
    max_examples=int(os.environ.get("PUNCTUAL_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("punctual")

TIMES = [(EVENT, pa.timestamp("us")), (CREATED, pa.timestamp("us"))]


@pytest.fixture(scope="session")
def publish():
    """Appends literal rows to a table; times are naive UTC datetimes, or microseconds."""
    with connect() as connection:

        def publish(table: Table, columns: dict[str, pa.DataType], rows, built_until=None):
            schema = pa.schema([*columns.items(), *TIMES])
            values = list(zip(*rows, strict=True)) if rows else [[] for _ in schema]
            arrays = [pa.array(column, field.type) for column, field in zip(values, schema, strict=True)]
            connection.register("__rows", pa.table(arrays, schema=schema))
            return table.publish(connection, "FROM __rows", built_until)

        yield publish
