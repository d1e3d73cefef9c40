"""Erases an entity from the online store, so that no byte of it is left there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feast import FeatureStore
from feast.types import FeastType, Int32, Int64, String

from pipelines.materialize import online_database
from punctual.errors import InvalidRequest, UnknownName, unknown_name
from punctual.loaded_domain import LoadedDomain
from stores.online import OnlineView


@dataclass(frozen=True)
class Erased:
    """An entity of a view, and how many online records it had: one or none."""

    view: str
    keys: dict[str, Any]
    records: int


def erase(
    store: FeatureStore, domains: list[LoadedDomain], view: str, keys: Mapping[str, str]
) -> Erased:
    """Remove the records of an entity from a view; `keys` has the text of each join key.

    Waits for a materialization of the view to end. The tables keep the entity's rows: a later
    `materialize --rebuild` brings it back unless the source no longer has it. Raises `UnknownName`
    for a view that no domain has, `InvalidRequest` for keys that are not its own.
    """
    views = {name: found for domain in domains for name, found in domain.views.items()}
    if view not in views:
        raise UnknownName(unknown_name("view", view, views, "the feature repository"))
    online = OnlineView.of(store.project, views[view])
    types = dict(online.keys)
    if set(keys) != set(types):
        raise InvalidRequest(
            f"view '{view}' is keyed by {', '.join(types)}; got {', '.join(keys) or 'no key'}."
            f" Give each once: {' '.join(f'--key {name}=VALUE' for name in types)}."
        )
    values = {name: _value(name, keys[name], type_) for name, type_ in types.items()}
    key = online.key(*values.values())
    return Erased(view, values, online_database(store).erase(online, [key]) if key else 0)


def _value(name: str, text: str, type_: FeastType) -> Any:
    if type_ == String:
        return text
    if type_ in (Int32, Int64):
        try:
            return int(text)
        except ValueError:
            raise InvalidRequest(f"key '{name}' is {text!r}; expected an integer.") from None
    raise InvalidRequest(f"key '{name}' is of type {type_}; only integers and texts can be given.")
