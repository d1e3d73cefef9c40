"""Turns a raw file into clean rows, in DuckDB: read, type, deduplicate, clean, validate.

A rejected row goes to quarantine; an equal repetition of a row is counted.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import duckdb
import msgspec

from pipelines.sources.csv_file import (
    MAX_INVALID_SHARE,
    ROW_NUMBER,
    read_raw,
    row_count,
    uncompressed_file,
)
from punctual.column_types import column_type
from punctual.errors import BrokenSource, InvalidDeclaration, NotBuilt
from punctual.home import Home
from punctual.sources import CsvSource, digest
from stores.tables import connect, literal, parquet_rows, quoted, writing


class SourceReport(msgspec.Struct):
    """Row counts of a cleaning: `rows_in == rows_clean + quarantined + duplicates`.

    `stamp` identifies the input: the file's content, the contract and the sources that it reads.
    """

    source: str
    stamp: str
    rows_in: int
    supplemented: int
    rows_clean: int
    duplicates: int
    quarantined: int
    rules: dict[str, int]
    missing_values: dict[str, int]
    unused_columns: list[str]


def clean_path(home: Home, domain: str, source: str) -> Path:
    """The Parquet file with the clean rows of a source."""
    return home.path("clean", domain, f"{source}.parquet")


def quarantine_path(home: Home, domain: str, source: str) -> Path:
    """The Parquet file with the rejected rows of a source, with row number, rule and reason."""
    return home.path("quarantine", domain, f"{source}.parquet")


def clean_source(
    home: Home, domain: str, source: CsvSource, earlier: dict[str, SourceReport]
) -> SourceReport:
    """Clean a source, unless its file, its contract and the sources that it reads are unchanged.

    `earlier` has the reports of the sources that it reads. Raises `BrokenSource` before any file is
    replaced.
    """
    stamp = _stamp(home, source, earlier)
    report = read_report(home, domain, source.name)
    if (
        report is not None
        and report.stamp == stamp
        and clean_path(home, domain, source.name).exists()
    ):
        return report
    return _clean(home, domain, source, stamp)


def read_report(home: Home, domain: str, source: str) -> SourceReport | None:
    """The report of the last cleaning; None if the source was never cleaned."""
    path = clean_path(home, domain, source).with_suffix(".json")
    return msgspec.json.decode(path.read_bytes(), type=SourceReport) if path.exists() else None


def quarantined_rows(home: Home, domain: str, source: str, limit: int) -> list[dict[str, object]]:
    """Quarantined rows, at most `limit`, with row number, rule, reason and raw values.

    A line that cannot be parsed as a row has no row number. Raises `NotBuilt` if the source was
    never read.
    """
    path = quarantine_path(home, domain, source)
    if not path.exists():
        raise NotBuilt(f"source '{source}' was never read; run: punctual features build {domain}.")
    with connect() as connection:
        rows = connection.sql(
            f"SELECT {ROW_NUMBER} AS row, rule, reason, raw::VARCHAR AS raw"
            f" FROM {parquet_rows([path])} ORDER BY 1 LIMIT {limit}"
        )
        return list(rows.to_arrow_table().to_pylist())


def register_clean(
    connection: duckdb.DuckDBPyConnection, home: Home, domain: str, sources: tuple[CsvSource, ...]
) -> None:
    """Create a view of the clean rows of each source, under the source's name."""
    for source in sources:
        rows = parquet_rows([clean_path(home, domain, source.name)])
        connection.execute(f"CREATE OR REPLACE VIEW {quoted(source.name)} AS SELECT * FROM {rows}")


def _stamp(home: Home, source: CsvSource, reports: dict[str, SourceReport]) -> str:
    if not source.path(home).is_file():
        raise BrokenSource(
            f"source '{source.name}': file {source.path(home)} does not exist. Provide the file or"
            " change the source's location."
        )
    with source.path(home).open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return digest(
        repr((content, source.fingerprint, [reports[read.name].stamp for read in source.reads]))
    )


def _clean(home: Home, domain: str, source: CsvSource, stamp: str) -> SourceReport:
    target = clean_path(home, domain, source.name)
    quarantine = quarantine_path(home, domain, source.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    quarantine.parent.mkdir(parents=True, exist_ok=True)
    with connect() as connection, uncompressed_file(home, source) as path:
        register_clean(connection, home, domain, source.reads)
        unused = read_raw(connection, home, source, path)
        _type(connection, source)
        _deduplicate(connection, source)
        _apply_cleaning(connection, source)
        _apply_rules(connection, source)
        report = _report(connection, source, stamp, unused)
        # The old report is deleted first: after a crash no report describes other rows.
        target.with_suffix(".json").unlink(missing_ok=True)
        for table, path in (("__clean", target), ("__quarantine", quarantine)):
            _write_table(connection, table, path)
    write_atomically(target.with_suffix(".json"), msgspec.json.format(msgspec.json.encode(report)))
    return report


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content; a reader sees the old content or the new."""
    temporary = path.with_suffix(f"{path.suffix}.aside")
    with writing("the file", path):
        temporary.write_bytes(content)
        temporary.replace(path)


def _write_table(connection: duckdb.DuckDBPyConnection, table: str, path: Path) -> None:
    temporary = path.with_suffix(".aside")
    with writing("the rows", path):
        connection.execute(
            f"COPY (FROM {table}) TO {literal(str(temporary))} (FORMAT parquet, COMPRESSION zstd)"
        )
        temporary.replace(path)


def _raw_values(source: CsvSource, table: str) -> str:
    """SQL for the raw values of a row as a JSON object."""
    fields = ", ".join(f"{quoted(name)} := {table}.{quoted(name)}" for name in source.columns)
    return f"to_json(struct_pack({fields}))"


def _type(connection: duckdb.DuckDBPyConnection, source: CsvSource) -> None:
    """Create `__typed`, and `__quarantine` with the rows that have a value of another type."""
    casts = {name: _cast(name, kind) for name, kind in source.columns.items()}
    invalid = {
        name: f"{quoted(name)} IS NOT NULL AND {cast} IS NULL"
        for name, cast in casts.items()
        if column_type(source.columns[name]).kind != "text"
    }
    for name, condition in invalid.items():
        bad, filled, example = connection.execute(
            f"SELECT count(*) FILTER ({condition}), count({quoted(name)}), min({quoted(name)})"
            f" FILTER ({condition}) FROM __raw"
        ).fetchone() or (0, 0, None)
        if filled and bad > MAX_INVALID_SHARE * filled:
            raise BrokenSource(
                f"source '{source.name}': column '{name}' is not {source.columns[name]}: {bad} of"
                f" {filled} values cannot be read as that, such as '{example}'. Expected"
                f" {source.columns[name]}; correct the file or the source's contract."
            )
    messages = [
        f"CASE WHEN {condition} THEN {literal(f'{name} is not {source.columns[name]}: ')} ||"
        f" {quoted(name)} END"
        for name, condition in invalid.items()
    ]
    reasons = f"nullif(concat_ws('; ', {', '.join(messages)}), '')" if messages else "NULL"
    connection.execute(f"CREATE TABLE __checked AS SELECT *, {reasons} AS __reason FROM __raw")
    raw = _raw_values(source, "__checked")
    connection.execute(
        f"""
        CREATE TABLE __quarantine AS
        SELECT {ROW_NUMBER}, 'type' AS rule, __reason AS reason, {raw} AS raw
        FROM __checked
        WHERE __reason IS NOT NULL"""
    )
    connection.execute(
        """
        INSERT INTO __quarantine
        SELECT NULL, 'not a row', 'line ' || line || ': ' || reason, to_json(raw)
        FROM __rejected"""
    )
    columns = ", ".join(f"{cast} AS {quoted(name)}" for name, cast in casts.items())
    connection.execute(
        f"""
        CREATE TABLE __typed AS
        SELECT {ROW_NUMBER}, {columns}
        FROM __checked
        WHERE __reason IS NULL"""
    )


def _cast(name: str, kind: str) -> str:
    # DuckDB would round '1.5' to the INTEGER 2, and '1.555' to the DECIMAL(9, 2) 1.56.
    digits = column_type(kind).digits
    if digits is None:
        return f"TRY_CAST({quoted(name)} AS {kind})"
    form = rf"[+-]?[0-9]*(\.[0-9]{{0,{digits}}}0*)?" if digits else "[+-]?[0-9]+"
    return (
        f"CASE WHEN regexp_full_match(trim({quoted(name)}), '{form}') THEN"
        f" TRY_CAST({quoted(name)} AS {kind}) END"
    )


def _deduplicate(connection: duckdb.DuckDBPyConnection, source: CsvSource) -> None:
    """Create a table under the source's name with the first row of each key.

    An equal repetition of that row is dropped and counted, an unequal one quarantined.
    """
    keys = ", ".join(map(quoted, source.key))
    same = f"row({', '.join(map(quoted, source.columns))})"
    connection.execute(
        f"""
        CREATE TABLE __keyed AS
        SELECT *, first_value({ROW_NUMBER}) OVER of_key AS __first,
            {same} IS NOT DISTINCT FROM first_value({same}) OVER of_key AS __same
        FROM __typed
        WINDOW of_key AS (PARTITION BY {keys} ORDER BY {ROW_NUMBER})"""
    )
    no_key = " OR ".join(f"{quoted(key)} IS NULL" for key in source.key)
    _quarantine(
        connection,
        source,
        "__keyed",
        "key is null",
        literal(f"one of {', '.join(source.key)} is missing"),
        no_key,
    )
    _quarantine(
        connection,
        source,
        "__keyed",
        "key repeated",
        "'has the key of row ' || __first || ' and other values'",
        f"NOT ({no_key}) AND {ROW_NUMBER} <> __first AND NOT __same",
    )
    connection.execute(
        f"""
        CREATE TABLE {quoted(source.name)} AS
        SELECT * EXCLUDE (__first, __same)
        FROM __keyed
        WHERE {ROW_NUMBER} = __first AND NOT ({no_key})"""
    )


def _quarantine(
    connection: duckdb.DuckDBPyConnection,
    source: CsvSource,
    table: str,
    rule: str,
    reason: str,
    where: str,
) -> None:
    connection.execute(
        f"""
        INSERT INTO __quarantine
        SELECT {ROW_NUMBER}, {literal(rule)}, {reason}, {_raw_values(source, "__raw")}
        FROM (SELECT * FROM {table} WHERE {where}) AS rejected
        JOIN __raw USING ({ROW_NUMBER})"""
    )


def _apply_cleaning(connection: duckdb.DuckDBPyConnection, source: CsvSource) -> None:
    """Create `__cleaned` by the domain's SQL, which must give one row for each input row."""
    try:
        connection.execute(
            f"CREATE TABLE __cleaned AS {source.clean or f'FROM {quoted(source.name)}'}"
        )
    except duckdb.Error as error:
        raise InvalidDeclaration(
            f"source '{source.name}'", [f"its cleaning does not run: {error}"]
        ) from error
    columns = [name for name, *_ in connection.execute("DESCRIBE __cleaned").fetchall()]
    if ROW_NUMBER not in columns:
        raise InvalidDeclaration(
            f"source '{source.name}'",
            [f"its cleaning gives no column {ROW_NUMBER}; select that column too."],
        )
    before, after = row_count(connection, quoted(source.name)), row_count(connection, "__cleaned")
    distinct = connection.execute(f"SELECT count(DISTINCT {ROW_NUMBER}) FROM __cleaned").fetchone()
    if before != after or distinct != (after,):
        raise InvalidDeclaration(
            f"source '{source.name}'",
            [
                f"its cleaning made {after} rows of {before}; expected one for each, with its"
                f" {ROW_NUMBER}."
            ],
        )


def _apply_rules(connection: duckdb.DuckDBPyConnection, source: CsvSource) -> None:
    """Create `__clean` with the rows that break no rule.

    A row that breaks several rules is quarantined once, with the names of all of them.
    """
    rules = {rule.name: f"({rule.holds}) IS NOT DISTINCT FROM false" for rule in source.rules}
    if not rules:
        connection.execute("CREATE TABLE __clean AS FROM __cleaned")
        return
    broken = ", ".join(
        f"CASE WHEN {condition} THEN {literal(name)} END" for name, condition in rules.items()
    )
    try:
        connection.execute(
            f"""
            CREATE TABLE __judged AS
            SELECT *, concat_ws(', ', {broken}) AS __broken
            FROM __cleaned"""
        )
    except duckdb.Error as error:
        raise InvalidDeclaration(
            f"source '{source.name}'", [f"its rules do not run: {error}"]
        ) from error
    connection.execute(
        f"""
        INSERT INTO __quarantine
        SELECT {ROW_NUMBER}, __broken, 'breaks ' || __broken, {_raw_values(source, "__raw")}
        FROM (SELECT * FROM __judged WHERE __broken <> '') AS rejected
        JOIN __raw USING ({ROW_NUMBER})"""
    )
    connection.execute(
        "CREATE TABLE __clean AS SELECT * EXCLUDE (__broken) FROM __judged WHERE __broken = ''"
    )


def _report(
    connection: duckdb.DuckDBPyConnection, source: CsvSource, stamp: str, unused: list[str]
) -> SourceReport:
    raw, rejected = row_count(connection, "__raw"), row_count(connection, "__rejected")
    clean, quarantined = row_count(connection, "__clean"), row_count(connection, "__quarantine")
    has_key = " AND ".join(f"{quoted(key)} IS NOT NULL" for key in source.key)
    duplicates = connection.execute(
        f"SELECT count(*) FROM __keyed WHERE {ROW_NUMBER} <> __first AND __same AND {has_key}"
    ).fetchone()
    rules = {rule.name: 0 for rule in source.rules}
    for names, count in connection.execute(
        "SELECT rule, count(*) FROM __quarantine GROUP BY rule"
    ).fetchall():
        for name in str(names).split(", "):
            rules[name] = rules.get(name, 0) + count
    missing = {
        name: count
        for name in source.columns
        if (
            count := (
                connection.execute(
                    f"SELECT count(*) FROM __raw WHERE {quoted(name)} IS NULL"
                ).fetchone()
                or (0,)
            )[0]
        )
    }
    return SourceReport(
        source=source.name,
        stamp=stamp,
        rows_in=raw + rejected,
        supplemented=len(source.supplement),
        rows_clean=clean,
        duplicates=duplicates[0] if duplicates else 0,
        quarantined=quarantined,
        rules=rules,
        missing_values=missing,
        unused_columns=unused,
    )
