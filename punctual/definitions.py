"""What a feature service reads, and the identity of each definition: all of it that changes a
value.

A model is published with the definitions that it was trained with, so that it reads by them
whatever the domain declares later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any, TypeAlias, get_type_hints

import msgspec
from feast import FeatureService, FeatureStore, FeatureView, OnDemandFeatureView
from feast.feature_view_projection import FeatureViewProjection
from feast.field import Field
from feast.infra.registry.registry import REGISTRY_SCHEMA_VERSION, Registry
from feast.infra.registry.registry_store import NoopRegistryStore
from feast.protos.feast.core.FeatureService_pb2 import FeatureService as ServiceProto
from feast.protos.feast.core.FeatureView_pb2 import FeatureView as ViewProto
from feast.protos.feast.core.OnDemandFeatureView_pb2 import (
    OnDemandFeatureView as OnDemandProto,
)
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto

from punctual.loaded_domain import LoadedDomain
from punctual.model_card import DefinitionKind, PinnedDefinition
from punctual.repository import feature_store
from punctual.request_features import function_text
from punctual.sources import digest
from punctual.version import version_of
from punctual.windows import Declaration, declaration_of, declare

Definition: TypeAlias = FeatureView | OnDemandFeatureView | FeatureService
Views: TypeAlias = Mapping[str, FeatureView | OnDemandFeatureView]


def pinned_definitions(domain: LoadedDomain, service: str) -> list[PinnedDefinition]:
    """The service, and every view that it reads."""
    read = [projection.name for projection in domain.service_projections(service)]
    on_demand = domain.service_on_demand_views(service)
    views = [domain.views[name] for name in dict.fromkeys(read)]
    return [
        _pinned(domain, "feature service", domain.services[service]),
        *(_pinned(domain, "view", view) for view in views),
        *(_pinned(domain, "request-time view", view) for view in on_demand),
    ]


def _pinned(domain: LoadedDomain, kind: DefinitionKind, thing: Definition) -> PinnedDefinition:
    proto = thing.to_proto()
    if isinstance(thing, OnDemandFeatureView) and (text := _text(thing)):
        # Feast also keeps the pickled function, which another Python or another module may not
        # load.
        function = proto.spec.feature_transformation.user_defined_function
        function.body, function.body_text = b"", function_text(text)
    return PinnedDefinition(
        kind,
        thing.name,
        version_of(thing.tags),
        identity_of(thing, domain.all_views),
        proto.SerializeToString(deterministic=True),
        _declared(thing) if isinstance(thing, FeatureView) else None,
    )


def _declared(view: FeatureView) -> dict[str, Any] | None:
    declared = declaration_of(view)
    if declared is None:
        return None
    said = {each.name: getattr(declared, each.name) for each in fields(declared)}
    events = {"events": declared.events.name, "events_fingerprint": declared.events.fingerprint}
    return dict(msgspec.json.decode(msgspec.json.encode({**said, **events})))


def _declaration(domain: LoadedDomain, pinned: PinnedDefinition) -> Declaration | None:
    """How the view's rows are computed, where the domain still has their events as they were."""
    said = dict(pinned.declaration or {})
    fingerprint = said.pop("events_fingerprint", "")
    for events in domain.events:
        if events.name == said.get("events") and events.fingerprint == fingerprint:
            types = get_type_hints(Declaration)
            del said["events"]
            given = {name: msgspec.convert(each, types[name]) for name, each in said.items()}
            return Declaration(events=events, **given)
    return None


def domain_of(domain: LoadedDomain, pinned: Iterable[PinnedDefinition]) -> LoadedDomain:
    """The domain with the pinned views and services, and no others.

    A view has a declaration where the domain still has its events as they were.
    """
    views: dict[str, FeatureView] = {}
    on_demand: dict[str, OnDemandFeatureView] = {}
    services: dict[str, FeatureService] = {}
    for each in pinned:
        data = each.definition
        if each.kind == "view":
            view = views[each.name] = FeatureView.from_proto(ViewProto.FromString(data))
            if declared := _declaration(domain, each):
                declare(view, declared)
        elif each.kind == "request-time view":
            on_demand[each.name] = OnDemandFeatureView.from_proto(OnDemandProto.FromString(data))
        else:
            services[each.name] = FeatureService.from_proto(ServiceProto.FromString(data))
    return replace(domain, views=views, on_demand_views=on_demand, services=services)


def declared_now(domain: LoadedDomain, pinned: PinnedDefinition) -> Definition | None:
    """What the domain declares under a pinned definition's name."""
    if pinned.kind == "view":
        return domain.views.get(pinned.name)
    if pinned.kind == "request-time view":
        return domain.on_demand_views.get(pinned.name)
    return domain.services.get(pinned.name)


def changed_since(domain: LoadedDomain, pinned: Iterable[PinnedDefinition]) -> list[str]:
    """Which pinned definitions the domain no longer declares as they are: `view 'shop_sales'`."""
    return [
        f"{each.kind} '{each.name}'"
        for each in pinned
        if (now := declared_now(domain, each)) is None
        or identity_of(now, domain.all_views) != each.identity
    ]


def definitions_store(domain: LoadedDomain, store: FeatureStore | None = None) -> FeatureStore:
    """A Feast store that reads by the domain's definitions as they are, whatever is registered."""
    store = store or feature_store(domain.home)
    registered = RegistryProto(registry_schema_version=REGISTRY_SCHEMA_VERSION)
    for things, protos in (
        (domain.entities, registered.entities),
        (domain.views, registered.feature_views),
        (domain.on_demand_views, registered.on_demand_feature_views),
        (domain.services, registered.feature_services),
    ):
        for thing in things.values():
            proto = thing.to_proto()
            proto.spec.project = store.project
            protos.append(proto)
    registry = Registry(store.project, None, None)
    registry.cached_registry_proto_ttl = timedelta(0)
    registry.cached_registry_proto = registered
    registry._registry_store = _InMemory(registered)
    reading = FeatureStore(config=store.config)
    reading._registry = registry
    return reading


class _InMemory(NoopRegistryStore):
    """A Feast registry that holds what it was given."""

    def __init__(self, registered: RegistryProto) -> None:
        self._registered = registered

    def get_registry_proto(self) -> RegistryProto:
        return self._registered


def identity_of(thing: Definition, views: Views) -> str:
    """Changes whenever a value that is read by the definition might.

    It is the same for an object that a domain made, one from Feast's registry and one from a model
    card. `views` are those that the definition may read, by name.
    """
    if isinstance(thing, FeatureService):
        read = [_read(each, views) for each in thing.feature_view_projections]
        return digest(repr((thing.name, read)))
    said: tuple[object, ...] = (thing.name, version_of(thing.tags), _typed(thing.features))
    if isinstance(thing, FeatureView):
        return digest(repr((*said, *_stored(thing))))
    return digest(repr((*said, *_computed(thing, views))))


def _stored(view: FeatureView) -> tuple[object, ...]:
    source = view.batch_source
    return (
        sorted(_typed(view.entity_columns)),
        view.ttl,
        view.tags.get("fingerprint", ""),
        *(
            (
                getattr(source, "path", ""),
                source.timestamp_field,
                source.created_timestamp_column,
                sorted(source.field_mapping.items()),
            )
            if source is not None
            else ()
        ),
    )


def _computed(view: OnDemandFeatureView, views: Views) -> tuple[object, ...]:
    text = _text(view)
    return (
        view.mode,
        view.singleton,
        function_text(text) if text else repr(view.feature_transformation),
        sorted(_read(each, views) for each in view.source_feature_view_projections.values()),
        sorted(
            column
            for source in view.source_request_sources.values()
            for column in _typed(source.schema)
        ),
    )


def _text(view: OnDemandFeatureView) -> str:
    return getattr(view.feature_transformation, "udf_string", "") or ""


def _read(projection: FeatureViewProjection, views: Views) -> tuple[object, ...]:
    """A projection; where it reads a view whole, what that has is a part of the view's identity."""
    view = views.get(projection.name)
    features = _typed(projection.features)
    is_whole = view is not None and features == _typed(view.features)
    renamed = sorted(projection.join_key_map.items())
    return (projection.name, projection.name_to_use(), renamed, [] if is_whole else features)


def _typed(columns: Sequence[Field]) -> list[tuple[str, str]]:
    return [(column.name, str(column.dtype)) for column in columns]
