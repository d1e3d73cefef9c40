"""The platform in a notebook, with pandas frames as input and output."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from punctual.clock import starting_moment
from punctual.home import Home
from punctual.times import aware

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore


class Punctual:
    """A data folder at a moment.

    Any number of them can be open in one process. The default of `repository` is
    `$PUNCTUAL_REPOSITORY` or the installed `feature_repo`. `as_of` is an aware datetime or ISO 8601
    text; the default is the moment that the folder's clock has reached.
    """

    def __init__(
        self,
        home: str | Path = "data",
        as_of: datetime | str | None = None,
        repository: str | Path | None = None,
    ) -> None:
        self.home = Home.at(home, repository)
        self._as_of = as_of

    def moment(self, use_case: str) -> datetime:
        """The moment at which a use case is read."""
        from punctual.repository import find_use_case

        if isinstance(self._as_of, datetime):
            return aware(self._as_of)
        return starting_moment(
            self.home, self._as_of, find_use_case(self.home, use_case)[0].domain.demo_at
        )

    @cached_property
    def store(self) -> FeatureStore:
        """The Feast feature store, with the current definitions applied.

        Raises `ChangeRefused` if a definition that a champion reads has changed.
        """
        from pipelines.materialize import apply_if_changed
        from punctual.repository import feature_store

        store = feature_store(self.home)
        apply_if_changed(self.home, store)
        return store

    def training_set(self, use_case: str, as_of: datetime | str | None = None) -> pd.DataFrame:
        """Labelled requests with the features known at each one's `event_timestamp`."""
        from punctual.repository import feature_store, find_use_case
        from training.training_set import training_set

        domain, declared = find_use_case(self.home, use_case)
        at = (
            self.moment(use_case)
            if as_of is None
            else aware(as_of)
            if isinstance(as_of, datetime)
            else starting_moment(self.home, as_of, None)
        )
        return training_set(feature_store(self.home), domain, declared, as_of=at).rows.to_pandas()

    def online_features(self, use_case: str, rows: Any, at: datetime | None = None) -> pd.DataFrame:
        """The online features of each row at a moment, including request-time features.

        `rows` is a pandas, polars or Arrow frame, or a list of mappings, with a column for each
        join key and request column. The levels of a named pandas index are columns; other columns
        are ignored. Raises `InvalidRequest` with every problem, by row and column.
        """
        from inference.features import OnlineFeatures
        from punctual.repository import find_use_case

        domain, declared = find_use_case(self.home, use_case)
        return OnlineFeatures(domain, declared).read(rows, at or self.moment(use_case)).to_pandas()

    def predict(self, use_case: str, rows: Any, at: datetime | None = None) -> pd.DataFrame:
        """The champion's logged prediction for each row; `rows` as for `online_features`."""
        from inference.predict import predict_frame

        return predict_frame(self.home, use_case, rows, at or self.moment(use_case))
