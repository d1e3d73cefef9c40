"""The Feast online store and materialization: one packed record per entity and view.

Comes in: published tables and a time. Goes out: the values that each view shows at a time, and
their freshness. Never: computes a feature, or imports a stage.
"""

from typing import TYPE_CHECKING

from punctual.lazy import exports_of

if TYPE_CHECKING:
    from stores.online.backend import OnlineStoreUnavailable as OnlineStoreUnavailable
    from stores.online.database import open_database as open_database
    from stores.online.freshness import Freshness as Freshness
    from stores.online.freshness import freshness_of as freshness_of
    from stores.online.freshness import online_watermark as online_watermark
    from stores.online.freshness import view_freshness as view_freshness
    from stores.online.materialization import AsofEngine as AsofEngine
    from stores.online.materialization import AsofEngineConfig as AsofEngineConfig
    from stores.online.materialization import Materialized as Materialized
    from stores.online.materialization import give_way as give_way
    from stores.online.materialization import materialize_view as materialize_view
    from stores.online.reader import Reader as Reader
    from stores.online.record_batch import Unpacked as Unpacked
    from stores.online.record_batch import ViewValues as ViewValues
    from stores.online.records import PackedDatabase as PackedDatabase
    from stores.online.store import PackedOnlineStore as PackedOnlineStore
    from stores.online.store import PackedOnlineStoreConfig as PackedOnlineStoreConfig
    from stores.online.store import packed_database as packed_database
    from stores.online.view import OnlineView as OnlineView

__getattr__ = exports_of(__name__)
