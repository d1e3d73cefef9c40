"""Pinned definitions, and the identity of a definition: a hash of all that determines its values.

A model is published with the definitions that it was trained with, and reads by these whatever the
domain declares later.
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
from punctual.request_features import canonical_source
from punctual.sources import digest
from punctual.version import version_of
from punctual.windows import Declaration, declaration_of, declare

Definition: TypeAlias = FeatureView | OnDemandFeatureView | FeatureService
Views: TypeAlias = Mapping[str, FeatureView | OnDemandFeatureView]


def pinned_definitions(domain: LoadedDomain, service: str) -> list[PinnedDefinition]:
    """The service and every view that it reads, as they are declared now."""
    read = [projection.name for projection in domain.service_projections(service)]
    on_demand = domain.service_on_demand_views(service)
    views = [domain.views[name] for name in dict.fromkeys(read)]
    return [
        _pinned(domain, "feature service", domain.services[service]),
        *(_pinned(domain, "view", view) for view in views),
        *(_pinned(domain, "request-time view", view) for view in on_demand),
    ]


def _pinned(domain: LoadedDomain, kind: DefinitionKind, definition: Definition) -> PinnedDefinition:
    proto = definition.to_proto()
    if isinstance(definition, OnDemandFeatureView) and (source := _function_source(definition)):
        # Feast also stores the pickled function, which may not load in another Python version or
        # without its module.
        function = proto.spec.feature_transformation.user_defined_function
        function.body, function.body_text = b"", canonical_source(source)
    return PinnedDefinition(
        kind,
        definition.name,
        version_of(definition.tags),
        identity_of(definition, domain.all_views),
        proto.SerializeToString(deterministic=True),
        _declaration_fields(definition) if isinstance(definition, FeatureView) else None,
    )


def _declaration_fields(view: FeatureView) -> dict[str, Any] | None:
    declared = declaration_of(view)
    if declared is None:
        return None
    values = {each.name: getattr(declared, each.name) for each in fields(declared)}
    events = {"events": declared.events.name, "events_fingerprint": declared.events.fingerprint}
    return dict(msgspec.json.decode(msgspec.json.encode({**values, **events})))


def _declaration(domain: LoadedDomain, pinned: PinnedDefinition) -> Declaration | None:
    """The pinned declaration; None if the domain has changed or removed its events."""
    encoded = dict(pinned.declaration or {})
    fingerprint = encoded.pop("events_fingerprint", "")
    for events in domain.events:
        if events.name == encoded.get("events") and events.fingerprint == fingerprint:
            types = get_type_hints(Declaration)
            del encoded["events"]
            values = {name: msgspec.convert(each, types[name]) for name, each in encoded.items()}
            return Declaration(events=events, **values)
    return None


def pinned_domain(domain: LoadedDomain, pinned: Iterable[PinnedDefinition]) -> LoadedDomain:
    """The domain with only the pinned views and services.

    A view has a declaration if the domain still declares its events unchanged.
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
    """The domain's present definition of the same kind and name as a pinned one."""
    if pinned.kind == "view":
        return domain.views.get(pinned.name)
    if pinned.kind == "request-time view":
        return domain.on_demand_views.get(pinned.name)
    return domain.services.get(pinned.name)


def changed_since(domain: LoadedDomain, pinned: Iterable[PinnedDefinition]) -> list[str]:
    """Pinned definitions that the domain has changed or removed, such as `view 'shop_sales'`."""
    return [
        f"{each.kind} '{each.name}'"
        for each in pinned
        if (now := declared_now(domain, each)) is None
        or identity_of(now, domain.all_views) != each.identity
    ]


def definitions_store(domain: LoadedDomain, store: FeatureStore | None = None) -> FeatureStore:
    """A Feast store that reads by the domain's definitions instead of the registered ones."""
    store = store or feature_store(domain.home)
    registered = RegistryProto(registry_schema_version=REGISTRY_SCHEMA_VERSION)
    for definitions, protos in (
        (domain.entities, registered.entities),
        (domain.views, registered.feature_views),
        (domain.on_demand_views, registered.on_demand_feature_views),
        (domain.services, registered.feature_services),
    ):
        for definition in definitions.values():
            proto = definition.to_proto()
            proto.spec.project = store.project
            protos.append(proto)
    registry = Registry(store.project, None, None)
    registry.cached_registry_proto_ttl = timedelta(0)
    registry.cached_registry_proto = registered
    registry._registry_store = _InMemoryRegistryStore(registered)
    reading = FeatureStore(config=store.config)
    reading._registry = registry
    return reading


class _InMemoryRegistryStore(NoopRegistryStore):
    """A Feast registry store with fixed contents, in memory."""

    def __init__(self, registered: RegistryProto) -> None:
        self._registered = registered

    def get_registry_proto(self) -> RegistryProto:
        return self._registered


def identity_of(definition: Definition, views: Views) -> str:
    """A hash of everything that determines the values that are read by a definition.

    It is the same for an object from a domain, from Feast's registry and from a model card. `views`
    are the views that the definition may read, by name.
    """
    if isinstance(definition, FeatureService):
        read = [_projection_parts(each, views) for each in definition.feature_view_projections]
        return digest(repr((definition.name, read)))
    parts: tuple[object, ...] = (
        definition.name,
        version_of(definition.tags),
        _names_and_types(definition.features),
    )
    if isinstance(definition, FeatureView):
        return digest(repr((*parts, *_stored_view_parts(definition))))
    return digest(repr((*parts, *_request_view_parts(definition, views))))


def _stored_view_parts(view: FeatureView) -> tuple[object, ...]:
    source = view.batch_source
    return (
        sorted(_names_and_types(view.entity_columns)),
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


def _request_view_parts(view: OnDemandFeatureView, views: Views) -> tuple[object, ...]:
    code = _function_source(view)
    return (
        view.mode,
        view.singleton,
        canonical_source(code) if code else repr(view.feature_transformation),
        sorted(
            _projection_parts(each, views) for each in view.source_feature_view_projections.values()
        ),
        sorted(
            column
            for source in view.source_request_sources.values()
            for column in _names_and_types(source.schema)
        ),
    )


def _function_source(view: OnDemandFeatureView) -> str:
    return getattr(view.feature_transformation, "udf_string", "") or ""


def _projection_parts(projection: FeatureViewProjection, views: Views) -> tuple[object, ...]:
    """A projection's names, keys and features; no features if it reads all of its view.

    The view's own identity then covers them.
    """
    view = views.get(projection.name)
    features = _names_and_types(projection.features)
    is_whole = view is not None and features == _names_and_types(view.features)
    renamed = sorted(projection.join_key_map.items())
    return (projection.name, projection.name_to_use(), renamed, [] if is_whole else features)


def _names_and_types(columns: Sequence[Field]) -> list[tuple[str, str]]:
    return [(column.name, str(column.dtype)) for column in columns]
