"""The model card, which training publishes and inference loads, and the input of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from punctual.errors import InvalidDeclaration, StoreOutdated
from punctual.use_case import Metric, ParameterValue

# Reading and printing a card needs none of these.
if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

CHAMPION = "champion"
CHALLENGER = "challenger"
# File names among the artifacts of a registered model's run.
CARD_FILE = "model_card.json"
# The pickle that `mlflow.sklearn.save_model` writes.
MODEL_FILE = "model/model.pkl"
TEST_PREDICTIONS_FILE = "test_predictions.parquet"
REFERENCE_FILE = "reference.parquet"
PREDICTION_COLUMN = "prediction"


class ModelFeature(msgspec.Struct, frozen=True):
    """One input of the model; `name` is the full name (`view__feature`)."""

    name: str
    kind: Literal["number", "category"]


class TableVersion(msgspec.Struct, frozen=True):
    """A version of a table, and a commit of that version."""

    version: int
    commit: int


class TrainingSetManifest(msgspec.Struct, frozen=True):
    """What is needed to rebuild a training set, and the hash of its rows.

    `unlabelled` counts the requests without a label by reason.
    """

    as_of: str
    tables: dict[str, TableVersion]
    rows: int
    hash: str
    unlabelled: dict[str, int]


class SplitPart(msgspec.Struct, frozen=True):
    """A part of the training set: prediction moments in `[start, end)`."""

    start: str
    end: str
    rows: int
    label_mean: float | None


class ConfusionMatrix(msgspec.Struct, frozen=True):
    """Numbers of rows by predicted and true label."""

    true_negative: int
    false_positive: int
    false_negative: int
    true_positive: int


class Decisions(msgspec.Struct, frozen=True):
    """Metrics of the decisions that a threshold derives from probabilities."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    confusion_matrix: ConfusionMatrix


class Metrics(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metrics of predictions; those of the other task are None and left out of JSON."""

    rows: int
    positive_share: float | None = None
    roc_auc: float | None = None
    average_precision: float | None = None
    log_loss: float | None = None
    brier: float | None = None
    at_threshold: dict[str, Decisions] | None = None
    rmse: float | None = None
    mae: float | None = None
    r2: float | None = None

    def score(self, metric: Metric) -> float:
        """The value of a metric, NaN if it is None."""
        value: float | None = getattr(self, metric)
        return float("nan") if value is None else value


class Verdict(msgspec.Struct, frozen=True):
    """The result of the gate on `rows` rows; `message` is the result as a sentence."""

    passed: bool
    message: str
    metric: Metric
    challenger: float | None
    baselines: dict[str, float | None]
    champion: float | None
    rows: int


class ParityRow(msgspec.Struct):
    """A row of the test part and the model's prediction for it, with which a server is checked."""

    features: dict[str, float | str | None]
    prediction: float


DefinitionKind = Literal["feature service", "view", "request-time view"]


class PinnedDefinition(msgspec.Struct, frozen=True):
    """A definition with which a model was trained.

    `definition` is Feast's protobuf message. `declaration` has the fields of
    `punctual.windows.Declaration` for a view whose rows the platform computes, with the name and
    fingerprint of its events instead of the events.
    """

    kind: DefinitionKind
    name: str
    version: int
    identity: str
    definition: bytes
    declaration: dict[str, Any] | None = None


class ModelCard(msgspec.Struct):
    """The description of a registered model for people, servers and audits; JSON on disk."""

    use_case: str
    description: str
    task: Literal["binary", "regression"]
    version: str
    run_id: str
    as_of: str
    trained_until: str
    feature_service: str
    definitions: list[PinnedDefinition]
    features: list[ModelFeature]
    label: str
    label_horizon: str
    threshold: float
    metric: Metric
    training_set: TrainingSetManifest
    split: dict[str, SplitPart]
    parameters: dict[str, ParameterValue]
    metrics: dict[str, Metrics]
    baselines: dict[str, dict[str, Metrics]]
    gate: Verdict
    libraries: dict[str, str]
    parity_rows: list[ParityRow]
    limits: str


def encode_card(card: ModelCard) -> bytes:
    """The card as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(card), indent=2)


def decode_card(data: bytes) -> ModelCard:
    """The card from JSON, the inverse of `encode_card`."""
    return msgspec.json.decode(data, type=ModelCard)


def model_features(features: pa.Table, names: list[str]) -> list[ModelFeature]:
    """The named columns as model inputs: text is a category, numbers and booleans are numbers.

    Raises `InvalidDeclaration` for columns of other types, such as timestamps.
    """
    import pyarrow as pa

    kinds: list[ModelFeature] = []
    problems: list[str] = []
    for name in names:
        type_ = features.schema.field(name).type
        text = pa.types.is_string(type_) or pa.types.is_large_string(type_)
        if pa.types.is_temporal(type_) or pa.types.is_nested(type_) or pa.types.is_binary(type_):
            problems.append(
                f"feature '{name}' is {type_}, which is neither a number nor text: leave it out of"
                " the service; a request-time view can make a number of it."
            )
        kinds.append(ModelFeature(name, "category" if text else "number"))
    if problems:
        raise InvalidDeclaration("the input of the model", problems)
    return kinds


def model_input(
    columns: dict[str, list[Any]] | pa.Table, features: list[ModelFeature]
) -> pd.DataFrame:
    """The model's input: float64 for numbers, objects of str for categories; null is NaN or None.

    Training and serving both use this function, on columns from the offline join and from the
    online store. Raises `StoreOutdated` if a feature is missing.
    """
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    named = set(columns.column_names) if isinstance(columns, pa.Table) else set(columns)
    missing = [feature.name for feature in features if feature.name not in named]
    if missing:
        raise StoreOutdated(
            f"the model needs features that were not read: {', '.join(missing)}. Train again with"
            " the current definitions."
        )
    frame: dict[str, np.ndarray] = {}
    for feature in features:
        column = columns[feature.name]
        if feature.kind == "category":
            frame[feature.name] = np.array(
                column.to_pylist() if isinstance(column, pa.ChunkedArray) else column, dtype=object
            )
        elif isinstance(column, pa.ChunkedArray):
            frame[feature.name] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        else:
            frame[feature.name] = np.array(column, dtype=np.float64)
    return pd.DataFrame(frame)
