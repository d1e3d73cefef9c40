"""Appends rows that are pushed into a view to its table or Parquet file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView, FileSource

from punctual.errors import InvalidRequest, NotBuilt
from stores.offline.view_columns import declared_schema
from stores.offline.view_files import source_path
from stores.tables import WITHDRAWN, Table, connect


def append_to_table(view: FeatureView, target: Table, rows: pa.Table) -> None:
    """Publish rows as a new commit; rows without the column `is_withdrawn` withdraw nothing.

    Raises `InvalidRequest` where the columns do not fit the table.
    """
    files = target.files()
    expected = (
        pq.read_schema(target.root / files[0].path).remove_metadata()
        if files
        else declared_schema(view)
    )
    if WITHDRAWN in rows.column_names and not files:
        expected = expected.append(pa.field(WITHDRAWN, pa.bool_()))
    if WITHDRAWN in rows.column_names and WITHDRAWN not in expected.names:
        raise InvalidRequest(
            f"table '{target.name}' has no column {WITHDRAWN}, so its rows cannot be"
            " withdrawn; see Table.publish."
        )
    if WITHDRAWN in expected.names and WITHDRAWN not in rows.column_names:
        rows = rows.append_column(WITHDRAWN, pa.repeat(False, rows.num_rows))
    with connect() as connection:
        connection.register("__pushed", _cast_to(view, rows, expected))
        target.publish(connection, "FROM __pushed")


def append_to_file(view: FeatureView, rows: pa.Table, home: Path | None) -> None:
    """Add rows to a Parquet file without a manifest; a complete new file replaces the old one.

    Raises `NotBuilt` if the file does not exist.
    """
    source = view.batch_source
    path = source_path(source, home) if isinstance(source, FileSource) else None
    if path is None or not path.is_file():
        raise NotBuilt(
            f"view '{view.name}' has no table yet; build it before pushing rows into it."
        )
    existing = pq.read_table(path).replace_schema_metadata(None)
    temporary = path.with_name(f".{path.name}.aside")
    pq.write_table(pa.concat_tables([existing, _cast_to(view, rows, existing.schema)]), temporary)
    temporary.replace(path)


def _cast_to(view: FeatureView, rows: pa.Table, expected: pa.Schema) -> pa.Table:
    """The pushed rows with the columns and types of the existing rows."""
    missing = [name for name in expected.names if name not in rows.column_names]
    if missing:
        raise InvalidRequest(f"rows pushed into view '{view.name}' lack {', '.join(missing)}.")
    try:
        return rows.select(expected.names).cast(expected)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidRequest(
            f"rows pushed into view '{view.name}' do not fit its columns: {error}."
        ) from error
