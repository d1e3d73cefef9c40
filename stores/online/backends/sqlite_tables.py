"""The tables that hold packed records in SQLite, and the statements that read them."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from stores.online.records import new_generation_name
from stores.online.view import OnlineView
from stores.tables import quoted

# Where the key is one integer, it is the row's number: no index beside the rows, and pages that are
# filled to the end.
CREATE_TABLE = {
    True: "CREATE TABLE {} (key INTEGER PRIMARY KEY, record BLOB NOT NULL)",
    False: "CREATE TABLE {} (key BLOB PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
}


INTEGER_KEY = ".n"  # how the names of such places end


SIGN = 1 << 63
_unpack = struct.Struct(">Q").unpack


@lru_cache(maxsize=256)  # names of places come and go
def select_many(generations: tuple[str, ...], size: int) -> str:
    """A SELECT of the record per key and place, for so many keys; sqlite3 keeps it compiled."""
    keys = ", ".join(f"({number}, ?)" for number in range(size))
    records = ", ".join(f"p{number}.record" for number in range(len(generations)))
    joins = " ".join(
        f"LEFT JOIN {quoted(generation)} AS p{number} ON p{number}.key = wanted.key"
        for number, generation in enumerate(generations)
    )
    return (
        f"WITH wanted(number, key) AS (VALUES {keys}) SELECT number, {records} FROM wanted {joins}"
    )


@lru_cache(maxsize=256)
def select_one(groups: tuple[tuple[str, ...], ...]) -> str:
    """A SELECT of one row: a record per place of each group, whose one key is the group's
    parameter.
    """
    records = [
        f"(SELECT record FROM {quoted(generation)} WHERE key = ?{number})"
        for number, generations in enumerate(groups, 1)
        for generation in generations
    ]
    return f"SELECT {', '.join(records)}"


def column_keys(generation: str, keys: Sequence[bytes | None]) -> list[Any]:
    """The keys as the place has them."""
    if not generation.endswith(INTEGER_KEY):
        return list(keys)
    return [None if key is None else _unpack(key)[0] - SIGN for key in keys]


def new_table_name(view: OnlineView) -> str:
    """A name for a new table of the view's records; it says how its key is stored."""
    return new_generation_name(view) + (INTEGER_KEY if view.entity_keys.is_integer else "")


def create_table(connection: sqlite3.Connection, generation: str) -> None:
    """Create the table that bears this name."""
    connection.execute(CREATE_TABLE[generation.endswith(INTEGER_KEY)].format(quoted(generation)))


def tables_of(connection: sqlite3.Connection, schema: str) -> list[str]:
    """All places of a schema, those too that nobody will read any more."""
    found = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB ?", (f"*.{schema}.*",)
    )
    return [str(name) for (name,) in found.fetchall()]


def other_schemas(connection: sqlite3.Connection, view: OnlineView) -> list[str]:
    """What other definitions of the view are called."""
    others = "SELECT schema FROM places WHERE project = ? AND name = ? AND schema <> ?"
    return [
        str(schema)
        for (schema,) in connection.execute(
            others, (view.project, view.name, view.schema)
        ).fetchall()
    ]


def drop_tables(connection: sqlite3.Connection, schema: str) -> None:
    """Drop every table of records of a schema."""
    for generation in tables_of(connection, schema):
        connection.execute(f"DROP TABLE {quoted(generation)}")
    connection.execute("DELETE FROM places WHERE schema = ?", (schema,))
