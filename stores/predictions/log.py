"""The prediction log: every prediction is on disk before it is answered, in files that are only
appended to.

One file per process and day of receipt, a JSON line per predicted row, each request in one write.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from punctual.errors import BrokenTable, DataFolderError
from punctual.home import Home
from punctual.times import aware

# Columns of `logged_predictions` beside a request's own and the features.
RESERVED = (
    "prediction_id",
    "at",
    "received",
    "model_version",
    "feature_service",
    "prediction",
    "decision",
)


class ViewShown(msgspec.Struct, frozen=True):
    """What a view showed for a row: which of its rows, and how far the view was online at least."""

    status: str
    event: datetime | None
    created: datetime | None
    materialized_until: datetime | None


class LoggedPrediction(msgspec.Struct, frozen=True):
    """One predicted row, with all that it takes to explain it or to make it again; moments are UTC.

    A feature that is not finite stands as `{"float": "nan"}` (or `inf`, `-inf`), since JSON has no
    such numbers.
    """

    prediction_id: str
    use_case: str
    at: datetime
    received: datetime
    model_name: str
    model_version: str
    feature_service: str
    row: dict[str, Any]
    features: dict[str, Any]
    views: dict[str, ViewShown]
    prediction: float
    decision: bool | None


_encode = msgspec.json.Encoder(enc_hook=str).encode
_decode = msgspec.json.Decoder(LoggedPrediction).decode


def log_folder(home: Home, use_case: str) -> Path:
    """Where a use case's predictions are logged."""
    return home.path("predictions", "log", use_case)


def json_value(value: Any) -> Any:
    """The value as the log holds it."""
    return (
        {"float": repr(value)} if isinstance(value, float) and not math.isfinite(value) else value
    )


def value_of_json(value: Any) -> Any:
    """The inverse of `json_value`."""
    return float(value["float"]) if isinstance(value, dict) and "float" in value else value


class PredictionLog:
    """Appends to this process's own file of a use case's log; threads may share it."""

    def __init__(self, home: Home, use_case: str) -> None:
        self.folder = log_folder(home, use_case)
        self._name = _file_name()
        self._lock = threading.Lock()
        self._day = ""
        self._file = -1

    def append(self, predictions: Sequence[LoggedPrediction]) -> None:
        """Write the predictions of one request; when this returns, killing the process loses none
        of them.

        Raises `DataFolderError`, and the log is as it was before.
        """
        lines = b"".join(_encode(each) + b"\n" for each in predictions)
        day = f"{predictions[0].received:%Y-%m-%d}"
        with self._lock:
            try:
                self._open(day)
                self._write(lines)
            except OSError as error:
                raise DataFolderError(
                    f"cannot write the prediction log in {self.folder}: {error.strerror}. "
                    "Nothing is answered unlogged; free space or mend its rights."
                ) from error

    def _open(self, day: str) -> None:
        if day == self._day:
            return
        self.close()
        (self.folder / day).mkdir(parents=True, exist_ok=True)
        self._file = os.open(
            self.folder / day / f"{self._name}.jsonl",
            os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC,
            0o644,
        )
        self._day = day

    def _write(self, lines: bytes) -> None:
        before = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, lines)
            if written < len(lines):
                raise OSError(
                    errno.ENOSPC, f"only {written:,} of {len(lines):,} bytes could be written"
                )
        except OSError:
            # Half a line must not stand before another: it is cut off, and should that fail too it
            # is the last of its file.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            self.close()
            self._name = _file_name()
            raise

    def close(self) -> None:
        """Close the file; the next prediction opens it again."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._day = -1, ""


def _file_name() -> str:
    return f"{os.getpid()}-{uuid.uuid4().hex[:8]}"


def read_log(
    home: Home, use_case: str, since: datetime | None = None, until: datetime | None = None
) -> Iterator[LoggedPrediction]:
    """Logged predictions with a prediction moment in `(since, until]`, file after file.

    The torn last line of a process that was killed in mid-write was never answered and is left out.
    Raises `BrokenTable` for any other line that cannot be read.
    """
    low = None if since is None else aware(since)
    high = None if until is None else aware(until)
    # A prediction is received at its moment or later, but for clocks that differ a little.
    first_day = f"{low - timedelta(days=1):%Y-%m-%d}" if low else ""
    for path in sorted(log_folder(home, use_case).glob("*/*.jsonl")):
        if path.parent.name < first_day:
            continue
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                found = _decode(line)
            except msgspec.MsgspecError as error:
                raise BrokenTable(
                    f"line {number} of the prediction log {path} cannot be read: {error}. Move the"
                    " file away to go on without it."
                ) from error
            if (low is None or found.at > low) and (high is None or found.at <= high):
                yield found


def logged_predictions(
    home: Home, use_case: str, since: datetime | None = None, until: datetime | None = None
) -> pa.Table:
    """Logged predictions as a table, in order of prediction moment: what was sent, the features by
    full name, the prediction.
    """
    found = sorted(
        read_log(home, use_case, since, until),
        key=lambda each: (each.at, each.received, each.prediction_id),
    )
    columns: dict[str, pa.Array] = {}
    for name in RESERVED:
        values = [getattr(each, name) for each in found]
        columns[name] = pa.array(values, _RESERVED_TYPES[name])
    rows = dict.fromkeys(name for each in found for name in each.row)
    columns.update({name: pa.array([each.row.get(name) for each in found]) for name in rows})
    features = dict.fromkeys(name for each in found for name in each.features)
    columns.update(
        {
            name: pa.array([value_of_json(each.features.get(name)) for each in found])
            for name in features
        }
    )
    return pa.table(columns)


_RESERVED_TYPES = {
    **dict.fromkeys(("prediction_id", "model_version", "feature_service"), pa.string()),
    **dict.fromkeys(("at", "received"), pa.timestamp("us", "UTC")),
    "prediction": pa.float64(),
    "decision": pa.bool_(),
}
