"""The declarations that a domain is written with, and the types that all stages share.

Comes in: the declarations of a domain folder. Goes out: Feast definitions, and the same
declarations as plain Python objects. Never: imports a store or a stage, or does I/O on import.

A domain imports from this package: `from punctual import CsvSource, Events, UseCase, mean`.
"""

from typing import TYPE_CHECKING

from punctual.lazy import exports_of

if TYPE_CHECKING:
    from punctual.domain import Domain as Domain
    from punctual.events import Events as Events
    from punctual.home import Home as Home
    from punctual.request_features import RequestFeature as RequestFeature
    from punctual.request_features import request_feature_view as request_feature_view
    from punctual.sources import CsvSource as CsvSource
    from punctual.sources import Rule as Rule
    from punctual.times import moment as moment
    from punctual.use_case import Gate as Gate
    from punctual.use_case import Label as Label
    from punctual.use_case import Recipe as Recipe
    from punctual.use_case import TimeSplit as TimeSplit
    from punctual.use_case import UseCase as UseCase
    from punctual.windows import count as count
    from punctual.windows import latest_feature_view as latest_feature_view
    from punctual.windows import mean as mean
    from punctual.windows import share as share
    from punctual.windows import std as std
    from punctual.windows import sum_of as sum_of
    from punctual.windows import windowed_feature_view as windowed_feature_view

__getattr__ = exports_of(__name__)
