"""An online view of ten drivers, with helpers that fill, rebuild and read it.

All values follow from one timestamp.
"""

from contextlib import contextmanager

from feast.types import Array, Int64, String

from stores.online import OnlineView
from stores.online.backend import Watermark
from stores.online.records import Rows

TRIPS = OnlineView(
    "test", "driver_trips", (("driver", Int64),), (("trips", Int64), ("note", String))
)
CHANGED = OnlineView("test", "driver_trips", (("driver", Int64),), (("trips", Array(Int64)),))
KEYS = [TRIPS.key(driver) for driver in range(10)]
OLD, NEW, LATER = 20, 30, 40


def rows(moment, keys=KEYS, note="x", view=TRIPS):
    times = [moment] * len(keys)
    columns = [times, [note] * len(keys)] if view is TRIPS else [[[moment]] * len(keys)]
    return Rows(keys, times, times, view.layout.rows(columns, times, times))


def shown(database, keys=KEYS, view=TRIPS):
    return [
        row.values[0] if row.status == "PRESENT" else row.status
        for row in database.read(view, keys, 50)
    ]


def rebuild(database, moment, keys=KEYS, view=TRIPS, before_swap=lambda: None):
    with database.records.exclusive(view):
        generation = database.records.new_generation(view)
        database.write(
            view, rows(moment, keys, view=view), 50, generation=generation, is_empty=True
        )
        before_swap()
        database.records.swap(view, generation, Watermark(1, moment))


def fill(database, moment=OLD, keys=KEYS, view=TRIPS):
    with database.records.exclusive(view):
        database.write(view, rows(moment, keys, view=view), 50, is_empty=True)
        database.records.move_watermark(view, Watermark(1, moment))


@contextmanager
def just_before(records, name, act):
    """Does something just before the next call of a method, as another process may."""
    method = getattr(records, name)

    def first(*arguments, **named):
        setattr(records, name, method)
        act()
        return method(*arguments, **named)

    setattr(records, name, first)
    yield
    setattr(records, name, method)
