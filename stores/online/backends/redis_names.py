"""What packed records are called on Redis: `{bucket}view.schema.place:` and the entity's key.

The bucket in braces, one of 256, is what a cluster distributes keys by, so that compare-and-set
runs on the server for many keys at once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from stores.online.backend import KeyGroup, RecordRows


def project_hash(project: str) -> str:
    """The hash that says where each view is, in one slot of a cluster with the locks of its views."""
    return f"{{punctual:{project}}}"


def record_names(generations: Sequence[str], keys: Iterable[bytes | None]) -> list[bytes]:
    """The names of each key's records, one a place; none for a key that is null."""
    prefixes = [_prefixes(generation) for generation in generations]
    return [
        prefix[zlib.crc32(key) & 0xFF] + key
        for key in keys
        if key is not None
        for prefix in prefixes
    ]


@lru_cache(maxsize=1024)  # names of places come and go
def _prefixes(generation: str) -> list[bytes]:
    """How the names of a place's records begin, by bucket."""
    return [f"{{{bucket:02x}}}{generation}:".encode() for bucket in range(256)]


def by_bucket(names: Sequence[bytes]) -> dict[bytes, list[int]]:
    """The numbers of the names in each bucket, which one command on a cluster may hold."""
    found: dict[bytes, list[int]] = {}
    for number, name in enumerate(names):
        found.setdefault(name[:4], []).append(number)
    return found


def chunks(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Numbers in pieces of at most `size`."""
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def by_group(groups: Sequence[KeyGroup], records: Sequence[bytes | None]) -> list[RecordRows]:
    """Records in the order in which they were asked for, by group, key and view."""
    found: list[RecordRows] = []
    start = 0
    for keys, views in groups:
        rows: RecordRows = []
        for key in keys:
            if key is None:
                rows.append((None,) * len(views))
            else:
                rows.append(tuple(records[start : start + len(views)]))
                start += len(views)
        found.append(rows)
    return found
