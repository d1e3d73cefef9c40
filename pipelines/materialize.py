"""Brings a domain's features online, and its definitions into the Feast registry."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from feast import FeatureService, FeatureStore, FeatureView
from feast.data_source import DataSource
from feast.repo_contents import RepoContents
from feast.repo_operations import extract_objects_for_apply_delete

from punctual.definitions import Definition, identity_of, pinned_domain
from punctual.errors import InvalidDeclaration
from punctual.feast_import import type_checks_skipped
from punctual.home import Home
from punctual.loaded_domain import LoadedDomain
from punctual.locks import exclusive_lock
from punctual.progress import Progress
from punctual.repository import load_all
from punctual.times import aware
from stores.models import cards_in_use, earlier_views, refuse_changes
from stores.online import (
    Materialized,
    OnlineView,
    PackedDatabase,
    PackedOnlineStore,
    materialize_view,
)


@dataclass(frozen=True)
class Applied:
    """What the Feast registry holds after a run, by name, and what it no longer holds."""

    domains: list[str]
    entities: list[str]
    feature_views: list[str]
    on_demand_feature_views: list[str]
    feature_services: list[str]
    removed: list[str]


def apply_definitions(store: FeatureStore, domains: list[LoadedDomain]) -> Applied:
    """What `feast apply` does, for the objects of all domains; what is no longer declared is
    removed.

    Raises `ChangeRefused` where that would change what a champion reads.
    """
    for domain in domains:
        refuse_changes(domain.home, [domain])
    views = [view for domain in domains for view in domain.views.values()]
    contents = RepoContents(
        projects=[],
        data_sources=[view.batch_source for view in views if view.batch_source is not None],
        feature_views=views,
        on_demand_feature_views=[
            view for domain in domains for view in domain.on_demand_views.values()
        ],
        stream_feature_views=[],
        label_views=[],
        entities=[entity for domain in domains for entity in domain.entities.values()],
        feature_services=[service for domain in domains for service in domain.services.values()],
        permissions=[],
    )
    _, gone, _, _ = extract_objects_for_apply_delete(store.project, store.registry, contents)
    everything = [thing for domain in domains for thing in domain.all_objects]
    with warnings.catch_warnings():
        # Feast says that on-demand views do not scale offline; ours run in the as-of store, on
        # their inputs alone.
        warnings.filterwarnings(
            "ignore", message="On demand feature view is an experimental feature"
        )
        gone = [thing for thing in gone if thing.name != "__dummy"]
        store.apply(everything, objects_to_delete=gone, partial=False)
    return Applied(
        [domain.name for domain in domains],
        [entity.name for entity in contents.entities],
        [view.name for view in contents.feature_views],
        [view.name for view in contents.on_demand_feature_views],
        [service.name for service in contents.feature_services],
        sorted({thing.name for thing in gone if not isinstance(thing, DataSource)}),
    )


def apply_if_changed(home: Home, store: FeatureStore) -> None:
    """Register the definitions of all domains, where the registry holds others or none.

    Where this process skips Feast's type checks, a process that runs them registers the
    definitions. Raises `InvalidDeclaration` where it fails.
    """
    domains = load_all(home)
    registered = [
        *store.list_feature_views(),
        *store.list_on_demand_feature_views(),
        *store.list_feature_services(),
    ]
    declared = [
        thing
        for domain in domains
        for thing in (*domain.all_views.values(), *domain.services.values())
    ]
    if _identities(registered) == _identities(declared):
        return
    for domain in domains:
        refuse_changes(home, [domain])
    if not type_checks_skipped():
        apply_definitions(store, domains)
        return
    applied = subprocess.run(
        [sys.executable, "-P", "-m", "pipelines", "apply"],
        env={**os.environ, **home.environment},
        capture_output=True,
        text=True,
    )
    if applied.returncode != 0:
        # A traceback ends with the error, whose own further lines are indented.
        said = re.split(r"\n(?=\S)", applied.stderr.strip())[-1]
        raise InvalidDeclaration(
            "the feature repository", [said or f"exit code {applied.returncode}"]
        )
    store.refresh_registry()


def _identities(definitions: Sequence[Definition]) -> dict[str, str]:
    views = {each.name: each for each in definitions if not isinstance(each, FeatureService)}
    return {f"{type(each).__name__} {each.name}": identity_of(each, views) for each in definitions}


def online_database(store: FeatureStore) -> PackedDatabase:
    """The online store's records."""
    online = store._get_provider().online_store  # type: ignore[attr-defined]
    assert isinstance(online, PackedOnlineStore)
    return online.database(store.config)


def materialize(
    store: FeatureStore,
    domain: LoadedDomain,
    now: datetime,
    progress: Progress,
    *,
    clock: Callable[[], datetime] | None = None,
    rebuild: bool = False,
) -> list[Materialized]:
    """Bring every view of the domain online to `min(now, built)`; run again, it changes nothing.

    `clock` says what time it is meanwhile, so that what comes online after its moment is counted;
    without one no time goes by.
    """
    database = online_database(store)
    views = [domain.views[declared.name] for declared in domain.declarations]
    keep = _schemas_in_use(store, domain)
    views += earlier_views(domain)

    def bring(view: FeatureView) -> Materialized:
        read = 0

        def say(rows: int) -> None:
            nonlocal read
            read += rows
            progress.say(f"{read:,} rows")

        return materialize_view(
            store.config,
            database,
            view,
            now=aware(now),
            clock=clock,
            rebuild=rebuild,
            progress=say,
            keep=keep,
        )

    with exclusive_lock(domain.home, "materialize"):
        return progress.each("online", views, lambda view: view.name, bring)


def _schemas_in_use(store: FeatureStore, domain: LoadedDomain) -> set[str]:
    """The schemas of the online records that the domain or a model with an alias reads."""
    cards = cards_in_use(domain.home, domain.use_cases)
    read = [domain, *(pinned_domain(domain, card.definitions) for card in cards)]
    return {
        OnlineView.of(store.project, view).schema for each in read for view in each.views.values()
    }
