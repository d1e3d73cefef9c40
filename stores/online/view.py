"""The parts of a feature view that the online store needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from punctual.sources import digest
from punctual.times import micros
from stores.online.packed_row import FORMAT

if TYPE_CHECKING:
    from feast import FeatureView
    from feast.types import FeastType

    from stores.online.entity_keys import EntityKeys
    from stores.online.record_format import Layout


@dataclass(frozen=True)
class OnlineView:
    """The parts of a feature view that the online store needs; keys are sorted by name."""

    project: str
    name: str
    keys: tuple[tuple[str, FeastType], ...]
    typed_features: tuple[tuple[str, FeastType], ...]
    ttl: int = 0
    fingerprint: str = ""

    @classmethod
    def of(cls, project: str, view: FeatureView) -> OnlineView:
        """The online view of a Feast view."""
        keys = tuple(
            sorted(
                ((column.name, column.dtype) for column in view.entity_columns),
                key=lambda key: key[0],
            )
        )
        features = tuple((column.name, column.dtype) for column in view.features)
        return cls(
            project,
            view.name,
            keys,
            features,
            micros(view.ttl or timedelta(0)),
            view.tags.get("fingerprint", ""),
        )

    @cached_property
    def schema(self) -> str:
        """A fingerprint of project, name, keys, features and definition.

        Views of different schemas share no records.
        """
        typed = [
            [(name, str(type_)) for name, type_ in columns]
            for columns in (self.keys, self.typed_features)
        ]
        return digest(repr((FORMAT, self.project, self.name, *typed, self.fingerprint)))

    @cached_property
    def features(self) -> tuple[str, ...]:
        """The feature names, in the order of a record's values."""
        return tuple(name for name, _ in self.typed_features)

    @cached_property
    def join_keys(self) -> tuple[str, ...]:
        """The join key names, sorted."""
        return tuple(name for name, _ in self.keys)

    @cached_property
    def layout(self) -> Layout:
        """The byte layout of the view's records."""
        from stores.online.record_format import Layout

        return Layout([type_ for _, type_ in self.typed_features], int(self.schema[:8], 16))

    @cached_property
    def entity_keys(self) -> EntityKeys:
        """The encoder of the view's keys."""
        from stores.online.entity_keys import EntityKeys

        return EntityKeys(self.join_keys, [type_ for _, type_ in self.keys])

    def keyed_by(self, columns: Sequence[str]) -> str:
        """An identifier of the join keys' request columns and types.

        Views with equal identifiers have equal key bytes for a request, and are read together.
        """
        return repr([*zip(columns, map(str, self.entity_keys.types), strict=True)])

    def key(self, *values: Any) -> bytes | None:
        """The record key of the join key values, which are sorted by name; None if one is null."""
        return self.entity_keys.encode(values)

    def all_keys(self, *columns: Sequence[Any]) -> list[bytes | None]:
        """The record keys of many entities, from a column per join key, sorted by name."""
        return self.entity_keys.encode_all(columns)
