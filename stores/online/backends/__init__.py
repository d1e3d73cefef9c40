"""The storage of packed online records: SQLite or Redis.

Comes in: keys and bytes. Goes out: the same bytes.
Never: interprets a record.
"""
