"""The prediction log: every prediction is written to disk before it is returned.

Comes in: the predictions of one request. Goes out: the logged predictions of a period.
Never: predicts, or answers a request.
"""

from typing import TYPE_CHECKING

from punctual.lazy import exports_of

if TYPE_CHECKING:
    from stores.predictions.log import RESERVED_COLUMNS as RESERVED_COLUMNS
    from stores.predictions.log import LoggedPrediction as LoggedPrediction
    from stores.predictions.log import PredictionLog as PredictionLog
    from stores.predictions.log import ViewRow as ViewRow
    from stores.predictions.log import json_value as json_value
    from stores.predictions.log import logged_predictions as logged_predictions

__getattr__ = exports_of(__name__)
