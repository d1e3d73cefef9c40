"""Materialization: what becomes effective goes from the tables to the online store, in order of
effect.
"""

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
from stores.offline import refuse_mark
from stores.online.backend import Watermark
from stores.online.records import PackedDatabase, Rows
from stores.online.store import PackedOnlineStore
from stores.online.view import OnlineView
from stores.tables import CREATED, EVENT, WITHDRAWN, Table, connect, literal, quoted, writing

BATCH_ROWS = 20_000
# What DuckDB may take to find the newest rows, at first and at most.
_MEMORY_MB, _MOST_MB, MB = 80, 16_000, 1_000_000
_BEGINNING = -(2**62)


class AsofEngineConfig(FeastConfigBaseModel):
    """What `feature_store.yaml` may say about this engine."""

    type: Literal["stores.online.AsofEngine"] = "stores.online.AsofEngine"


@dataclass(frozen=True)
class Materialized:
    """What a run did for one view: rows read, records changed, and how far the view is now."""

    view: str
    rows: int
    records: int
    until: datetime
    missed: int = 0
    seconds: float = 0.0
    #: How far the view is behind the moment that the run stood for.
    lag: timedelta = timedelta(0)

    @property
    def rows_per_second(self) -> float:
        """Rows read in a second, all in all."""
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
    """Bring the online store to `min(now, built)`, rows published ahead included; run again, it
    changes nothing.

    `now` is the moment that the run stands for, and `clock` says what time it is while it runs
    (both aware UTC); without one it takes no time. `missed` counts entities that were shown too old
    a row, since a newer one was due before this run brought it (a run that fills the view from its
    beginning counts none). With `rebuild`, or where another version of the table is online, the
    view is filled anew beside what readers see, and swapped in when it is whole. Of two runs at
    once the second waits, and then finds little to do. Records of the view's other definitions are
    removed at the end, except those of the schemas to `keep` (None: of all). Raises `NotBuilt`
    without a table and `StoreOutdated` where the table is of an older definition.
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
        # Where this goes no further than the last run, rows may still have been published ahead
        # since then.
        until = max(micros(min(now, built)), since if since is not None else _BEGINNING)
        started = time.monotonic()
        # What somebody wrote before the first run stays; what is of another version of the table
        # does not.
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
                _shown_at(clock, now),
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
    """Lower this process's priority for good: who serves goes first on busy cores, and whoever
    materializes has time.
    """
    os.nice(10)


def _shown_at(clock: Callable[[], datetime] | None, now: datetime) -> Callable[[], int]:
    """When rows come online: a run that goes no further than the table is built has still been
    asked at `now`.
    """
    return lambda: micros(now if clock is None else max(now, clock()))


def _table_of(view: FeatureView, home: Path | None) -> Table:
    source = view.batch_source
    if not isinstance(source, FileSource):
        raise NotBuilt(f"view '{view.name}' has no file source to materialize from.")
    path = (home or Path.cwd()) / source.path
    wanted = view.tags.get("fingerprint", "")
    made = Table.of_definition(path.parent, path.name, wanted)
    table = made or Table.current(path.parent, path.name)
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
    """Per entity the newest row that became effective in `(since, until]`, and every row that will
    later; in order of keys.
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
    last = f"PARTITION BY {keys}, {effect} > {until} ORDER BY {EVENT} DESC, {CREATED} DESC"
    select = (
        f"SELECT {columns} FROM (SELECT *{_dummy(view)} FROM ({table.scan(files)})) WHERE {effect}"
        f" > {low}"
        f" QUALIFY {effect} > {until} OR row_number() OVER ({last}) = 1 ORDER BY {keys}"
    )
    # A little memory is enough, since what it cannot hold is spilled; where a column's values are
    # large, it takes more.
    limit = _MEMORY_MB * MB + (len(view.features) << 21)
    while True:
        try:
            with connect(memory_limit=f"{limit // MB}MB", temporary=spill) as connection:
                yield from connection.sql(select).to_arrow_reader(BATCH_ROWS)
            return
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            limit *= 4
            if isinstance(error, duckdb.IOException) or limit > _MOST_MB * MB:
                with writing("spilled rows to", spill or Path(tempfile.gettempdir())):
                    raise


def _spill(config: RepoConfig) -> Path | None:
    """Where joins spill, which is in the data folder; the system's own place where nothing is said."""
    return getattr(config.offline_store, "spill", None)


def _data_folder(config: RepoConfig) -> Path | None:
    """The data folder, where the offline store is ours and knows it."""
    return getattr(config.offline_store, "data_folder", None)


def _dummy(view: OnlineView) -> str:
    """The key that Feast gives a view without entities."""
    return (
        f", {literal(DUMMY_ENTITY_VAL)} AS {quoted(DUMMY_ENTITY_ID)}"
        if view.join_keys == (DUMMY_ENTITY_ID,)
        else ""
    )


def _packed(batch: pa.RecordBatch, view: OnlineView) -> Rows:
    """The rows as the online store keeps them; those without a key are of no entity."""
    keys = view.entity_keys.encode_columns([batch[name] for name in view.join_keys])
    if None in keys:
        known = [number for number, key in enumerate(keys) if key is not None]
        batch, keys = batch.take(pa.array(known, pa.int64())), [keys[number] for number in known]
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
            f"the table of view '{view.name}' does not hold the types that the view declares:"
            f" {error}."
        ) from error
    return Rows(cast(list[bytes], keys), times[0].tolist(), times[1].tolist(), data)


@dataclass
class FinishedJob(MaterializationJob):
    """A job that ran to its end, or to its error, in the call that made it."""

    task: MaterializationTask
    result: Materialized | None = None
    failure: BaseException | None = field(default=None)

    def status(self) -> MaterializationJobStatus:
        """SUCCEEDED or ERROR."""
        return (
            MaterializationJobStatus.ERROR if self.failure else MaterializationJobStatus.SUCCEEDED
        )

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
    """`feast materialize` with our materialization: the start is our watermark, whatever Feast
    believes it to be.
    """

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
                # Models in the data folder may read any definition; the platform's own run knows
                # which.
                keep=() if _data_folder(self.repo_config) is None else None,
            )
        except Exception as error:  # Feast asks the job what happened
            return FinishedJob(task, failure=error)
        return FinishedJob(task, done)
