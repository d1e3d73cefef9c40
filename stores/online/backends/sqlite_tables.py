"""The SQLite tables of packed records, one per generation, and the statements that read them."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from stores.online.records import new_generation_name
from stores.online.view import OnlineView
from stores.tables import quoted

# An integer key is the rowid: the table needs no separate index, and its pages are filled densely.
CREATE_TABLE = {
    True: "CREATE TABLE {} (key INTEGER PRIMARY KEY, record BLOB NOT NULL)",
    False: "CREATE TABLE {} (key BLOB PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
}


# The suffix of the names of tables with an integer key.
INTEGER_KEY = ".n"


SIGN = 1 << 63
_unpack = struct.Struct(">Q").unpack


@lru_cache(maxsize=256)  # table names change with every rebuild
def select_many(generations: tuple[str, ...], size: int) -> str:
    """A SELECT of the record per key and generation for `size` keys; sqlite3 caches it."""
    keys = ", ".join(f"({number}, ?)" for number in range(size))
    records = ", ".join(f"view_{number}.record" for number in range(len(generations)))
    joins = "\n".join(
        f"LEFT JOIN {quoted(generation)} AS view_{number} ON view_{number}.key = wanted.key"
        for number, generation in enumerate(generations)
    )
    return f"""
        WITH wanted(number, key) AS (VALUES {keys})
        SELECT number, {records}
        FROM wanted
        {joins}
    """


@lru_cache(maxsize=256)
def select_one(groups: tuple[tuple[str, ...], ...]) -> str:
    """A SELECT of one row, with a record per generation; each group has one key, its parameter."""
    records = [
        f"(SELECT record FROM {quoted(generation)} WHERE key = ?{number})"
        for number, generations in enumerate(groups, 1)
        for generation in generations
    ]
    return f"SELECT {', '.join(records)}"


def column_keys(generation: str, keys: Sequence[bytes | None]) -> list[Any]:
    """The keys as values of the table's key column."""
    if not generation.endswith(INTEGER_KEY):
        return list(keys)
    return [None if key is None else _unpack(key)[0] - SIGN for key in keys]


def new_table_name(view: OnlineView) -> str:
    """A unique table name for the view's records; its suffix tells how keys are stored."""
    return new_generation_name(view) + (INTEGER_KEY if view.entity_keys.is_integer else "")


def create_table(connection: sqlite3.Connection, generation: str) -> None:
    """Create the table of a generation."""
    connection.execute(CREATE_TABLE[generation.endswith(INTEGER_KEY)].format(quoted(generation)))


def tables_of(connection: sqlite3.Connection, schema: str) -> list[str]:
    """The tables of a schema, those that no reader uses any more included."""
    found = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB ?", (f"*.{schema}.*",)
    )
    return [str(name) for (name,) in found.fetchall()]


def other_schemas(connection: sqlite3.Connection, view: OnlineView) -> list[str]:
    """The schemas of the view's other definitions."""
    others = """
        SELECT schema
        FROM places
        WHERE project = ? AND name = ? AND schema <> ?
    """
    return [
        str(schema)
        for (schema,) in connection.execute(
            others, (view.project, view.name, view.schema)
        ).fetchall()
    ]


def drop_tables(connection: sqlite3.Connection, schema: str) -> None:
    """Drop all tables of a schema, and its entry."""
    for generation in tables_of(connection, schema):
        connection.execute(f"DROP TABLE {quoted(generation)}")
    connection.execute("DELETE FROM places WHERE schema = ?", (schema,))


def drop_other_tables(connection: sqlite3.Connection, schema: str) -> None:
    """Drop all tables of a schema but that of the current generation."""
    current = [
        row[0] for row in connection.execute("SELECT place FROM places WHERE schema = ?", (schema,))
    ]
    for generation in tables_of(connection, schema):
        if generation not in current:
            connection.execute(f"DROP TABLE {quoted(generation)}")
    connection.execute("UPDATE places SET beside = NULL WHERE schema = ?", (schema,))


def delete_keys(connection: sqlite3.Connection, schema: str, keys: Sequence[bytes]) -> int:
    """Delete the records of some keys from all tables of a schema; returns their number."""
    removed = 0
    for generation in tables_of(connection, schema):
        # An earlier definition may have had keys of another type.
        possible = (
            [key for key in keys if len(key) == 8] if generation.endswith(INTEGER_KEY) else keys
        )
        delete = f"DELETE FROM {quoted(generation)} WHERE key = ?"
        removed += (
            connection.executemany(
                delete, [(key,) for key in column_keys(generation, possible)]
            ).rowcount
            if possible
            else 0
        )
    return removed
