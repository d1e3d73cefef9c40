"""Materialization: what becomes effective goes from the tables to the online store, in order of effect."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from feast import Entity, FeatureView, FileSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.common.materialization_job import MaterializationJob, MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from feature_repo.errors import NotBuilt, StoreOutdated
from feature_repo.times import micros
from stores.online import PackedOnlineStore
from stores.packed import OnlineView, PackedDatabase, Row, encode_key
from stores.table import CREATED, EVENT, WITHDRAWN, Table, connect, literal, quoted

BATCH_ROWS = 20_000


class AsofEngineConfig(FeastConfigBaseModel):
    """What `feature_store.yaml` may say about this engine."""

    type: Literal["stores.engine.AsofEngine"] = "stores.engine.AsofEngine"


@dataclass(frozen=True)
class Materialized:
    """What a run did for one view: rows read, records changed, and how far the view is now."""

    view: str
    rows: int
    records: int
    until: datetime
    missed: int = 0
    seconds: float = 0.0


def materialize_view(
    config: RepoConfig,
    database: PackedDatabase,
    view: FeatureView,
    *,
    now: datetime,
    clock: Callable[[], datetime] | None = None,
    rebuild: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> Materialized:
    """Bring the online store to `min(now, built)`, rows published ahead included; run again, it changes nothing.

    `now` is the moment that the run stands for, and `clock` says what time it is while it runs (both aware UTC); without one it takes
    no time. `missed` counts entities that were shown too old a row, since a newer one was due before this run brought it
    (the first run counts none).
    Raises `NotBuilt` without a table and `StoreOutdated` where the table is of an older definition.
    """
    table = _table_of(view)
    online = OnlineView.of(config.project, view)
    kind = database.watermark(online)
    built = table.built_until
    if built is None:
        raise NotBuilt(f"table '{view.name}' has no finished build; run: punctual features build.")
    # Feast drops the online table of a view that is taken out; it starts again when the view comes back.
    anew = rebuild or online.table not in database.tables()
    since = None if anew else table.manifest.watermark(table.version, kind)
    # A definition that comes back finds the rows that an older version of its table put there.
    if anew or (since is None and table.manifest.has_watermark_of_other_version(table.version, kind)):
        table.manifest.reset_watermark(table.version, kind)
        database.drop(online.table)
    database.create(online)
    # Where this goes no further than the last run, rows may still have been published ahead since then.
    until = min(now, built) if since is None else max(since, min(now, built))
    started = time.monotonic()
    rows = records = missed = 0
    for batch in _newest_rows(table, online, since, until):
        pairs = list(_pairs(batch, online))
        written = database.write(online, pairs, micros(until), _shown_at(clock, now))
        records += written.records
        missed += 0 if since is None else written.missed
        rows += len(pairs)
        if progress:
            progress(len(pairs))
    table.manifest.move_watermark(table.version, kind, until)
    return Materialized(view.name, rows, records, until, missed, time.monotonic() - started)


def _shown_at(clock: Callable[[], datetime] | None, now: datetime) -> Callable[[], int]:
    """When rows come online: a run that goes no further than the table is built has still been asked at `now`."""
    return lambda: micros(now if clock is None else max(now, clock()))


def _table_of(view: FeatureView) -> Table:
    source = view.batch_source
    if not isinstance(source, FileSource):
        raise NotBuilt(f"view '{view.name}' has no file source to materialize from.")
    path = Path(source.path)
    table = Table.current(path.parent, path.name)
    if table is None:
        raise NotBuilt(f"view '{view.name}' has no table at {path}; build it first: punctual features build.")
    wanted = view.tags.get("fingerprint")
    if wanted and wanted != table.version.fingerprint:
        raise StoreOutdated(f"table '{view.name}' was built from another definition; run: punctual features build.")
    return table


def _newest_rows(table: Table, view: OnlineView, since: datetime | None, until: datetime) -> Iterator[pa.RecordBatch]:
    """Per entity the newest row that became effective in `(since, until]`, and every row that will later."""
    low = -(2**62) if since is None else micros(since)
    high = micros(until)
    files = [file for file in table.files() if max(file.max_event, file.max_created) > low]
    if not files:
        return
    keys = ", ".join(map(quoted, view.join_keys))
    columns = ", ".join([*map(quoted, view.join_keys), *_features(view, table.has_withdrawals), EVENT, CREATED])
    effect = f"epoch_us(greatest({EVENT}, {CREATED}))"
    last = f"PARTITION BY {keys}, {effect} > {high} ORDER BY {EVENT} DESC, {CREATED} DESC"
    select = (
        f"SELECT {columns} FROM (SELECT *{_dummy(view)} FROM ({table.scan(files)})) WHERE {effect} > {low}"
        f" QUALIFY {effect} > {high} OR row_number() OVER ({last}) = 1 ORDER BY {keys}"
    )
    with connect() as connection:
        yield from connection.execute(select).to_arrow_reader(BATCH_ROWS)


def _features(view: OnlineView, has_withdrawals: bool) -> list[str]:
    """The features in SQL; a row that withdraws others shows nulls, whatever it holds."""
    names = [quoted(name) for name in view.features]
    return [f"CASE WHEN {WITHDRAWN} THEN NULL ELSE {name} END AS {name}" for name in names] if has_withdrawals else names


def _dummy(view: OnlineView) -> str:
    """The key that Feast gives a view without entities."""
    return f", {literal(DUMMY_ENTITY_VAL)} AS {quoted(DUMMY_ENTITY_ID)}" if view.join_keys == (DUMMY_ENTITY_ID,) else ""


def _pairs(batch: pa.RecordBatch, view: OnlineView) -> Iterator[tuple[bytes, Row]]:
    times = [batch[name].cast(pa.int64()).to_pylist() for name in (EVENT, CREATED)]
    keys = zip(*(batch[name].to_pylist() for name in view.join_keys), strict=True)
    values = zip(*times, *(_plain(batch[name]) for name in view.features), strict=True)
    for key, row in zip(keys, values, strict=True):
        encoded = encode_key(key)
        if encoded is not None:
            yield encoded, list(row)


def _plain(column: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        return [None if value is None else value.replace(tzinfo=value.tzinfo or UTC) for value in column.to_pylist()]
    return list(column.to_pylist())


@dataclass
class FinishedJob(MaterializationJob):
    """A job that ran to its end, or to its error, in the call that made it."""

    task: MaterializationTask
    result: Materialized | None = None
    failure: BaseException | None = field(default=None)

    def status(self) -> MaterializationJobStatus:
        """SUCCEEDED or ERROR."""
        return MaterializationJobStatus.ERROR if self.failure else MaterializationJobStatus.SUCCEEDED

    def error(self) -> BaseException | None:
        """What stopped it."""
        return self.failure

    def should_be_retried(self) -> bool:
        """Running again repairs whatever stopped it; whether to is the scheduler's affair."""
        return False

    def job_id(self) -> str:
        """The view and where it got to."""
        return f"{self.task.feature_view.name}-{self.task.end_time.isoformat()}"

    def url(self) -> str | None:
        """There is no page for it."""
        return None


class AsofEngine(ComputeEngine):
    """`feast materialize` with our materialization: the start is our watermark, whatever Feast believes it to be."""

    def update(
        self,
        project: str,
        views_to_delete: Sequence[Any],
        views_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
    ) -> None:
        """Nothing to prepare."""

    def teardown_infra(self, project: str, fvs: Sequence[Any], entities: Sequence[Entity]) -> None:
        """Nothing to remove."""

    def _materialize_one(self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any) -> MaterializationJob:
        assert isinstance(self.online_store, PackedOnlineStore)
        end = task.end_time if task.end_time.tzinfo else task.end_time.replace(tzinfo=UTC)
        try:
            done = materialize_view(self.repo_config, self.online_store.database(self.repo_config), task.feature_view, now=end)
        except Exception as error:  # Feast asks the job what happened
            return FinishedJob(task, failure=error)
        return FinishedJob(task, done)
