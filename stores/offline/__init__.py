"""The Feast offline store: the point-in-time join in event time and knowledge time.

NumPy joins a history that fits into memory, DuckDB a longer one.

Comes in: entity rows and published tables. Goes out: the features known at each entity row's time.
Never: writes a table except for pushed rows, or reads the clock to decide what is visible.
"""

from typing import TYPE_CHECKING

from punctual.lazy import exports_of

if TYPE_CHECKING:
    from stores.offline.store import AsofOfflineStore as AsofOfflineStore
    from stores.offline.store import AsofOfflineStoreConfig as AsofOfflineStoreConfig
    from stores.offline.store import historical_features as historical_features
    from stores.offline.store import point_in_time_join as point_in_time_join
    from stores.offline.view_columns import refuse_reserved_feature as refuse_reserved_feature

__getattr__ = exports_of(__name__)
