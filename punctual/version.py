"""The declared version of a view, stored as a tag of the view in Feast."""

from __future__ import annotations

from collections.abc import Mapping

from punctual.errors import InvalidDeclaration

_TAG = "definition_version"


def with_version(tags: Mapping[str, str], version: int) -> dict[str, str]:
    """The tags and a declared version above 1. Raises `InvalidDeclaration` for one below 1."""
    if version < 1:
        raise InvalidDeclaration("a view", [f"version is {version}; expected 1 or more."])
    return {**tags, **({_TAG: str(version)} if version > 1 else {})}


def version_of(tags: Mapping[str, str] | None) -> int:
    """The declared version; 1 if the tags have none."""
    return int((tags or {}).get(_TAG, 1))
