"""What tests of the stores write by hand: moments, entity rows, and the loop that every join must equal."""

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa


def utc(hour, minute=0, microsecond=0):
    """A moment of 1 June 2013 as tables hold it: naive UTC."""
    return datetime(2013, 6, 1, hour, minute, 0, microsecond)


def at(*moments, driver=7):
    """Entity rows of one driver."""
    return pa.table({"driver": [driver] * len(moments), "event_timestamp": pa.array(moments, pa.timestamp("us", "UTC"))})


@dataclass(frozen=True)
class Row:
    """A row of a view's history; times are microseconds since any moment, `commit` is in order of publication."""

    keys: tuple
    event: int
    created: int
    values: tuple
    is_withdrawn: bool | None = False
    commit: int = 1


def shown(history, keys, at, ttl, *, two_time=True):
    """The values that the definition in `stores/offline.py` gives, found by looking at every row; None for nothing."""
    newest = None
    for row in history:
        if row.keys != keys or None in keys or row.event > at or (two_time and row.created > at):
            continue
        if newest is None or (row.event, row.created) > (newest.event, newest.created):
            newest = row
    if newest is None or newest.is_withdrawn or (ttl and newest.event + ttl < at):
        return None
    return newest.values
