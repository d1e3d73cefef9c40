"""The Redis keys of packed records: `{bucket}view.schema.generation:` and the entity's key.

A cluster distributes keys by the bucket in braces, one of 256, so that one script can compare and
set many records of a bucket.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from stores.online.backend import KeyGroup, RecordRows


def project_hash(project: str) -> str:
    """The key of the project's hash, in one cluster slot with the locks of its views."""
    return f"{{punctual:{project}}}"


def record_names(generations: Sequence[str], keys: Iterable[bytes | None]) -> list[bytes]:
    """The Redis keys of each entity key's records, one per generation; none for a null key."""
    prefixes = [_prefixes(generation) for generation in generations]
    return [
        prefix[zlib.crc32(key) & 0xFF] + key
        for key in keys
        if key is not None
        for prefix in prefixes
    ]


@lru_cache(maxsize=1024)  # generations change with every rebuild
def _prefixes(generation: str) -> list[bytes]:
    """The prefixes of the Redis keys of a generation, by bucket."""
    return [f"{{{bucket:02x}}}{generation}:".encode() for bucket in range(256)]


def by_bucket(names: Sequence[bytes]) -> dict[bytes, list[int]]:
    """The positions of the names in each bucket; a cluster command takes keys of one bucket."""
    found: dict[bytes, list[int]] = {}
    for number, name in enumerate(names):
        found.setdefault(name[:4], []).append(number)
    return found


def chunks(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Numbers in chunks of at most `size`."""
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def by_group(groups: Sequence[KeyGroup], records: Sequence[bytes | None]) -> list[RecordRows]:
    """Records in the order of `record_names`, arranged by group, key and view."""
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
