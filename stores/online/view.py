"""What the online store has to know of a feature view."""

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
    """What the online store has to know of a feature view; keys are in sorted order of their names."""

    project: str
    name: str
    keys: tuple[tuple[str, FeastType], ...]
    typed_features: tuple[tuple[str, FeastType], ...]
    ttl: int = 0
    fingerprint: str = ""

    @classmethod
    def of(cls, project: str, view: FeatureView) -> OnlineView:
        """The online side of a Feast view."""
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
        """A fingerprint of project, name, keys, features and definition; a view of another one has
        other records.
        """
        typed = [
            [(name, str(type_)) for name, type_ in columns]
            for columns in (self.keys, self.typed_features)
        ]
        return digest(repr((FORMAT, self.project, self.name, *typed, self.fingerprint)))

    @cached_property
    def features(self) -> tuple[str, ...]:
        """The features' names, in the order of a record's values."""
        return tuple(name for name, _ in self.typed_features)

    @cached_property
    def join_keys(self) -> tuple[str, ...]:
        """The join keys' names, sorted."""
        return tuple(name for name, _ in self.keys)

    @cached_property
    def layout(self) -> Layout:
        """How its records are laid out."""
        from stores.online.record_format import Layout

        return Layout([type_ for _, type_ in self.typed_features], int(self.schema[:8], 16))

    @cached_property
    def entity_keys(self) -> EntityKeys:
        """How its keys are encoded."""
        from stores.online.entity_keys import EntityKeys

        return EntityKeys(self.join_keys, [type_ for _, type_ in self.keys])

    def keyed_by(self, columns: Sequence[str]) -> str:
        """What views share whose join keys, in their order, are read from the same columns in the
        same types: the keys' bytes.
        """
        return repr([*zip(columns, map(str, self.entity_keys.types), strict=True)])

    def key(self, *values: Any) -> bytes | None:
        """The record's key from the join keys' values, in sorted order of their names; None where
        one is null.
        """
        return self.entity_keys.encode(values)

    def all_keys(self, *columns: Sequence[Any]) -> list[bytes | None]:
        """The keys of many records, from a sequence of values per join key, in sorted order of
        their names.
        """
        return self.entity_keys.encode_all(columns)
