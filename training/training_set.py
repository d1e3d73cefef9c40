"""Labelled rows with the features that were known at each prediction moment, and the manifest that
rebuilds them.
"""

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
    """Rows in order of prediction moment: the requests' columns, the features by full name, label
    and label_timestamp.

    `unlabelled` counts requests that were old enough to have a label and have none, by reason.
    `commits` pins each table's version and commit; with `as_of` they rebuild the same rows.
    """

    rows: pa.Table
    features: list[str]
    as_of: datetime
    unlabelled: dict[str, int]
    commits: dict[str, tuple[int, int]]

    def manifest(self) -> TrainingSetManifest:
        """What a model card says of its training set."""
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
    """One row per labelled request, features as they were known at its prediction moment.

    Takes the requests with `event_timestamp + horizon <= as_of` (all of them, or quick outcomes
    would be over-represented) from `start` on, and of those the ones whose label is known at
    `as_of`. `commits` rebuilds an old set from the tables as they were. Raises `NotBuilt`,
    `StoreOutdated` or `NotEnoughData`.
    """
    as_of = aware(as_of)
    pinned = commits or _current_commits(domain, use_case, as_of)
    with connect() as connection:
        requests = _known(domain, use_case.requests, pinned, as_of)
        labels = _known(domain, use_case.label.of, pinned, as_of)
        _label(connection, use_case, requests, labels, as_of, start)
        unlabelled = dict(
            connection.execute(
                f"SELECT reason, count(*) FROM __labelled WHERE {LABEL} IS NULL GROUP BY 1 ORDER"
                " BY 1"
            ).fetchall()
        )
        # Which rows are labels is decided; in which order they stand must not depend on threads.
        ids = ", ".join(map(quoted, use_case.requests.id))
        entity_rows = connection.sql(
            f"SELECT * EXCLUDE (reason) FROM __labelled WHERE {LABEL} IS NOT NULL ORDER BY"
            f" {EVENT}, {ids}"
        ).to_arrow_table()
    if entity_rows.num_rows == 0:
        raise NotEnoughData(
            f"use case '{use_case.name}' has no labelled request by {iso(as_of)}: a label is"
            " waited for "
            f"{use_case.label.horizon}. Build up to a later moment, or ask for a later --as-of."
        )
    service = domain.services[use_case.feature_service]
    feature_commits = {name: pin for name, pin in pinned.items() if name in domain.views}
    reading = definitions_store(domain, store)
    rows = historical_features(reading, entity_rows, service, as_of=as_of, commits=feature_commits)
    features = [
        f"{projection.name_to_use()}__{feature.name}"
        for projection in service.feature_view_projections
        for feature in projection.features
    ]
    return TrainingSet(rows, features, as_of, unlabelled, pinned)


def _current_commits(
    domain: LoadedDomain, use_case: UseCase, as_of: datetime
) -> dict[str, tuple[int, int]]:
    """The newest commit of every table the set is made of; each must be built up to `as_of` from
    today's definition.
    """
    root = domain.home.tables
    manifest = Manifest(root)
    wanted = {
        f"{domain.name}.{stream.name}": stream.fingerprint
        for stream in (use_case.requests, use_case.label.of)
    }
    wanted.update(
        {
            view.name: declared.fingerprint
            for view in domain.service_views(use_case.feature_service)
            if (declared := declaration_of(view)) is not None
        }
    )
    commits: dict[str, tuple[int, int]] = {}
    for name, fingerprint in wanted.items():
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
            raise NotBuilt(
                f"table '{name}' is built up to {iso(built) or 'no moment'}, the training set asks"
                f" for {iso(as_of)};"
                f" run: punctual features build {domain.name} --as-of {iso(as_of)}."
            )
        commits[name] = (version.version, manifest.head(version))
    return commits


def _known(
    domain: LoadedDomain, events: Events, commits: dict[str, tuple[int, int]], as_of: datetime
) -> str:
    """A SELECT of each event of a stream as it was known at `as_of`, from the pinned commit."""
    root = domain.home.tables
    table_name = f"{domain.name}.{events.name}"
    number, commit = commits[table_name]
    version = Manifest(root).at_version(table_name, number)
    if version is None:
        raise NotBuilt(f"table '{table_name}' has no version {number} any more.")
    table = Table(root, version)
    if not table.files(commit):
        raise NotEnoughData(f"table '{table_name}' holds no events by {iso(as_of)}.")
    return known_events_sql(table, events, as_of=as_of, commit=commit)


def _label(
    connection: duckdb.DuckDBPyConnection,
    use_case: UseCase,
    requests: str,
    labels: str,
    as_of: datetime,
    start: datetime | None,
) -> None:
    """`__labelled`: requests old enough, with label, label_timestamp, and the reason where there is
    none.
    """
    label = use_case.label
    ids = use_case.requests.id
    reason = f"l.{quoted(label.reason)}" if label.reason else "NULL"
    since = f" AND r.{EVENT} >= make_timestamp({micros(start)})" if start else ""
    connection.execute(
        f"CREATE TABLE __labelled AS SELECT r.* EXCLUDE ({EVENT}, {CREATED}), timezone('UTC',"
        f" r.{EVENT}) AS {EVENT},"
        f" timezone('UTC', r.{EVENT}) AS {AT}, l.{quoted(label.column)} AS {LABEL},"
        f" timezone('UTC', l.{CREATED}) AS {LABEL_TIMESTAMP},"
        f" coalesce({reason}, CASE WHEN l.{CREATED} IS NULL THEN 'not known yet' ELSE 'no reason"
        " given' END) AS reason"
        f" FROM ({requests}) AS r LEFT JOIN ({labels}) AS l USING ({', '.join(map(quoted, ids))})"
        f" WHERE r.{EVENT} + to_microseconds({micros(label.horizon)}) <="
        f" make_timestamp({micros(as_of)}){since}"
    )
