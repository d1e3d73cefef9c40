"""Registers definitions with Feast and loads a domain's features into the online store."""

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
from punctual.errors import ExitCode, InvalidDeclaration, PunctualError
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


class ApplyInterrupted(PunctualError):
    """The process that registers the definitions ended with a temporary failure."""

    exit_code = ExitCode.TRY_AGAIN


@dataclass(frozen=True)
class Applied:
    """The names of the objects that an apply registered, and of those that it removed."""

    domains: list[str]
    entities: list[str]
    feature_views: list[str]
    on_demand_feature_views: list[str]
    feature_services: list[str]
    removed: list[str]


def apply_definitions(store: FeatureStore, domains: list[LoadedDomain]) -> Applied:
    """Register the objects of all domains, as `feast apply` does; remove undeclared ones.

    Raises `ChangeRefused` if that would change a definition that a champion reads.
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
    _, undeclared, _, _ = extract_objects_for_apply_delete(store.project, store.registry, contents)
    removed = [declared for declared in undeclared if declared.name != "__dummy"]
    objects = [declared for domain in domains for declared in domain.all_objects]
    with warnings.catch_warnings():
        # Feast warns that on-demand views do not scale offline. AsofOfflineStore computes them
        # itself, from their input columns only.
        warnings.filterwarnings(
            "ignore", message="On demand feature view is an experimental feature"
        )
        store.apply(objects, objects_to_delete=removed, partial=False)
    return Applied(
        [domain.name for domain in domains],
        [entity.name for entity in contents.entities],
        [view.name for view in contents.feature_views],
        [view.name for view in contents.on_demand_feature_views],
        [service.name for service in contents.feature_services],
        sorted({each.name for each in removed if not isinstance(each, DataSource)}),
    )


def apply_if_changed(home: Home, store: FeatureStore) -> None:
    """Register the definitions of all domains unless the registry already has them.

    If this process skips Feast's type checks, a child process that runs them registers the
    definitions. Raises `ChangeRefused`; if the child process fails, `ApplyInterrupted` for a
    temporary failure and `InvalidDeclaration` for any other.
    """
    domains = load_all(home)
    registered = [
        *store.list_feature_views(),
        *store.list_on_demand_feature_views(),
        *store.list_feature_services(),
    ]
    declared = [
        definition
        for domain in domains
        for definition in (*domain.all_views.values(), *domain.services.values())
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
        # A traceback ends with the error message; its continuation lines are indented.
        message = re.split(r"\n(?=\S)", applied.stderr.strip())[-1]
        if applied.returncode == ExitCode.TRY_AGAIN:
            raise ApplyInterrupted(message)
        raise InvalidDeclaration(
            "the feature repository", [message or f"exit code {applied.returncode}"]
        )
    store.refresh_registry()


def _identities(definitions: Sequence[Definition]) -> dict[str, str]:
    views = {each.name: each for each in definitions if not isinstance(each, FeatureService)}
    return {f"{type(each).__name__} {each.name}": identity_of(each, views) for each in definitions}


def online_database(store: FeatureStore) -> PackedDatabase:
    """The database of the online store's records."""
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
    """Load every view of the domain into the online store as of `min(now, built_until)`.

    A second run as of the same time changes nothing. `clock` gives the current time during the run,
    by which rows that come online too late are counted; without it the time stays at `now`.
    `rebuild` replaces all records. Raises `AlreadyRunning` while another materialization runs.
    """
    database = online_database(store)
    views = [domain.views[declared.name] for declared in domain.declarations]
    keep = _schemas_in_use(store, domain)
    views += earlier_views(domain)

    def load_view(view: FeatureView) -> Materialized:
        read = 0

        def report(rows: int) -> None:
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
            progress=report,
            keep=keep,
        )

    with exclusive_lock(domain.home, "materialize"):
        return progress.each("online", views, lambda view: view.name, load_view)


def _schemas_in_use(store: FeatureStore, domain: LoadedDomain) -> set[str]:
    """The schemas of online records that the domain or a model with an alias reads."""
    cards = cards_in_use(domain.home, domain.use_cases)
    readers = [domain, *(pinned_domain(domain, card.definitions) for card in cards)]
    return {
        OnlineView.of(store.project, view).schema
        for reader in readers
        for view in reader.views.values()
    }
