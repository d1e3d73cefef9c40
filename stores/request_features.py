"""Computes on-demand (request-time) features, for the offline join and for online reads alike."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import OnDemandFeatureView
from feast.type_map import feast_value_type_to_pa
from feast.types import FeastType

from punctual.errors import InvalidDeclaration, InvalidRequest


def inputs_of(view: OnDemandFeatureView) -> dict[str, str]:
    """The inputs of the view's function: each input's name and full column name.

    The full name of a feature is `view__feature`; a request column has one name only.
    """
    inputs = {name: name for name in view.get_request_data_schema()}
    for projection in view.source_feature_view_projections.values():
        inputs.update(
            {
                feature.name: f"{projection.name_to_use()}__{feature.name}"
                for feature in projection.features
            }
        )
    return inputs


def run(view: OnDemandFeatureView, columns: dict[str, list[Any]], rows: int) -> dict[str, pa.Array]:
    """The view's features, by short name, each as an Arrow array of its declared type.

    `columns` has the inputs by short name, each with `rows` values. Raises `InvalidDeclaration` if
    the function does not return the features that the view declares.
    """
    # Punctual declares `python` mode, with mappings; a function in `pandas` mode maps data frames.
    udf = view.feature_transformation.udf  # type: ignore[union-attr]
    if view.singleton:
        each = [
            udf(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)
        ]
        result = {
            feature.name: [row.get(feature.name) for row in each] for feature in view.features
        }
    else:
        result = udf(pd.DataFrame(columns) if view.mode == "pandas" else columns)
    arrays: dict[str, pa.Array] = {}
    problems: list[str] = []
    for feature in view.features:
        values = result.get(feature.name)
        type_ = arrow_type(feature.dtype)
        if values is None or len(values) != rows:
            problems.append(
                f"returned {'no values' if values is None else f'{len(values)} values'} for"
                f" '{feature.name}', expected {rows}."
            )
            continue
        try:
            arrays[feature.name] = pa.array(values, type=type_, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            problems.append(
                f"returned values for '{feature.name}' that are not {feature.dtype}: {error}."
            )
    if problems:
        raise InvalidDeclaration(f"on-demand view '{view.name}'", problems)
    return arrays


@cache
def arrow_type(type_: FeastType) -> pa.DataType:
    """The Arrow type of a feature's values; timestamps are in UTC."""
    # Cached because Feast rebuilds its whole table of types in every call.
    found = feast_value_type_to_pa(type_.to_value_type())
    return pa.timestamp("us", "UTC") if pa.types.is_timestamp(found) else found


def append(
    table: pa.Table,
    views: Sequence[OnDemandFeatureView],
    requested: dict[str, list[str]],
    *,
    full_names: bool,
) -> pa.Table:
    """The table with the requested features of each view appended as columns.

    Raises `InvalidRequest` if an input is not in the table or a feature has the name of a column,
    and the errors of `run`.
    """
    for view in views:
        columns: dict[str, list[Any]] = {}
        for name, full_name in inputs_of(view).items():
            column = full_name if full_name in table.column_names else name
            if column not in table.column_names:
                raise InvalidRequest(
                    f"on-demand view '{view.name}' needs column '{name}'; the entity frame has"
                    f" {', '.join(table.column_names)}."
                )
            columns[name] = table[column].to_pylist()
        arrays = run(view, columns, table.num_rows)
        prefix = f"{view.projection.name_to_use()}__" if full_names else ""
        for feature in requested.get(view.projection.name_to_use(), []):
            if prefix + feature in table.column_names:
                raise InvalidRequest(
                    f"feature '{prefix + feature}' of on-demand view '{view.name}' has the name"
                    " of an existing column;"
                    " use full_feature_names=True or rename the column."
                )
            table = table.append_column(prefix + feature, arrays[feature])
    return table
