"""A domain's own facts for those who run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Domain:
    """A domain's own facts for those who run it.

    `demo_at` is the moment at which its demonstration stands (aware UTC), None for live data;
    `schedule` gives each recurring step a cron expression in UTC, and `time_limits` how long one of
    its runs may take by the wall's clock before it is stopped.
    """

    name: str
    description: str
    demo_at: datetime | None = None
    schedule: Mapping[str, str] = field(
        default_factory=lambda: {
            "materialize": "0 * * * *",
            "batch": "0 6 * * *",
            "train": "0 7 * * 1",
        }
    )
    time_limits: Mapping[str, timedelta] = field(default_factory=dict)
