"""The request of a training run, and the data prepared for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from feast import FeatureStore

from punctual.loaded_domain import LoadedDomain
from punctual.model_card import ModelFeature, model_features
from punctual.use_case import UseCase
from training.split import Part, split
from training.training_set import TrainingSet, training_set


@dataclass(frozen=True)
class Job:
    """The use case to train, and the time as of which its data are read (aware UTC).

    `until` gives the end times of the three parts, for a report on fixed periods.
    """

    store: FeatureStore
    domain: LoadedDomain
    use_case: UseCase
    as_of: datetime
    until: tuple[datetime, datetime, datetime] | None = None


@dataclass(frozen=True)
class Prepared:
    """A training set, the features that the model reads, and the parts by name.

    The model uses no label that became known after `trained_until`.
    """

    dataset: TrainingSet
    features: list[ModelFeature]
    parts: dict[str, Part]
    trained_until: datetime


def prepare(job: Job) -> Prepared:
    """Make the training set and split it. Raises what `training_set` and `split` raise."""
    horizon = job.use_case.label.horizon
    start = job.use_case.split.parts(job.as_of, horizon, job.until)["train"][0]
    dataset = training_set(job.store, job.domain, job.use_case, as_of=job.as_of, start=start)
    features = model_features(dataset.rows, dataset.features)
    parts = split(dataset, job.use_case, features, job.until)
    return Prepared(dataset, features, parts, parts["validation"].end + horizon)
