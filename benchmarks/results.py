"""The result of a join as an `Outcome`, whose hash does not depend on the library."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.data import ROW, DataSet
from benchmarks.harness import Outcome


def outcome_of(data: DataSet) -> Callable[[pa.Table], Outcome]:
    """The function that counts the rows of a result of `data` and hashes them with `rows_hash`."""
    types = {
        f"{view.name}__{name}": pa.type_for_alias(kind)
        for view in data.views
        for name, kind in view.features
    }

    def outcome(result: pa.Table) -> Outcome:
        return Outcome(result.num_rows, rows_hash(result, types))

    return outcome


def rows_hash(result: pa.Table, types: dict[str, pa.DataType]) -> str:
    """A shortened SHA-256 of the features by row number, independent of the order and of the
    library's types.
    """
    result = result.select([ROW, *types])
    numbers = result[ROW].cast(pa.int64()).to_numpy()
    if not bool(np.all(np.diff(numbers) >= 0)):
        result = result.take(pa.array(np.argsort(numbers, kind="stable")))
    total = hashlib.sha256(np.sort(numbers).tobytes())
    for name, type_ in types.items():
        values = result[name].cast(type_).combine_chunks()
        total.update(np.packbits(pc.is_valid(values).to_numpy(zero_copy_only=False)).tobytes())
        total.update(
            pc.fill_null(values, pa.scalar(0, type_)).to_numpy(zero_copy_only=False).tobytes()
        )
    return total.hexdigest()[:16]
