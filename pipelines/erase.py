"""Erases every byte of an entity's record from the online store."""

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
    """An erased entity of a view; `records` is how many online records it had: 0 or 1."""

    view: str
    keys: dict[str, Any]
    records: int


def erase(
    store: FeatureStore, domains: list[LoadedDomain], view: str, keys: Mapping[str, str]
) -> Erased:
    """Remove an entity's online record from a view; `keys` maps each join key to its value as text.

    Waits for a running materialization of the view to end. The tables keep the entity's rows: a
    later `materialize --rebuild` restores the record unless the source no longer has the entity.
    Raises `UnknownName` for an unknown view, `InvalidRequest` for join keys that are not the view's
    or a value of the wrong type.
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
    raise InvalidRequest(
        f"key '{name}' is of type {type_}; only integer and string keys can be erased."
    )
