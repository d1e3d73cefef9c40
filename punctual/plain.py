"""Conversion of results to JSON values."""

from __future__ import annotations

import base64
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from punctual.times import iso


def plain(value: Any) -> Any:
    """The value as types that `json` can encode.

    Datetimes become ISO 8601 text, durations seconds, dataclasses and structs objects, NaN null,
    paths text, and bytes base64.
    """
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.asdict(value)
        if value.__struct_config__.omit_defaults:
            fields = {name: each for name, each in fields.items() if each is not None}
        return plain(fields)
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()  # as msgspec encodes them in a model card
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, float) and value != value:
        return None
    return value
