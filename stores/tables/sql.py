"""DuckDB connections, and identifiers, strings, timestamps and files as SQL."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from punctual.times import micros
from stores.tables.spill import spill_folder

if TYPE_CHECKING:
    import duckdb


def quoted(name: str) -> str:
    """A column or table name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def file_literal(path: Path | str) -> str:
    """The path of one file as a SQL string literal, with DuckDB's glob characters escaped."""
    return literal(re.sub(r"[\[*?]", r"[\g<0>]", str(path)))


def parquet_rows(paths: Iterable[Path | str], *, file_row_number: bool = False) -> str:
    """The rows of Parquet files as a SQL relation; a folder such as `year=2020` adds no column."""
    files = ", ".join(map(file_literal, paths))
    numbered = "file_row_number = true, " if file_row_number else ""
    return f"read_parquet([{files}], {numbered}hive_partitioning = false)"


def timestamp(moment: datetime) -> str:
    """An aware datetime as a naive-UTC SQL timestamp, exact to the microsecond."""
    return f"make_timestamp({micros(moment)})"


def connect(
    *, memory_limit: str | None = None, threads: int | None = None, temporary: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """A new in-memory DuckDB connection with time zone UTC and the given limits.

    Data that does not fit into memory is spilled to a new folder in `temporary`, or in the system's
    temporary folder.
    """
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {}
    if memory_limit:
        config["memory_limit"] = memory_limit
    if threads:
        config["threads"] = threads
    config["temp_directory"] = str(spill_folder(temporary))
    connection = duckdb.connect(config=config)
    connection.execute("SET TimeZone = 'UTC'")
    # DuckDB's progress bar would overwrite Punctual's.
    connection.execute("SET enable_progress_bar = false")
    return connection
