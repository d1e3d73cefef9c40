"""The prediction log: every prediction is appended to a file before it is returned.

There is one file per process and day of receipt, with one JSON line per predicted row. The rows of
a request are appended in one write.
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

# The columns of `logged_predictions` other than request columns and features.
RESERVED_COLUMNS = (
    "prediction_id",
    "at",
    "received",
    "model_version",
    "feature_service",
    "prediction",
    "decision",
)


class ViewRow(msgspec.Struct, frozen=True):
    """The view's row that a prediction used, and the time up to which the view was online at least.

    `event` and `created` are the two times of the row.
    """

    status: str
    event: datetime | None
    created: datetime | None
    materialized_until: datetime | None


class LoggedPrediction(msgspec.Struct, frozen=True):
    """One predicted row, with all data to explain or repeat the prediction; times are aware UTC.

    A feature that is not finite is `{"float": "nan"}` (or `inf`, `-inf`), since JSON has no such
    numbers.
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
    views: dict[str, ViewRow]
    prediction: float
    decision: bool | None


_encode = msgspec.json.Encoder(enc_hook=str).encode
_decode = msgspec.json.Decoder(LoggedPrediction).decode


def log_folder(home: Home, use_case: str) -> Path:
    """The folder of a use case's prediction log."""
    return home.path("predictions", "log", use_case)


def json_value(value: Any) -> Any:
    """The value as JSON can represent it: a float that is not finite becomes an object."""
    return (
        {"float": repr(value)} if isinstance(value, float) and not math.isfinite(value) else value
    )


def value_of_json(value: Any) -> Any:
    """The inverse of `json_value`."""
    return float(value["float"]) if isinstance(value, dict) and "float" in value else value


class PredictionLog:
    """Appends to this process's file of a use case's log; thread-safe."""

    def __init__(self, home: Home, use_case: str) -> None:
        self.folder = log_folder(home, use_case)
        self._name = _file_name()
        self._lock = threading.Lock()
        self._day = ""
        self._file = -1

    def append(self, predictions: Sequence[LoggedPrediction]) -> None:
        """Write the predictions of one request; killing the process afterwards loses none of them.

        Raises `DataFolderError` if they cannot be written; the log is then unchanged.
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
                    "No prediction is returned without being logged; free space or fix the"
                    " folder's permissions."
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
            # A partial line is truncated. The next write goes to a new file, so that a partial line
            # that could not be truncated is the last one of its file.
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
    """Logged predictions whose `at` is in `(since, until]`, file by file.

    The incomplete last line of a killed process is skipped: that prediction was never returned.
    Raises `BrokenTable` for any other line that cannot be read.
    """
    low = None if since is None else aware(since)
    high = None if until is None else aware(until)
    # `received` is at or after `at`, except that clocks differ a little.
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
                    " file away to continue without it."
                ) from error
            if (low is None or found.at > low) and (high is None or found.at <= high):
                yield found


def logged_predictions(
    home: Home, use_case: str, since: datetime | None = None, until: datetime | None = None
) -> pa.Table:
    """Logged predictions whose `at` is in `(since, until]`, as a table in order of `at`.

    The columns are `RESERVED_COLUMNS`, the columns of the requests, and the features by full name.
    Raises `BrokenTable`.
    """
    found = sorted(
        read_log(home, use_case, since, until),
        key=lambda each: (each.at, each.received, each.prediction_id),
    )
    columns: dict[str, pa.Array] = {}
    for name in RESERVED_COLUMNS:
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
