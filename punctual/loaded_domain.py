"""The declarations of a domain folder, by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView
from feast.feature_view import DUMMY_ENTITY_ID
from feast.feature_view_projection import FeatureViewProjection

from punctual.domain import Domain
from punctual.events import Events
from punctual.home import Home
from punctual.sources import CsvSource, with_dependencies
from punctual.use_case import UseCase
from punctual.windows import Declaration, declaration_of

AT = "at"  # the request column with the prediction moment


@dataclass(frozen=True)
class LoadedDomain:
    """The objects that the modules of a domain folder define, by name."""

    home: Home
    name: str
    domain: Domain
    entities: dict[str, Entity] = field(default_factory=dict)
    views: dict[str, FeatureView] = field(default_factory=dict)
    on_demand_views: dict[str, OnDemandFeatureView] = field(default_factory=dict)
    services: dict[str, FeatureService] = field(default_factory=dict)
    use_cases: dict[str, UseCase] = field(default_factory=dict)

    @property
    def declarations(self) -> list[Declaration]:
        """The declarations of the views whose rows the platform computes."""
        return [declared for view in self.views.values() if (declared := declaration_of(view))]

    @property
    def events(self) -> list[Events]:
        """Every stream of events that a view or a use case reads."""
        found = {declared.events.name: declared.events for declared in self.declarations}
        for use_case in self.use_cases.values():
            for stream in (use_case.requests, use_case.label.of):
                found.setdefault(stream.name, stream)
        return list(found.values())

    @property
    def sources(self) -> tuple[CsvSource, ...]:
        """Every source, each after the sources that it reads."""
        return with_dependencies([source for stream in self.events for source in stream.sources])

    @property
    def all_views(self) -> dict[str, FeatureView | OnDemandFeatureView]:
        """The stored and the request-time views."""
        return {**self.views, **self.on_demand_views}

    def service_on_demand_views(self, service: str) -> list[OnDemandFeatureView]:
        """The request-time views that a feature service reads, each once."""
        names = dict.fromkeys(
            projection.name for projection in self.services[service].feature_view_projections
        )
        return [self.on_demand_views[name] for name in names if name in self.on_demand_views]

    def service_projections(self, service: str) -> list[FeatureViewProjection]:
        """The names and join keys by which a feature service reads stored views, each name once.

        The stored views that its request-time views read are included.
        """
        read: dict[str, FeatureViewProjection] = {}
        for projection in self.services[service].feature_view_projections:
            view = self.on_demand_views.get(projection.name)
            for each in view.source_feature_view_projections.values() if view else [projection]:
                read.setdefault(each.name_to_use(), each)
        return list(read.values())

    def service_views(self, service: str) -> list[FeatureView]:
        """The stored feature views that a feature service reads, each once."""
        read = self.service_projections(service)
        return [self.views[name] for name in dict.fromkeys(each.name for each in read)]

    def request_columns(self, service: str) -> dict[str, str]:
        """The request columns besides the join keys, name to Feast type, without `at`."""
        columns: dict[str, str] = {}
        for projection in self.services[service].feature_view_projections:
            on_demand = self.on_demand_views.get(projection.name)
            for source in on_demand.source_request_sources.values() if on_demand else ():
                columns.update({column.name: str(column.dtype) for column in source.schema})
        columns.pop(AT, None)
        return columns

    def join_keys(self, service: str) -> list[str]:
        """The request columns with the join keys of a feature service, sorted and each once."""
        return sorted(
            {
                projection.join_key_map.get(column.name, column.name)
                for projection in self.service_projections(service)
                for column in self.views[projection.name].entity_columns
                if column.name != DUMMY_ENTITY_ID
            }
        )

    @cached_property
    def all_objects(self) -> list[object]:
        """The objects that `feast apply` registers."""
        return [
            *self.entities.values(),
            *self.views.values(),
            *self.on_demand_views.values(),
            *self.services.values(),
        ]
