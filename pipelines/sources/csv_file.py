"""Reads the rows of a CSV file as text, numbered, and separates the lines that are not rows."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from punctual.errors import BrokenSource, DataFolderError
from punctual.home import Home
from punctual.sources import CsvSource
from stores.tables import file_literal, literal, quoted

ROW_NUMBER = "row_number"

# With a larger share of invalid values or lines, the column or the file is wrong, not the rows.
MAX_INVALID_SHARE = 0.5


@contextmanager
def uncompressed_file(home: Home, source: CsvSource) -> Iterator[Path]:
    """The source as an uncompressed file; DuckDB reads no zip archives.

    Raises `BrokenSource` for a damaged archive, `DataFolderError` if the disk is full.
    """
    path = source.path(home)
    if path.suffix not in (".zip", ".gz"):
        yield path
        return
    scratch = home.path("scratch")
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        uncompressed = Path(folder) / path.stem
        try:
            with _opened(path) as compressed, uncompressed.open("wb") as file:
                shutil.copyfileobj(compressed, file)
        # A damaged archive raises any of these; an encrypted or unsupported one the last two.
        except (
            zipfile.BadZipFile,
            EOFError,
            OSError,
            zlib.error,
            RuntimeError,
            NotImplementedError,
        ) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG):
                raise DataFolderError(
                    f"cannot unpack {path} to {uncompressed}: {error.strerror}."
                    " Free space or choose another --home."
                ) from error
            raise BrokenSource(
                f"source '{source.name}': {path} is damaged and cannot be unpacked ({error})."
            ) from error
        yield uncompressed


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            yield file  # type: ignore[misc]
        return
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".csv")]
        if len(names) != 1:
            raise zipfile.BadZipFile(f"it holds {len(names)} CSV files, expected one")
        with archive.open(names[0]) as file:
            yield file  # type: ignore[misc]


def read_raw(
    connection: duckdb.DuckDBPyConnection, home: Home, source: CsvSource, path: Path
) -> list[str]:
    """Create `__raw` with every value as text, and `__rejected` with the lines that are not rows.

    Returns the columns of the file that are not declared. Raises `BrokenSource`.
    """
    expected = ", ".join(f"{name} {kind}" for name, kind in source.columns.items())
    header = _header(home, source, path, expected)
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in header)
    nulls = ", ".join(literal(value) for value in source.null_values)
    try:
        connection.execute(
            f"""
            CREATE TABLE __raw AS
            SELECT row_number() OVER () AS {ROW_NUMBER}, *
            FROM read_csv({file_literal(path)}, hive_partitioning = false,
                columns = {{{columns}}}, nullstr = [{nulls}],
                header = true, auto_detect = false, delim = ',', quote = '"', escape = '"',
                store_rejects = true, rejects_table = '__rejects',
                rejects_scan = '__rejects_scan')"""
        )
    except duckdb.Error as error:
        raise BrokenSource(
            f"source '{source.name}': {source.path(home)} cannot be read as CSV:"
            f" {str(error).splitlines()[0]} Expected: {expected}."
        ) from error
    # An unclosed quote makes one value of all following lines; quarantine lists each line itself.
    connection.execute(
        """
        CREATE TABLE __rejected AS
        SELECT line + generate_subscripts(lines, 1) - 1 AS line, unnest(lines) AS raw, reason
        FROM (
            SELECT line,
                CASE
                    WHEN bool_or(error_type = 'UNQUOTED VALUE')
                    THEN string_split(rtrim(any_value(csv_line), chr(13) || chr(10)), chr(10))
                    ELSE [any_value(csv_line)]
                END AS lines,
                string_agg(DISTINCT error_message, '; ' ORDER BY error_message) AS reason
            FROM __rejects
            GROUP BY line
        )"""
    )
    rows, rejected = row_count(connection, "__raw"), row_count(connection, "__rejected")
    if rows + rejected == 0:
        raise BrokenSource(
            f"source '{source.name}': {source.path(home)} has a header and no rows. Expected rows"
            f" of: {expected}."
        )
    if rejected > MAX_INVALID_SHARE * (rows + rejected):
        first = connection.execute(
            "SELECT line, reason FROM __rejected ORDER BY line LIMIT 1"
        ).fetchone()
        raise BrokenSource(
            f"source '{source.name}': {rejected} of {rows + rejected} lines of {source.path(home)}"
            f" are not rows, such as line {first[0] if first else ''}:"
            f" {first[1] if first else ''} Expected rows of: {expected}."
        )
    for row in source.supplement:
        values = ", ".join("NULL" if value is None else literal(str(value)) for value in row)
        names = ", ".join(map(quoted, source.columns))
        rows += 1
        connection.execute(f"INSERT INTO __raw ({ROW_NUMBER}, {names}) VALUES ({rows}, {values})")
    return [name for name in header if name not in source.columns]


def _header(home: Home, source: CsvSource, path: Path, expected: str) -> list[str]:
    """The column names in the first line; raises `BrokenSource` if one is missing or repeated."""
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            header = next(csv.reader(file), [])
    except csv.Error:
        header = ["\ufffd"]
    missing = [name for name in source.columns if name not in header]
    if missing:
        found = ", ".join(header) or "no columns"
        found = (
            found
            if found.isprintable() and "\ufffd" not in found and len(found) < 2_000
            else "no readable text"
        )
        raise BrokenSource(
            f"source '{source.name}': {source.path(home)} lacks column {', '.join(missing)}; it"
            f" has {found}. Expected: {expected}."
        )
    twice = sorted(
        {name for name in header if [other.lower() for other in header].count(name.lower()) > 1}
    )
    if twice or "" in header:
        what = f"column {', '.join(twice)} more than once" if twice else "a column without a name"
        raise BrokenSource(
            f"source '{source.name}': {source.path(home)} has {what}. Expected: {expected}."
        )
    return header


def row_count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    """The number of rows of a table."""
    return int((connection.execute(f"SELECT count(*) FROM {table}").fetchone() or (0,))[0])
