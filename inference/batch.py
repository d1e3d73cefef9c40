"""Batch prediction: the requests of a period, each with the features known at its moment."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore

from inference.champion import Champion, load_champion
from punctual.definitions import definitions_store, pinned_domain
from punctual.errors import DataFolderError, InvalidRequest, NotBuilt
from punctual.home import Home
from punctual.loaded_domain import AT, LoadedDomain
from punctual.model_card import PREDICTION_COLUMN, model_input
from punctual.times import aware, from_micros, iso, micros
from punctual.use_case import UseCase
from stores.offline import historical_features
from stores.tables import EVENT, Table, built_until, known_events

DAY = timedelta(days=1)


@dataclass(frozen=True)
class BatchResult:
    """The result of a batch: the requests with a prediction moment in `(since, until]`.

    `until` is earlier than `as_of` if the tables are not built up to `as_of`.
    """

    use_case: str
    model_version: str
    as_of: datetime
    since: datetime
    until: datetime
    rows: int
    mean: float | None
    decided: int | None
    path: Path


def batch(
    domain: LoadedDomain,
    use_case: UseCase,
    as_of: datetime,
    since: datetime | None = None,
    *,
    store: FeatureStore | None = None,
) -> BatchResult:
    """Predict for each request known at `as_of` with a prediction moment in `(since, as_of]`.

    The default of `since` is one day before `as_of`. A repetition writes the same file with the
    same rows. Raises `NoChampion`, `NotBuilt`.
    """
    as_of = aware(as_of)
    since = as_of - DAY if since is None else aware(since)
    if since >= as_of:
        raise InvalidRequest(
            f"the period of the batch, ({iso(since)}, {iso(as_of)}], is empty;"
            " choose an earlier --since."
        )
    champion = load_champion(domain, use_case)
    pinned = pinned_domain(domain, champion.card.definitions)
    until = min(as_of, _built(pinned, use_case, champion))
    if until <= since:
        raise NotBuilt(
            f"the tables of '{use_case.name}' are built until {iso(until)}, the batch begins after"
            f" {iso(since)}; run: punctual features build {domain.name} --as-of {iso(as_of)}."
        )
    requests = known_events(domain, use_case.requests, as_of=as_of, since=since, until=until)
    rows = _predicted(store, pinned, champion, requests, as_of)
    path = (
        batch_folder(domain.home, use_case.name)
        / f"{_stamp(since)}-{_stamp(until)}-v{champion.card.version}.parquet"
    )
    _write(rows, path)
    predictions = rows[PREDICTION_COLUMN].to_numpy()
    return BatchResult(
        use_case.name,
        champion.card.version,
        as_of,
        since,
        until,
        rows.num_rows,
        float(predictions.mean()) if len(predictions) else None,
        int(np.sum(predictions >= champion.card.threshold))
        if champion.card.task == "binary"
        else None,
        path,
    )


def batch_folder(home: Home, use_case: str) -> Path:
    """The folder of a use case's batches: Parquet files named by period and model version."""
    return home.path("predictions", "batch", use_case)


def newest_batch(home: Home, use_case: str, version: str, as_of: datetime) -> Path | None:
    """The model's batch that ends last by `as_of`; of several the one that begins first."""
    ended = {
        path: path.name.split("-")[1]
        for path in sorted(batch_folder(home, use_case).glob(f"*-*-v{version}.parquet"))
    }
    ended = {path: end for path, end in ended.items() if end <= _stamp(as_of)}
    return max(ended, key=lambda path: ended[path], default=None)


def _built(domain: LoadedDomain, use_case: UseCase, champion: Champion) -> datetime:
    """The moment up to which every table that the batch reads is built."""
    built = [built_until(domain, use_case.requests)]
    for view in domain.service_views(champion.card.feature_service):
        table = Table.of_definition(domain.home.tables, view.name, view.tags.get("fingerprint", ""))
        until = table.built_until if table else None
        if table is None or until is None:
            raise NotBuilt(
                f"view '{view.name}' is not built; run: punctual features build {domain.name}."
            )
        built.append(until)
    return min(built)


def _predicted(
    store: FeatureStore | None,
    domain: LoadedDomain,
    champion: Champion,
    requests: pa.Table,
    as_of: datetime,
) -> pa.Table:
    """The requests with their features, named by full name, and predictions."""
    card = champion.card
    service = domain.services[card.feature_service]
    entity_rows = requests.drop_columns(["created_timestamp"]).append_column(AT, requests[EVENT])
    reading = definitions_store(domain, store)
    rows = historical_features(reading, entity_rows, service, as_of=as_of).drop_columns([AT])
    predictions = (
        champion.predict(model_input(rows, card.features))
        if rows.num_rows
        else np.array([], dtype=np.float64)
    )
    rows = rows.append_column(PREDICTION_COLUMN, pa.array(predictions, pa.float64()))
    if card.task == "binary":
        rows = rows.append_column("decision", pa.array(predictions >= card.threshold, pa.bool_()))
    return rows.append_column(
        "model_version", pa.array([card.version] * rows.num_rows, pa.string())
    )


def _stamp(moment: datetime) -> str:
    """A moment for a file name, with microseconds if needed; the texts sort by time."""
    cut = from_micros(micros(moment))
    return f"{cut:%Y%m%dT%H%M%S}{f'.{cut.microsecond:06d}' if cut.microsecond else ''}Z"


def _write(rows: pa.Table, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.aside")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            pq.write_table(rows, temporary, compression="zstd")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataFolderError(
            f"cannot write {path}: {error.strerror or error}. Free space or choose another --home."
        ) from error
