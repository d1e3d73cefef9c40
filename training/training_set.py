"""Makes training sets: labelled rows with the features that were known at prediction time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import duckdb
import pyarrow as pa
from feast import FeatureStore

from punctual.definitions import definitions_store
from punctual.errors import NotBuilt, NotEnoughData, StoreOutdated
from punctual.events import Events
from punctual.loaded_domain import AT, LoadedDomain
from punctual.model_card import TableVersion, TrainingSetManifest
from punctual.times import aware, iso, micros
from punctual.use_case import UseCase
from punctual.windows import declaration_of
from stores.offline import historical_features
from stores.tables import (
    CREATED,
    EVENT,
    Manifest,
    Table,
    canonical_hash,
    connect,
    known_events_sql,
    quoted,
)

LABEL = "label"
LABEL_TIMESTAMP = "label_timestamp"


@dataclass(frozen=True)
class TrainingSet:
    """Rows in order of prediction time: request columns, features by full name, label and its time.

    `unlabelled` counts, by reason, the requests that are old enough to have a label and have none.
    `commits` maps each table to its version and commit; with `as_of` it rebuilds the same rows.
    """

    rows: pa.Table
    features: list[str]
    as_of: datetime
    unlabelled: dict[str, int]
    commits: dict[str, tuple[int, int]]

    def manifest(self) -> TrainingSetManifest:
        """The training set as a model card describes it, with a hash of its rows."""
        return TrainingSetManifest(
            as_of=iso(self.as_of),
            tables={name: TableVersion(*commit) for name, commit in self.commits.items()},
            rows=self.rows.num_rows,
            hash=canonical_hash(self.rows),
            unlabelled=self.unlabelled,
        )


def training_set(
    store: FeatureStore,
    domain: LoadedDomain,
    use_case: UseCase,
    *,
    as_of: datetime,
    start: datetime | None = None,
    commits: dict[str, tuple[int, int]] | None = None,
) -> TrainingSet:
    """One row per labelled request, features as they were known at its prediction time.

    A request counts if `start <= event_timestamp`, `event_timestamp + horizon <= as_of` and its
    label is known at `as_of`. Without the horizon, quickly known outcomes would be
    over-represented. `commits` rebuilds an earlier set from the tables as they were. Raises
    `NotBuilt`, `StoreOutdated` or `NotEnoughData`.
    """
    as_of = aware(as_of)
    pinned = commits or _current_commits(domain, use_case, as_of)
    with connect() as connection:
        requests = _known_events(domain, use_case.requests, pinned, as_of)
        labels = _known_events(domain, use_case.label.of, pinned, as_of)
        _create_labelled(connection, use_case, requests, labels, as_of, start)
        unlabelled = dict(
            connection.execute(
                f"""
                SELECT reason, count(*)
                FROM __labelled
                WHERE {LABEL} IS NULL
                GROUP BY reason
                ORDER BY reason"""
            ).fetchall()
        )
        # Without ORDER BY, the order of the rows would depend on DuckDB's threads.
        ids = ", ".join(map(quoted, use_case.requests.id))
        entity_rows = connection.sql(
            f"""
            SELECT * EXCLUDE (reason)
            FROM __labelled
            WHERE {LABEL} IS NOT NULL
            ORDER BY {EVENT}, {ids}"""
        ).to_arrow_table()
    if entity_rows.num_rows == 0:
        raise NotEnoughData(
            f"use case '{use_case.name}' has no labelled request as of {iso(as_of)}; requests count"
            f" {use_case.label.horizon} after their prediction time. Build up to a later time and"
            " use a later --as-of."
        )
    service = domain.services[use_case.feature_service]
    feature_commits = {name: pin for name, pin in pinned.items() if name in domain.views}
    definitions = definitions_store(domain, store)
    rows = historical_features(
        definitions, entity_rows, service, as_of=as_of, commits=feature_commits
    )
    features = [
        f"{projection.name_to_use()}__{feature.name}"
        for projection in service.feature_view_projections
        for feature in projection.features
    ]
    return TrainingSet(rows, features, as_of, unlabelled, pinned)


def _current_commits(
    domain: LoadedDomain, use_case: UseCase, as_of: datetime
) -> dict[str, tuple[int, int]]:
    """The newest version and commit of each table that the training set reads.

    Raises `NotBuilt` for a table that is not built up to `as_of`, `StoreOutdated` for one that was
    built from another definition.
    """
    root = domain.home.tables
    manifest = Manifest(root)
    fingerprints = {
        f"{domain.name}.{stream.name}": stream.fingerprint
        for stream in (use_case.requests, use_case.label.of)
    }
    fingerprints.update(
        {
            view.name: declared.fingerprint
            for view in domain.service_views(use_case.feature_service)
            if (declared := declaration_of(view)) is not None
        }
    )
    commits: dict[str, tuple[int, int]] = {}
    for name, fingerprint in fingerprints.items():
        version = manifest.of_fingerprint(name, fingerprint)
        if version is None and not manifest.current(name):
            raise NotBuilt(
                f"table '{name}' is not built; run: punctual features build {domain.name}."
            )
        if version is None:
            raise StoreOutdated(
                f"table '{name}' was built from another definition; run: punctual features build"
                f" {domain.name}."
            )
        built = manifest.built_until(version)
        if built is None or built < as_of:
            state = f"built up to {iso(built)}" if built else "empty"
            raise NotBuilt(
                f"table '{name}' is {state}, the training set needs data up to {iso(as_of)};"
                f" run: punctual features build {domain.name} --as-of {iso(as_of)}."
            )
        commits[name] = (version.version, manifest.head(version))
    return commits


def _known_events(
    domain: LoadedDomain, events: Events, commits: dict[str, tuple[int, int]], as_of: datetime
) -> str:
    """A SELECT of a stream's events as they were known at `as_of`, from the pinned commit."""
    root = domain.home.tables
    table_name = f"{domain.name}.{events.name}"
    number, commit = commits[table_name]
    version = Manifest(root).at_version(table_name, number)
    if version is None:
        raise NotBuilt(f"version {number} of table '{table_name}' no longer exists.")
    table = Table(root, version)
    if not table.files(commit):
        raise NotEnoughData(f"table '{table_name}' has no events as of {iso(as_of)}.")
    return known_events_sql(table, events, as_of=as_of, commit=commit)


def _create_labelled(
    connection: duckdb.DuckDBPyConnection,
    use_case: UseCase,
    requests: str,
    labels: str,
    as_of: datetime,
    start: datetime | None,
) -> None:
    """Create `__labelled`: requests older than the horizon, with label and label_timestamp.

    `reason` says why a request has no label.
    """
    label = use_case.label
    ids = use_case.requests.id
    reason = f"outcome.{quoted(label.reason)}" if label.reason else "NULL"
    since = f"AND request.{EVENT} >= make_timestamp({micros(start)})" if start else ""
    connection.execute(
        f"""
        CREATE TABLE __labelled AS
        SELECT request.* EXCLUDE ({EVENT}, {CREATED}),
            timezone('UTC', request.{EVENT}) AS {EVENT},
            timezone('UTC', request.{EVENT}) AS {AT},
            outcome.{quoted(label.column)} AS {LABEL},
            timezone('UTC', outcome.{CREATED}) AS {LABEL_TIMESTAMP},
            coalesce(
                {reason},
                CASE
                    WHEN outcome.{CREATED} IS NULL THEN 'not known yet'
                    ELSE 'no reason given'
                END
            ) AS reason
        FROM ({requests}) AS request
        LEFT JOIN ({labels}) AS outcome USING ({", ".join(map(quoted, ids))})
        WHERE request.{EVENT} + to_microseconds({micros(label.horizon)})
                <= make_timestamp({micros(as_of)})
            {since}"""
    )
