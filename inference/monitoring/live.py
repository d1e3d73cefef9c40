"""The live score: predictions compared with the labels known since."""

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

# With fewer labels the interval of the score is too wide to show a relevant change.
LEAST_LABELLED = 200
_RESAMPLES = 200
_SEED = 20131205


@dataclass(frozen=True)
class Outcomes:
    """Predictions with their labels, and the number of predictions left out, by reason."""

    predictions: np.ndarray
    labels: np.ndarray
    left_out: dict[str, int]


@dataclass(frozen=True)
class LiveScore:
    """The score of the predictions of a window.

    `low` and `high` are the 95 % bootstrap interval of the score. `is_worse` is true if even the
    better end of the interval is worse than the score on the test part. `note` is the reason for a
    missing score.
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
    """Join predictions to the labels known at `as_of` (aware UTC).

    `predicted` has the columns `at`, `prediction` and those of the request's row. A prediction with
    the request's ids is joined by these. Without ids it is joined to the request with equal keys
    and request columns and the nearest moment, at most the label's horizon away. Only the last
    prediction of a request counts. All requests younger than the horizon are left out: the labels
    known so far are those of quick outcomes, which would bias the score.
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
            f"matched.{quoted(name)} = labels.{quoted(name)}" for name in use_case.requests.id
        )
        label = quoted(use_case.label.column)
        connection.execute(
            f"""
            CREATE TABLE judged AS
            SELECT
                matched.number,
                matched.prediction,
                labels.{label}::DOUBLE AS label,
                CASE
                    WHEN NOT matched.is_last THEN 'repeated'
                    WHEN epoch_us(matched.moment) + {micros(horizon)} > {micros(as_of)}
                        THEN 'waiting for the label'
                    WHEN labels.{CREATED} <= matched.asked_at THEN 'made when the label was known'
                    WHEN labels.{label} IS NULL THEN 'without a label'
                END AS reason
            FROM matched
            LEFT JOIN labels ON {same_id}
            """
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
    """Create table `matched`: predictions with the ids and the moment of their requests.

    `is_last` marks the last prediction of each request.
    """
    types = {name: kind for name, kind, *_ in connection.execute("DESCRIBE requests").fetchall()}
    columns = {name for name, *_ in connection.execute("DESCRIBE sent").fetchall()}

    def same(name: str) -> str:
        # The log stores some types, such as timestamps, as text.
        return f"TRY_CAST(sent.{quoted(name)} AS {types[name]}) = requests.{quoted(name)}"

    ids, service = use_case.requests.id, use_case.feature_service
    has_ids = set(ids) <= columns
    by_id = " AND ".join(same(name) for name in ids) if has_ids else "false"
    without_id = " OR ".join(f"sent.{quoted(name)} IS NULL" for name in ids) if has_ids else "true"
    compared = [
        name
        for name in dict.fromkeys([*domain.join_keys(service), *domain.request_columns(service)])
        if name in columns
    ]
    either = {
        name: f"(sent.{quoted(name)} IS NULL OR {same(name)})" for name in use_case.optional_keys
    }
    equal_rows = " AND ".join(either.get(name) or same(name) for name in compared) or "true"
    distance = f"abs(epoch_us(sent.asked_at) - epoch_us(requests.{EVENT}))"
    request_ids = ", ".join(f"requests.{quoted(name)}" for name in ids)
    match_columns = (
        f"sent.number, sent.asked_at, sent.prediction, requests.{EVENT} AS moment, {request_ids}"
    )
    connection.execute(
        f"""
        CREATE TABLE matched AS
        SELECT
            *,
            row_number() OVER (
                PARTITION BY {", ".join(map(quoted, ids))}
                ORDER BY asked_at DESC, number DESC
            ) = 1 AS is_last
        FROM (
            SELECT {match_columns}
            FROM sent
            JOIN requests ON {by_id}
            UNION ALL (
                SELECT {match_columns}
                FROM sent
                JOIN requests
                    ON ({without_id})
                    AND {equal_rows}
                    AND {distance} <= {micros(use_case.label.horizon)}
                QUALIFY row_number() OVER (
                    PARTITION BY sent.number
                    ORDER BY {distance}, requests.{EVENT}, {request_ids}
                ) = 1
            )
        )
        """
    )


def live_score(use_case: UseCase, card: ModelCard, found: Outcomes) -> LiveScore:
    """The use case's metric over the outcomes, with its value on the model's test part."""
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
    """A metric by its name in a use case, by scikit-learn's definition."""
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
