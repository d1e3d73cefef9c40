"""Materialization: copies rows from the tables to the online store as they become effective."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, cast

import duckdb
import pyarrow as pa
from feast import Entity, FeatureView, FileSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.common.materialization_job import (
    MaterializationJob,
    MaterializationJobStatus,
    MaterializationTask,
)
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from punctual.errors import BrokenTable, NotBuilt, StoreOutdated
from punctual.times import assume_utc, from_micros, micros
from stores.offline import refuse_reserved_feature
from stores.online.backend import Watermark
from stores.online.records import PackedDatabase, Rows
from stores.online.store import PackedOnlineStore
from stores.online.view import OnlineView
from stores.tables import CREATED, EVENT, WITHDRAWN, Table, connect, literal, quoted, writing

BATCH_ROWS = 20_000
# DuckDB's memory limit for finding the newest rows: at first, and at most.
_MEMORY_MB, _MAX_MEMORY_MB, MB = 80, 16_000, 1_000_000
_BEGINNING = -(2**62)


class AsofEngineConfig(FeastConfigBaseModel):
    """The options of this engine in `feature_store.yaml`."""

    type: Literal["stores.online.AsofEngine"] = "stores.online.AsofEngine"


@dataclass(frozen=True)
class Materialized:
    """The result of a run for one view: rows read, records changed, and the watermark reached."""

    view: str
    rows: int
    records: int
    until: datetime
    missed: int = 0
    seconds: float = 0.0
    #: How far the view is behind the `now` of the run.
    lag: timedelta = timedelta(0)

    @property
    def rows_per_second(self) -> float:
        """Rows read per second of the whole run."""
        return self.rows / self.seconds if self.seconds else 0.0


def materialize_view(
    config: RepoConfig,
    database: PackedDatabase,
    view: FeatureView,
    *,
    now: datetime,
    clock: Callable[[], datetime] | None = None,
    rebuild: bool = False,
    progress: Callable[[int], Any] | None = None,
    keep: Collection[str] | None = (),
) -> Materialized:
    """Bring the view online up to `min(now, built)`, rows published ahead included; idempotent.

    `now` is the time the run is for, and `clock` gives the time while it runs (both aware UTC);
    without a clock the run takes no time. `missed` counts the entities that were shown an outdated
    row because a newer one came online after its effective time; a run that fills the view from
    its beginning counts none. With `rebuild`, or if another version of the table is online, a new
    generation is filled and swapped in when it is complete. A concurrent run waits for this one.
    Records of the view's other definitions are removed at the end, except those of the schemas to
    `keep` (None keeps all). Raises `NotBuilt` without a table and `StoreOutdated` if the table was
    built from another definition.
    """
    refuse_reserved_feature(view)
    table = _table_of(view, _data_folder(config))
    online = OnlineView.of(config.project, view)
    built = table.built_until
    if built is None:
        raise NotBuilt(f"table '{view.name}' has no finished build; run: punctual features build.")
    records = database.records
    with records.exclusive(online):
        watermark = records.watermark(online)
        since = (
            watermark.until
            if watermark and watermark.version == table.version.version and not rebuild
            else None
        )
        # Even if this run ends where the last one did, rows may have been published ahead since.
        until = max(micros(min(now, built)), since if since is not None else _BEGINNING)
        started = time.monotonic()
        # The first run keeps rows that were pushed before it; rows of another table version go.
        is_first = (
            watermark is None
            and records.first_version(online, table.version.version) == table.version.version
        )
        generation = records.new_generation(online) if since is None and not is_first else None
        rows = written = missed = 0
        for batch in _newest_rows(table, online, since, until, _spill(config)):
            packed = _packed(batch, online)
            done = database.write(
                online,
                packed,
                until,
                _online_at(clock, now),
                generation=generation,
                is_empty=since is None,
            )
            written += done.records
            missed += 0 if since is None else done.missed
            rows += len(packed)
            if progress:
                progress(len(packed))
        reached = Watermark(table.version.version, until)
        if generation is not None:
            records.swap(online, generation, reached)
        else:
            records.move_watermark(online, reached)
    if keep is not None:
        database.drop_other_definitions(online, keep)
    reached_at = from_micros(until)
    return Materialized(
        view.name,
        rows,
        written,
        reached_at,
        missed,
        time.monotonic() - started,
        max(now - reached_at, timedelta(0)),
    )


def give_way() -> None:
    """Lower this process's priority for good, so that servers on the same cores run first."""
    os.nice(10)


def _online_at(clock: Callable[[], datetime] | None, now: datetime) -> Callable[[], int]:
    """The time at which rows come online: `now` or later, even if the table ends before it."""
    return lambda: micros(now if clock is None else max(now, clock()))


def _table_of(view: FeatureView, home: Path | None) -> Table:
    source = view.batch_source
    if not isinstance(source, FileSource):
        raise NotBuilt(f"view '{view.name}' has no file source to materialize from.")
    path = (home or Path.cwd()) / source.path
    wanted = view.tags.get("fingerprint", "")
    of_definition = Table.of_definition(path.parent, path.name, wanted)
    table = of_definition or Table.current(path.parent, path.name)
    if table is None:
        raise NotBuilt(
            f"view '{view.name}' has no table at {path}; build it first: punctual features build."
        )
    if wanted and wanted != table.version.fingerprint:
        raise StoreOutdated(
            f"table '{view.name}' was built from another definition; run: punctual features build."
        )
    return table


def _newest_rows(
    table: Table, view: OnlineView, since: int | None, until: int, spill: Path | None
) -> Iterator[pa.RecordBatch]:
    """Per entity the newest row that became effective in `(since, until]`, and all later rows.

    The rows come in key order.
    """
    low = _BEGINNING if since is None else since
    files = [file for file in table.files() if max(file.max_event, file.max_created) > low]
    if not files:
        return
    keys = ", ".join(map(quoted, view.join_keys))
    withdrawn = [WITHDRAWN] if table.has_withdrawals else []
    columns = ", ".join(
        [*map(quoted, (*view.join_keys, *view.features)), EVENT, CREATED, *withdrawn]
    )
    effect = f"epoch_us(greatest({EVENT}, {CREATED}))"
    select = f"""
        SELECT {columns}
        FROM (SELECT *{_dummy(view)} FROM ({table.scan(files)}))
        WHERE {effect} > {low}
        QUALIFY
            {effect} > {until}
            OR row_number() OVER (
                PARTITION BY {keys}, {effect} > {until}
                ORDER BY {EVENT} DESC, {CREATED} DESC
            ) = 1
        ORDER BY {keys}
    """
    # Little memory suffices, since DuckDB spills to disk; large values of a column need more.
    limit = _MEMORY_MB * MB + (len(view.features) << 21)
    while True:
        try:
            with connect(memory_limit=f"{limit // MB}MB", temporary=spill) as connection:
                yield from connection.sql(select).to_arrow_reader(BATCH_ROWS)
            return
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            limit *= 4
            if isinstance(error, duckdb.IOException) or limit > _MAX_MEMORY_MB * MB:
                with writing("spilled rows to", spill or Path(tempfile.gettempdir())):
                    raise


def _spill(config: RepoConfig) -> Path | None:
    """The spill folder of the offline store; None for the system's temporary folder."""
    return getattr(config.offline_store, "spill", None)


def _data_folder(config: RepoConfig) -> Path | None:
    """The data folder; None if the offline store is not the platform's."""
    return getattr(config.offline_store, "data_folder", None)


def _dummy(view: OnlineView) -> str:
    """The SELECT item for the dummy key that Feast gives a view without entities."""
    return (
        f", {literal(DUMMY_ENTITY_VAL)} AS {quoted(DUMMY_ENTITY_ID)}"
        if view.join_keys == (DUMMY_ENTITY_ID,)
        else ""
    )


def _packed(batch: pa.RecordBatch, view: OnlineView) -> Rows:
    """The batch as rows to write, without those whose key is null."""
    keys = view.entity_keys.encode_columns([batch[name] for name in view.join_keys])
    if None in keys:
        chosen = [number for number, key in enumerate(keys) if key is not None]
        batch, keys = batch.take(pa.array(chosen, pa.int64())), [keys[number] for number in chosen]
    times = [
        batch[name].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
        for name in (EVENT, CREATED)
    ]
    withdrawn = (
        batch[WITHDRAWN].fill_null(False).to_numpy(zero_copy_only=False)
        if WITHDRAWN in batch.schema.names
        else None
    )
    try:
        data = view.layout.rows(
            [batch[name] for name in view.features], times[0], times[1], withdrawn
        )
    except pa.ArrowException as error:
        raise BrokenTable(
            f"the columns of the table of view '{view.name}' do not have the declared types:"
            f" {error}."
        ) from error
    return Rows(cast(list[bytes], keys), times[0].tolist(), times[1].tolist(), data)


@dataclass
class FinishedJob(MaterializationJob):
    """A job that already succeeded or failed when it is created."""

    task: MaterializationTask
    result: Materialized | None = None
    failure: BaseException | None = field(default=None)

    def status(self) -> MaterializationJobStatus:
        """SUCCEEDED or ERROR."""
        return (
            MaterializationJobStatus.ERROR if self.failure else MaterializationJobStatus.SUCCEEDED
        )

    def error(self) -> BaseException | None:
        """The exception that ended the job; None if it succeeded."""
        return self.failure

    def should_be_retried(self) -> bool:
        """False: a rerun repairs a failed run, and the scheduler decides on retries."""
        return False

    def job_id(self) -> str:
        """The view name and the end time."""
        return f"{self.task.feature_view.name}-{self.task.end_time.isoformat()}"

    def url(self) -> str | None:
        """None: the job has no page."""
        return None


class AsofEngine(ComputeEngine):
    """`feast materialize` with the platform's materialization.

    Runs start at the platform's own watermark, not at the start time that Feast passes.
    """

    def update(
        self,
        project: str,
        views_to_delete: Sequence[Any],
        views_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
    ) -> None:
        """Does nothing: materialization needs no preparation."""

    def teardown_infra(self, project: str, fvs: Sequence[Any], entities: Sequence[Entity]) -> None:
        """Does nothing: the engine keeps nothing."""

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> MaterializationJob:
        assert isinstance(self.online_store, PackedOnlineStore)
        end = assume_utc(task.end_time)
        try:
            done = materialize_view(
                self.repo_config,
                self.online_store.database(self.repo_config),
                task.feature_view,
                now=end,
                # Models in the data folder may read other definitions, and only the platform's own
                # command knows which.
                keep=() if _data_folder(self.repo_config) is None else None,
            )
        except Exception as error:  # Feast asks the job for its error
            return FinishedJob(task, failure=error)
        return FinishedJob(task, done)
