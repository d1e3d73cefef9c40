"""Append-only tables of immutable Parquet files, and the only reader of events as of a time.

Comes in: rows with keys, `event_timestamp` and `created_timestamp`. Goes out: rows at a commit, and
the manifest that records them. Never: knows a domain, a stage or Feast.
"""

from typing import TYPE_CHECKING

from punctual.lazy import exports_of

if TYPE_CHECKING:
    from stores.tables.events import SUPERSEDED as SUPERSEDED
    from stores.tables.events import built_until as built_until
    from stores.tables.events import event_table as event_table
    from stores.tables.events import known_events as known_events
    from stores.tables.events import known_events_sql as known_events_sql
    from stores.tables.events import version_lifetimes as version_lifetimes
    from stores.tables.manifest import MANIFEST_FILE as MANIFEST_FILE
    from stores.tables.manifest import DataFile as DataFile
    from stores.tables.manifest import Manifest as Manifest
    from stores.tables.manifest import RowStatistics as RowStatistics
    from stores.tables.manifest import TableVersion as TableVersion
    from stores.tables.row_hash import canonical_hash as canonical_hash
    from stores.tables.sql import connect as connect
    from stores.tables.sql import file_literal as file_literal
    from stores.tables.sql import literal as literal
    from stores.tables.sql import parquet_rows as parquet_rows
    from stores.tables.sql import quoted as quoted
    from stores.tables.sql import timestamp as timestamp
    from stores.tables.sqlite_file import archive_database as archive_database
    from stores.tables.sqlite_file import archived_databases as archived_databases
    from stores.tables.sqlite_file import make_database as make_database
    from stores.tables.sqlite_file import sqlite_uri as sqlite_uri
    from stores.tables.table import CREATED as CREATED
    from stores.tables.table import EVENT as EVENT
    from stores.tables.table import PUBLISHER_LOCK as PUBLISHER_LOCK
    from stores.tables.table import WITHDRAWN as WITHDRAWN
    from stores.tables.table import Table as Table
    from stores.tables.write_errors import write_failure as write_failure
    from stores.tables.write_errors import writing as writing

__getattr__ = exports_of(__name__)
