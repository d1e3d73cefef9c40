"""The ledger of runs: each attempt, its moment and its end; durable across restarts and kills."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from orchestration.steps import Step
from punctual.errors import DataFolderError
from punctual.home import Home
from punctual.times import from_micros, micros
from stores.tables import sqlite_uri

# The lock of the data folder, held by a scheduler and by each step process that it started.
SCHEDULE = "schedule"
Status = Literal[
    "running",
    "succeeded",
    "attention",
    "refused",
    "failed",
    "retrying",
    "interrupted",
    "skipped",
]
# After one of these or "failed", a step is not run again for the moment.
_DONE = ("succeeded", "attention", "refused", "skipped")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY,
    domain TEXT NOT NULL,
    step TEXT NOT NULL,
    target TEXT NOT NULL,
    scheduled INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    status TEXT NOT NULL,
    started INTEGER NOT NULL,
    finished INTEGER,
    started_wall INTEGER NOT NULL,
    finished_wall INTEGER,
    message TEXT NOT NULL DEFAULT '',
    log TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS runs_of_a_step ON runs (domain, step, target, scheduled);
"""
_COLUMNS = (
    "id, domain, step, target, scheduled, attempt, status, started, finished, started_wall,"
    " finished_wall, message, log"
)
_OF_STEP = "domain = ? AND step = ? AND target = ?"


@dataclass(frozen=True)
class Run:
    """One attempt of a step at the moment it was scheduled for.

    `started` and `finished` are on the schedule's clock, `started_wall` and `finished_wall` in real
    time.
    """

    id: int
    domain: str
    step: str
    target: str
    scheduled: datetime
    attempt: int
    status: Status
    started: datetime
    finished: datetime | None
    started_wall: datetime
    finished_wall: datetime | None
    message: str
    log: str

    @property
    def seconds(self) -> float | None:
        """The duration in real time, None while it runs."""
        return (
            (self.finished_wall - self.started_wall).total_seconds() if self.finished_wall else None
        )


class Ledger:
    """Reads and writes `schedule.db` in the data folder; each call is a transaction.

    Only the holder of the lock `SCHEDULE` may write.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.path = home.path("schedule.db")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        connection = None
        try:
            if self.path.exists() and not os.access(self.path.parent, os.W_OK):
                connection = sqlite3.connect(sqlite_uri(self.path), uri=True)
                yield connection
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=60)
            connection.execute("PRAGMA journal_mode = WAL")
            with connection:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                yield connection
        except (OSError, sqlite3.DatabaseError) as error:
            raise DataFolderError(
                f"cannot use {self.path}: {error}. Free space, repair its permissions, or remove"
                " a damaged file; the schedule then starts without history."
            ) from error
        finally:
            if connection is not None:
                connection.close()

    def _runs(self, condition: str, values: Sequence[object]) -> list[Run]:
        if not self.path.exists():
            return []
        with self._connection() as connection:
            return [
                _run(row)
                for row in connection.execute(
                    f"SELECT {_COLUMNS} FROM runs WHERE {condition}", tuple(values)
                )
            ]

    def start(
        self, step: Step, scheduled: datetime, *, now: datetime, wall: datetime, log: str = ""
    ) -> Run:
        """Record the start of the next attempt of a step for a moment."""
        attempt = len(self.attempts(step, scheduled)) + 1
        values = (
            step.domain,
            step.name,
            step.target,
            micros(scheduled),
            attempt,
            micros(now),
            micros(wall),
            log,
        )
        with self._connection() as connection:
            cursor = connection.execute(
                """
                INSERT INTO runs (
                    domain, step, target, scheduled, attempt, status, started, started_wall, log
                )
                VALUES (?, ?, ?, ?, ?, 'running', ?, ?, ?)
                """,
                values,
            )
        return self._runs("id = ?", (cursor.lastrowid,))[0]

    def finish(
        self, run: Run, status: Status, message: str, *, now: datetime, wall: datetime
    ) -> Run:
        """Record the end of an attempt."""
        with self._connection() as connection:
            connection.execute(
                """
                UPDATE runs SET status = ?, message = ?, finished = ?, finished_wall = ?
                WHERE id = ?
                """,
                (status, message, micros(now), micros(wall), run.id),
            )
        return self._runs("id = ?", (run.id,))[0]

    def interrupt_running(self, *, now: datetime, wall: datetime) -> list[Run]:
        """Record the attempts that a dead scheduler left running as interrupted; return them."""
        left = self._runs("status = 'running' ORDER BY id", ())
        return [
            self.finish(run, "interrupted", "the scheduler died while it ran", now=now, wall=wall)
            for run in left
        ]

    def give_up_before(self, step: Step, scheduled: datetime) -> None:
        """Record retrying attempts for moments before `scheduled` as failed.

        A step does not retry a moment once a newer one has come.
        """
        with self._connection() as connection:
            connection.execute(
                f"""
                UPDATE runs SET status = 'failed'
                WHERE status = 'retrying' AND {_OF_STEP} AND scheduled < ?
                    AND attempt = (
                        SELECT max(attempt) FROM runs AS other
                        WHERE other.domain = runs.domain
                            AND other.step = runs.step
                            AND other.target = runs.target
                            AND other.scheduled = runs.scheduled
                    )
                """,
                (step.domain, step.name, step.target, micros(scheduled)),
            )

    def last_done(self, step: Step, *, failed: bool = True) -> datetime | None:
        """The newest moment for which the step is done; with `failed` a final failure counts."""
        done = (*_DONE, "failed") if failed else _DONE
        runs = self._runs(
            f"{_OF_STEP} AND status IN ({', '.join('?' * len(done))})"
            " ORDER BY scheduled DESC LIMIT 1",
            (step.domain, step.name, step.target, *done),
        )
        return runs[0].scheduled if runs else None

    def attempts(self, step: Step, scheduled: datetime) -> list[Run]:
        """All attempts of a step for a moment, in their order."""
        return self._runs(
            f"{_OF_STEP} AND scheduled = ? ORDER BY attempt",
            (step.domain, step.name, step.target, micros(scheduled)),
        )

    def recent(self, count: int) -> list[Run]:
        """The newest attempts, the newest first."""
        return self._runs("true ORDER BY id DESC LIMIT ?", (count,))


def _run(row: Sequence[Any]) -> Run:
    times = {4, 7, 8, 9, 10}
    values: list[Any] = [
        from_micros(value) if at in times and value is not None else value
        for at, value in enumerate(row)
    ]
    return Run(*values)
