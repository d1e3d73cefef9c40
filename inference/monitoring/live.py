"""The live score: what was predicted, beside what has become known since."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from punctual.loaded_domain import LoadedDomain
from punctual.model_card import ModelCard
from punctual.times import aware, micros
from punctual.use_case import LOWER_IS_BETTER, UseCase
from stores.tables import CREATED, EVENT, connect, known_events, quoted

# Fewer labels than this, and the score's interval is wider than any change worth knowing.
LEAST_LABELLED = 200
_RESAMPLES = 200
_SEED = 20131205


@dataclass(frozen=True)
class Outcomes:
    """Predictions beside their labels, and how many predictions had to be left out, by reason."""

    predictions: np.ndarray
    labels: np.ndarray
    left_out: dict[str, int]


@dataclass(frozen=True)
class LiveScore:
    """How the predictions of a window did. `low` and `high` hold 95 % of the bootstrap resamples of
    the score.

    `is_worse` says that even the better end is worse than the score on the test part. `note` says
    why there is no score.
    """

    metric: str
    rows: int
    left_out: dict[str, int]
    score: float | None
    low: float | None
    high: float | None
    test_score: float | None
    label_mean: float | None
    prediction_mean: float | None
    is_worse: bool
    note: str


def outcomes(
    domain: LoadedDomain, use_case: UseCase, predicted: pa.Table, as_of: datetime
) -> Outcomes:
    """Join predictions (`at`, `prediction` and what was sent) to the labels known at `as_of` (aware
    UTC).

    A prediction that carries the request's ids is joined by them, another one to the request with
    equal keys and request columns whose moment is nearest to its own, within the label's horizon.
    Of several for one request the last counts. Requests younger than the horizon wait, all of them:
    those whose label is known already are the quick outcomes only.
    """
    as_of, horizon = aware(as_of), use_case.label.horizon
    if predicted.num_rows == 0:
        return Outcomes(np.array([]), np.array([]), {})
    ends = pc.min_max(predicted["at"]).as_py()
    requests = known_events(
        domain,
        use_case.requests,
        as_of=as_of,
        since=ends["min"] - horizon,
        until=ends["max"] + horizon,
    )
    with connect() as connection:
        sent = predicted.rename_columns(_renamed(predicted))
        connection.register(
            "sent", sent.append_column("number", pa.array(range(predicted.num_rows), pa.int64()))
        )
        connection.register("requests", requests)
        connection.register("labels", known_events(domain, use_case.label.of, as_of=as_of))
        _match(connection, domain, use_case)
        same_id = " AND ".join(
            f"m.{quoted(name)} = l.{quoted(name)}" for name in use_case.requests.id
        )
        connection.execute(
            "CREATE TABLE judged AS SELECT m.number, m.prediction,"
            f" l.{quoted(use_case.label.column)}::DOUBLE AS label, CASE"
            " WHEN NOT m.is_last THEN 'repeated'"
            f" WHEN epoch_us(m.moment) + {micros(horizon)} > {micros(as_of)} THEN 'waiting for the"
            " label'"
            f" WHEN l.{CREATED} <= m.asked_at THEN 'made when the label was known'"
            f" WHEN l.{quoted(use_case.label.column)} IS NULL THEN 'without a label' END AS reason"
            f" FROM matched AS m LEFT JOIN labels AS l ON {same_id}"
        )
        left_out = dict(
            connection.execute(
                "SELECT reason, count(*) FROM judged WHERE reason IS NOT NULL GROUP BY 1 ORDER BY 1"
            ).fetchall()
        )
        (matched,) = connection.execute("SELECT count(*) FROM judged").fetchone() or (0,)
        kept = connection.execute(
            "SELECT prediction, label FROM judged WHERE reason IS NULL ORDER BY number"
        ).fetchnumpy()
    if matched < predicted.num_rows:
        left_out["of no known request"] = predicted.num_rows - matched
    return Outcomes(
        np.asarray(kept["prediction"], dtype=np.float64),
        np.asarray(kept["label"], dtype=np.float64),
        left_out,
    )


def _renamed(predicted: pa.Table) -> list[str]:
    # `at` is a reserved word in DuckDB 2.
    return ["asked_at" if name == "at" else name for name in predicted.column_names]


def _match(connection: duckdb.DuckDBPyConnection, domain: LoadedDomain, use_case: UseCase) -> None:
    """`matched`: each prediction with the ids and the moment of its request, and whether it is the
    last one for it.
    """
    types = {name: kind for name, kind, *_ in connection.execute("DESCRIBE requests").fetchall()}
    columns = {name for name, *_ in connection.execute("DESCRIBE sent").fetchall()}

    def same(name: str) -> str:
        # What was logged as text, as moments are, is compared in the request's type.
        return f"TRY_CAST(s.{quoted(name)} AS {types[name]}) = r.{quoted(name)}"

    ids, service = use_case.requests.id, use_case.feature_service
    has_ids = set(ids) <= columns
    by_id = " AND ".join(same(name) for name in ids) if has_ids else "false"
    without_id = " OR ".join(f"s.{quoted(name)} IS NULL" for name in ids) if has_ids else "true"
    asked = [
        name
        for name in dict.fromkeys([*domain.join_keys(service), *domain.request_columns(service)])
        if name in columns
    ]
    either = {
        name: f"(s.{quoted(name)} IS NULL OR {same(name)})" for name in use_case.optional_keys
    }
    alike = " AND ".join(either.get(name) or same(name) for name in asked) or "true"
    distance = f"abs(epoch_us(s.asked_at) - epoch_us(r.{EVENT}))"
    named = ", ".join(f"r.{quoted(name)} AS {quoted(name)}" for name in ids)
    shown = f"s.number, s.asked_at, s.prediction, r.{EVENT} AS moment, {named}"
    by_distance = ", ".join([distance, f"r.{EVENT}", *(f"r.{quoted(name)}" for name in ids)])
    nearest = f"QUALIFY row_number() OVER (PARTITION BY s.number ORDER BY {by_distance}) = 1"
    near = f"({without_id}) AND {alike} AND {distance} <= {micros(use_case.label.horizon)}"
    connection.execute(
        "CREATE TABLE matched AS SELECT *, row_number() OVER"
        f" (PARTITION BY {', '.join(map(quoted, ids))} ORDER BY asked_at DESC, number DESC) = 1 AS"
        " is_last FROM"
        f" (SELECT {shown} FROM sent AS s JOIN requests AS r ON {by_id}"
        f" UNION ALL (SELECT {shown} FROM sent AS s JOIN requests AS r ON {near} {nearest}))"
    )


def live_score(use_case: UseCase, card: ModelCard, found: Outcomes) -> LiveScore:
    """The use case's metric over the outcomes, beside its value on the model's test part."""
    rows = len(found.labels)
    note = ""
    if rows < LEAST_LABELLED:
        note = f"{rows} predictions have a label; a score needs {LEAST_LABELLED}"
    elif use_case.task == "binary" and len(np.unique(found.labels)) < 2:
        note = f"all {rows} labels are the same"
    test = card.metrics["test"].score(use_case.metric) if "test" in card.metrics else None
    label_mean, prediction_mean = (
        (float(found.labels.mean()), float(found.predictions.mean())) if rows else (None, None)
    )
    if note:
        return LiveScore(
            use_case.metric,
            rows,
            found.left_out,
            None,
            None,
            None,
            test,
            label_mean,
            prediction_mean,
            False,
            note,
        )
    value = score(use_case.metric, found.labels, found.predictions)
    low, high = _interval(use_case, found)
    better_end = low if use_case.metric in LOWER_IS_BETTER else high
    is_worse = test is not None and use_case.better_by(better_end, test) < 0
    return LiveScore(
        use_case.metric,
        rows,
        found.left_out,
        value,
        low,
        high,
        test,
        label_mean,
        prediction_mean,
        is_worse,
        "",
    )


def _interval(use_case: UseCase, found: Outcomes) -> tuple[float, float]:
    random = np.random.default_rng(_SEED)
    values = []
    for _ in range(_RESAMPLES):
        chosen = random.integers(0, len(found.labels), len(found.labels))
        labels = found.labels[chosen]
        if use_case.task == "regression" or 0 < labels.sum() < len(labels):
            values.append(score(use_case.metric, labels, found.predictions[chosen]))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def score(metric: str, labels: np.ndarray, predictions: np.ndarray) -> float:
    """A metric of the contract, by scikit-learn's definition."""
    from sklearn import metrics

    if metric == "rmse":
        return float(np.sqrt(metrics.mean_squared_error(labels, predictions)))
    if metric == "log_loss":
        return float(metrics.log_loss(labels, predictions, labels=[0, 1]))
    named = {
        "average_precision": metrics.average_precision_score,
        "roc_auc": metrics.roc_auc_score,
        "brier": metrics.brier_score_loss,
        "mae": metrics.mean_absolute_error,
        "r2": metrics.r2_score,
    }
    return float(named[metric](labels, predictions))
