"""The result of a point-in-time join as Arrow, pandas, polars, a stream or a Parquet file."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import OnDemandFeatureView
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.saved_dataset import SavedDatasetStorage

from punctual.errors import DataFolderError
from stores import request_features as on_demand
from stores.offline.join import BATCH_ROWS, Join

if TYPE_CHECKING:
    import polars as pl


class AsofRetrievalJob(RetrievalJob):
    """A point-in-time join that runs when a result is read, on its own connection."""

    def __init__(
        self,
        join: Join,
        *,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        requested_features: dict[str, list[str]] | None = None,
        full_feature_names: bool = False,
        features: Sequence[str] = (),
    ) -> None:
        self._join = join
        self._on_demand_feature_views = list(on_demand_feature_views)
        self._requested_features = requested_features or {}
        self._full_feature_names = full_feature_names
        self._features = list(features)

    @property
    def full_feature_names(self) -> bool:
        """Whether features are named `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The on-demand views that are computed from the joined columns."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata:
        """Feast's metadata of the retrieval; reads the entity rows."""
        keys, first, last = self._join.extent()
        return RetrievalMetadata(self._features, keys, first, last)

    def to_arrow(self, validation_reference: Any = None, timeout: int | None = None) -> pa.Table:
        """All columns, including on-demand features.

        An on-demand function gets its own inputs only, and its outputs have their declared types.
        Feast passes every column as a Python list and infers the types of the outputs.
        """
        if validation_reference is not None:
            raise NotImplementedError("dataset validation is not part of this offline store")
        return self._with_on_demand_features(self._join.table())

    def to_df(self, validation_reference: Any = None, timeout: int | None = None) -> pd.DataFrame:
        """All columns as pandas; integers with nulls have nullable types such as `Int64`, since
        floats would lose digits.
        """
        return as_pandas(self.to_arrow(validation_reference, timeout))

    def to_polars(self) -> pl.DataFrame:
        """All columns as a polars frame; requires polars."""
        import polars as pl

        frame = pl.from_arrow(self.to_arrow())
        assert isinstance(frame, pl.DataFrame)
        return frame

    def to_reader(self, rows: int = BATCH_ROWS) -> pa.RecordBatchReader:
        """All columns as a stream of batches of `rows` rows, in order, without the whole result in
        memory.
        """
        pieces = (self._with_on_demand_features(piece) for piece in self._join.batches(rows))
        first = next(pieces, None)
        if first is None:
            return self.to_arrow().to_reader()
        return pa.RecordBatchReader.from_batches(first.schema, _batches(first, pieces))

    def to_parquet(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write all columns to one Parquet file, batch by batch; the file is complete or absent.

        Raises `FileExistsError` if the file exists and `overwrite` is false, `DataFolderError` if
        it cannot be written.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; overwrite=True replaces it")
        reader = self.to_reader()
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.aside")
        try:
            with pq.ParquetWriter(temporary, reader.schema) as writer:
                for batch in reader:
                    writer.write_batch(batch)
            temporary.replace(path)
        except OSError as error:
            raise DataFolderError(f"cannot write {path}: {error.strerror or error}.") from error
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Write the result to one Parquet file."""
        if not isinstance(storage, SavedDatasetFileStorage):
            raise ValueError(f"expected a SavedDatasetFileStorage, got {type(storage).__name__}")
        path = Path(storage.file_options.uri)
        if path.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(path))
        self.to_parquet(path / "part-0.parquet" if path.is_dir() else path, overwrite=True)

    def _with_on_demand_features(self, table: pa.Table) -> pa.Table:
        return on_demand.append(
            table,
            self._on_demand_feature_views,
            self._requested_features,
            full_names=self._full_feature_names,
        )

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._join.table()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return as_pandas(self._join.table())


def as_pandas(table: pa.Table) -> pd.DataFrame:
    """An Arrow table as pandas, with nullable types for integer columns with nulls.

    Integers in lists are Python integers.
    """
    frame = table.to_pandas(integer_object_nulls=True)
    for name in table.column_names:
        if pa.types.is_integer(table.schema.field(name).type) and table[name].null_count:
            integer_type = table.schema.field(name).type
            frame[name] = table[name].to_pandas(
                types_mapper={integer_type: _nullable(integer_type)}.get
            )
    return frame


def _nullable(type_: pa.DataType) -> pd.api.extensions.ExtensionDtype:
    return pd.api.types.pandas_dtype(str(type_).replace("int", "Int").replace("uInt", "UInt"))  # type: ignore[return-value]


def _batches(first: pa.Table, others: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
    yield from first.combine_chunks().to_batches()
    for piece in others:
        yield from piece.combine_chunks().to_batches()
