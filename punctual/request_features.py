"""Request-time features: Feast's on-demand views in Python mode, with the descriptions that Feast 0.67 loses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from feast import FeatureView, Field, OnDemandFeatureView, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.core.Feature_pb2 import FeatureSpecV2
from feast.types import FeastType


class RequestFeature(Field):
    """A field of an on-demand view, with its description.

    Feast looks for it among fields inferred from sample values, and for a service's fields among those read back
    from the registry. Neither have descriptions, and a field with another description is not the same to Feast.
    So this one equals any field of its name and type, and is registered without its description, which the view's
    tags hold instead.
    """

    def __init__(self, name: str, dtype: FeastType, description: str) -> None:
        super().__init__(name=name, dtype=dtype, description=description)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Field) and (self.name, self.dtype) == (other.name, other.dtype)

    def __hash__(self) -> int:
        return hash((self.name, str(self.dtype)))

    def to_proto(self) -> FeatureSpecV2:
        """As Feast writes it, but for the description."""
        proto = super().to_proto()
        proto.description = ""
        return proto


def request_feature_view(
    *,
    sources: Sequence[FeatureView | RequestSource],
    features: Sequence[RequestFeature],
    description: str,
) -> Callable[[Callable[[dict[str, Any]], dict[str, Any]]], OnDemandFeatureView]:
    """Make an on-demand feature view of a function from lists of inputs to lists of features.

    Feast runs the function's source elsewhere, with nothing of its module: whatever it needs is imported inside it.
    """
    return on_demand_feature_view(
        sources=list(sources),
        schema=list(features),
        mode="python",
        description=description,
        tags={feature.name: feature.description for feature in features},
    )
