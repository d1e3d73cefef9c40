"""The monitoring report of a use case."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from inference.batch import newest_batch
from inference.champion import champion_card, reference
from inference.features import OnlineFeatures
from inference.monitoring import plots
from inference.monitoring.drift import LEAST_ROWS, Drift, drift, psi_text, span_of
from inference.monitoring.live import LiveScore, Outcomes, live_score, outcomes
from punctual.definitions import pinned_domain
from punctual.errors import DataFolderError, InvalidRequest
from punctual.loaded_domain import LoadedDomain
from punctual.model_card import PREDICTION_COLUMN, ModelCard, ModelFeature
from punctual.plain import plain
from punctual.times import aware, duration_text, iso
from punctual.use_case import UseCase
from stores.online import Freshness, view_freshness
from stores.predictions import logged_predictions
from stores.tables import EVENT

SINCE = timedelta(days=7)


@dataclass(frozen=True)
class Current:
    """The champion's predictions that are evaluated, from the log or a batch."""

    source: Literal["log", "batch", "nothing"]
    rows: pa.Table
    note: str


@dataclass(frozen=True)
class Report:
    """The result of monitoring.

    `reasons` are sentences about what needs attention, empty if nothing does. `notes` are sentences
    about what could not be evaluated and why.
    """

    use_case: str
    model_version: str
    as_of: datetime
    since: datetime
    source: str
    rows: int
    prediction_drift: Drift | None
    data_drift: list[Drift]
    live: LiveScore
    freshness: list[Freshness]
    reasons: list[str]
    notes: list[str]
    files: list[Path]


def monitor(
    domain: LoadedDomain, use_case: UseCase, *, as_of: datetime, since: datetime | None = None
) -> Report:
    """Evaluate the champion's predictions made in `(since, as_of]`, and the features it reads.

    The default of `since` is seven days before `as_of`. Writes the report as JSON, and its plots,
    into the data folder. Raises `NoChampion`, `NotBuilt`.
    """
    as_of = aware(as_of)
    since = as_of - SINCE if since is None else aware(since)
    if since >= as_of:
        raise InvalidRequest(
            f"the period of the report, ({iso(since)}, {iso(as_of)}], is empty; choose an earlier"
            " --since."
        )
    card = champion_card(domain, use_case)
    current = _current(domain, use_case, card, since, as_of)
    trained = reference(domain.home, card)
    prediction_drift, data_drift = _drifts(card, trained, current)
    found = outcomes(domain, use_case, current.rows, as_of)
    live = live_score(use_case, card, found)
    pinned = pinned_domain(domain, card.definitions)
    online = OnlineFeatures(pinned, use_case, card.feature_service)
    fresh = list(
        view_freshness(
            pinned,
            online.database,
            {view.online.name: view.online for view in online.views}.values(),
        ).values()
    )
    notes = [note for note in (current.note, live.note) if note]
    report = Report(
        use_case=use_case.name,
        model_version=card.version,
        as_of=as_of,
        since=since,
        source=current.source,
        rows=current.rows.num_rows,
        prediction_drift=prediction_drift,
        data_drift=data_drift,
        live=live,
        freshness=fresh,
        reasons=_reasons(as_of, prediction_drift, data_drift, live, fresh),
        notes=notes,
        files=[],
    )
    return _written(domain, report, card, trained, current, found)


def _current(
    domain: LoadedDomain, use_case: UseCase, card: ModelCard, since: datetime, as_of: datetime
) -> Current:
    """The champion's logged predictions, or its last batch if too few are logged."""
    logged = logged_predictions(domain.home, use_case.name, since, as_of)
    mine = logged.filter(pa.compute.equal(logged["model_version"], card.version))
    others = (
        f" ({logged.num_rows - mine.num_rows} by other versions)"
        if logged.num_rows > mine.num_rows
        else ""
    )
    logged_text = (
        f"version {card.version} has {mine.num_rows} logged predictions{others} in"
        f" ({iso(since)}, {iso(as_of)}]"
    )
    if mine.num_rows >= LEAST_ROWS:
        return Current("log", mine, "")
    path = newest_batch(domain.home, use_case.name, card.version, as_of)
    batch = _batch(path) if path else None
    if batch is not None and batch.num_rows > mine.num_rows:
        few = (
            f", fewer than the {LEAST_ROWS} that drift needs" if batch.num_rows < LEAST_ROWS else ""
        )
        return Current(
            "batch",
            batch,
            f"{logged_text}; its last batch is evaluated instead, {batch.num_rows} rows{few}",
        )
    if mine.num_rows:
        return Current(
            "log",
            mine,
            f"{logged_text}; drift needs {LEAST_ROWS}",
        )
    return Current(
        "nothing",
        mine,
        f"{logged_text} and no batch; run: punctual batch {use_case.name}, or predict",
    )


def _batch(path: Path) -> pa.Table:
    rows = pq.read_table(path)
    return rows.append_column("at", rows[EVENT])


def _drifts(
    card: ModelCard, trained: pa.Table, current: Current
) -> tuple[Drift | None, list[Drift]]:
    if current.rows.num_rows < LEAST_ROWS:
        return None, []
    span = span_of(current.rows["at"])
    (prediction,) = drift(
        trained, current.rows, [ModelFeature(PREDICTION_COLUMN, "number")], EVENT, span
    )
    return prediction, drift(trained, current.rows, card.features, EVENT, span)


def _reasons(
    as_of: datetime,
    prediction: Drift | None,
    data: list[Drift],
    live: LiveScore,
    fresh: list[Freshness],
) -> list[str]:
    reasons = []
    if prediction and prediction.verdict == "large":
        reasons.append(f"predictions have drifted: {psi_text(prediction)}")
    drifted = [each for each in data if each.verdict == "large"]
    if drifted:
        most = f"{drifted[0].name} ({psi_text(drifted[0])})"
        reasons.append(f"{len(drifted)} of {len(data)} features have drifted, most of all {most}")
    if live.is_worse and live.score is not None and live.test_score is not None:
        reasons.append(
            f"the live {live.metric} is {live.score:.3f} ({live.low:.3f} to {live.high:.3f}), worse"
            f" than {live.test_score:.3f} on the test part"
        )
    never = [each.view for each in fresh if each.materialized_until is None]
    if never:
        reasons.append(f"not online: {', '.join(never)}")
    late = [each for each in fresh if each.materialized_until is not None and each.is_stale(as_of)]
    if late:
        longest = max(late, key=lambda each: each.behind(as_of))
        reasons.append(
            f"{len(late)} of {len(fresh)} views are stale, {longest.view} by"
            f" {duration_text(longest.behind(as_of))}"
        )
    return reasons


def _written(
    domain: LoadedDomain,
    report: Report,
    card: ModelCard,
    trained: pa.Table,
    current: Current,
    found: Outcomes,
) -> Report:
    """Write the report and its plots into a folder named by `as_of`; return it with its files."""
    folder = domain.home.path("reports", report.use_case, f"{report.as_of:%Y%m%dT%H%M%SZ}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.png"):
            old.unlink()
        path = folder / "report.json"
        files = [
            path,
            *plots.draw(
                folder,
                card,
                trained,
                current.rows,
                report.prediction_drift,
                report.data_drift,
                found,
            ),
        ]
        report = Report(**{**vars(report), "files": files})
        temporary = path.with_suffix(".aside")
        temporary.write_text(
            json.dumps(
                plain({**vars(report), "files": [each.name for each in files]}),
                indent=2,
                default=str,
            )
        )
        temporary.replace(path)
    except OSError as error:
        problem = f"cannot write the report in {folder}: {error.strerror or error}"
        raise DataFolderError(f"{problem}. Free space or choose another --home.") from error
    return report
