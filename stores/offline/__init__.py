"""The Feast offline store: the point-in-time join in event time and knowledge time.

A history that fits into memory is joined by NumPy, a longer one by DuckDB.

Comes in: entity rows and published tables. Goes out: the features each entity row could know.
Never: writes a table of its own accord, or asks the clock.
"""

from typing import TYPE_CHECKING

from punctual.lazy import exports_of

if TYPE_CHECKING:
    from stores.offline.store import AsofOfflineStore as AsofOfflineStore
    from stores.offline.store import AsofOfflineStoreConfig as AsofOfflineStoreConfig
    from stores.offline.store import historical_features as historical_features
    from stores.offline.store import point_in_time_join as point_in_time_join
    from stores.offline.view_columns import refuse_mark as refuse_mark

__getattr__ = exports_of(__name__)
