"""Where packed online records are kept: SQLite or Redis.

Comes in: keys and bytes. Goes out: the same bytes.
Never: knows what is in a record.
"""
