"""A domain's name, demo moment and schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Domain:
    """A domain's name, demo moment and schedule. Each domain folder defines exactly one.

    - `name`: the name of the domain folder.
    - `description`: one sentence, which `punctual demo` prints.
    - `demo_at`: for historical data, the moment at which the data folder's clock starts (a datetime
      with a time zone). None, the default, is for live data: the clock is the system clock.
    - `schedule`: step name to cron expression (five fields, UTC). The steps are `materialize`,
      `batch` and `train`; a step that is left out is not scheduled. The default materializes
      hourly, runs the batch daily at 06:00 and trains on Mondays at 07:00.
    - `time_limits`: step name to the longest duration of a run in real time (more than 0); a run
      that exceeds it is stopped. Default: 2 hours for `materialize` and `batch`, 12 for `train`.
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
