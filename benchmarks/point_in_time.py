"""Compares point-in-time joins: `python -m benchmarks.point_in_time`; see `benchmarks/README.md`.

Prints one table per case and, as the last line, one JSON object. Seconds are wall time, MB are 10^6
bytes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.data import DataSet, Progress, View, files
from benchmarks.harness import Measurement, compare, cores, measure, report

EVENT_TIME = (
    "ours_event_time",
    "duckdb_asof",
    "feast_duckdb",
    "polars",
    "polars_presorted",
    "pandas",
)
TWO_TIME = ("ours", "duckdb_asof_two_time", "polars_two_time", "pandas_two_time")
DEFAULT_CONTENDERS = ("ours", "ours_event_time", "duckdb_asof", "polars", "pandas", "feast_duckdb")
WITH_PRESORTED = (
    "ours",
    "ours_event_time",
    "duckdb_asof",
    "polars",
    "polars_presorted",
    "pandas",
    "feast_duckdb",
)
WITHOUT_STOCK = tuple(name for name in DEFAULT_CONTENDERS if name != "feast_duckdb")
ALL_CONTENDERS = (*WITH_PRESORTED, *TWO_TIME[1:], "ours_4gb")


@dataclass(frozen=True)
class Case:
    """Data and contenders; with `late` rows, joins in both times and joins in event time differ."""

    data: DataSet
    contenders: tuple[str, ...]
    note: str
    late: bool = False

    def groups(self, measurements: list[Measurement]) -> list[list[Measurement]]:
        """The groups of contenders whose results must be equal."""
        if not self.late:
            return [measurements]
        return [
            [one for one in measurements if one.contender in group]
            for group in (TWO_TIME, EVENT_TIME)
        ]


TEN = (
    *((f"price_{number}", "float") for number in range(8)),
    ("trips", "int64"),
    ("stops", "int64"),
)
HUNDRED = tuple((f"spent_{number:02d}", "float") for number in range(100))
DEEP = View("deep", "driver", TEN, entities=20_000, steps=1_000, days=400, commits=200)
SHALLOW = View("shallow", "driver", TEN, entities=100_000, steps=100, days=400, commits=100)
WIDE = View(
    "wide",
    "customer",
    HUNDRED,
    entities=1_700,
    steps=10,
    days=10,
    commits=10,
    text_keys=True,
    levels=512,
)
PICKUPS = View(
    "pickups",
    "pickup_location",
    (("mean_fare", "float"), ("trips", "int32")),
    260,
    96 * 60,
    60,
    60,
    jitter=False,
)
DROPOFFS = View(
    "dropoffs",
    "dropoff_location",
    (("trips", "int32"), ("is_weekend", "int32")),
    260,
    48 * 60,
    60,
    60,
    jitter=False,
)
MINUTES = View(
    "minutes",
    "k",
    (("v", "int32"),),
    entities=50,
    steps=100_000,
    days=100_000 // 1440 + 1,
    commits=70,
    jitter=False,
)
SCATTERED = View(
    "scattered",
    "k",
    (("v", "int32"),),
    entities=100_000,
    steps=10,
    days=365,
    commits=73,
    scattered=True,
)

CASES = {
    "deep": Case(
        DataSet((DEEP,), 500_000),
        WITH_PRESORTED,
        "20M rows of 10 features, 1,000 per entity; 500k entity rows",
    ),
    "shallow": Case(
        DataSet((SHALLOW,), 500_000),
        WITH_PRESORTED,
        "10M rows of 10 features, 100 per entity; 500k entity rows",
    ),
    "wide": Case(
        DataSet(tuple(replace(WIDE, name=f"wide_{number}") for number in range(10)), 17_000),
        DEFAULT_CONTENDERS,
        "10 views of 100 features, text keys; 17k entity rows (Feast issue 3003)",
    ),
    "taxi_1m": Case(
        DataSet((PICKUPS, DROPOFFS), 1_000_000),
        WITHOUT_STOCK,
        "2 views of 2 features on a grid of 15 and 30 minutes, 260 locations",
    ),
    "taxi_5m": Case(
        DataSet((PICKUPS, DROPOFFS), 5_000_000), WITHOUT_STOCK, "the same for 5M entity rows"
    ),
    "duckdb_5m": Case(
        DataSet((MINUTES,), 5_000_000, "shifted"),
        WITHOUT_STOCK,
        "DuckDB's article: 5M rows of 50 keys; 5M entity rows",
    ),
    "duckdb_1m": Case(
        DataSet((SCATTERED,), 100_000, "each"),
        DEFAULT_CONTENDERS,
        "DuckDB's article: 1M rows of 100k keys; 100k entity rows",
    ),
    "late": Case(
        DataSet((replace(DEEP, name="late", late=0.05),), 500_000),
        (
            *TWO_TIME,
            *(name for name in EVENT_TIME if name not in {"feast_duckdb", "polars_presorted"}),
        ),
        "as deep, with 5% of the rows late by up to a month; the two-time joins and those in event"
        " time give different rows",
        late=True,
    ),
    "slope_half": Case(
        DataSet((replace(DEEP, steps=500, days=200, commits=100),), 500_000),
        ("ours", "ours_event_time"),
        "deep, half the history",
    ),
    "slope_one": Case(DataSet((DEEP,), 500_000), ("ours", "ours_event_time"), "deep"),
    "slope_double": Case(
        DataSet((replace(DEEP, steps=2_000, days=800, commits=400),), 500_000),
        ("ours", "ours_event_time"),
        "deep, twice the history",
    ),
    "huge": Case(
        DataSet(
            (View("huge", "driver", TEN, entities=20_000, steps=10_000, days=400, commits=400),),
            1_000_000,
        ),
        ("ours_4gb",),
        "200M rows of 10 features, 10,000 per entity; 1M entity rows; memory_limit 4GB",
    ),
}
SETS = {
    "taxi": ("taxi_1m", "taxi_5m"),
    "duckdb": ("duckdb_5m", "duckdb_1m"),
    "slope": ("slope_half", "slope_one", "slope_double"),
    "all": tuple(name for name in CASES if name != "huge"),
}


def scaled(data: DataSet, scale: float) -> DataSet:
    """The data with `scale` times the entities and entity rows, at the same depth per entity."""
    views = tuple(
        replace(view, entities=max(round(view.entities * scale), 1)) for view in data.views
    )
    return DataSet(views, max(round(data.rows * scale), 1), data.asked)


def run(
    name: str,
    case: Case,
    folder: Path,
    contenders: list[str],
    *,
    repetitions: int,
    patience: float,
    timeout: float,
) -> list[Measurement]:
    """Measure a case's contenders. Raises `UnequalResults` where a group differs."""
    case.data.make(folder, Progress())

    def measured(contender: str) -> Measurement:
        _warm(folder, case.data)
        arguments, target = {"folder": str(folder)}, _target(contender)
        return measure(
            contender,
            target,
            arguments,
            folder=folder,
            repetitions=repetitions,
            patience=patience,
            timeout=timeout,
        )

    return compare(name, contenders, measured, _note(case), case.groups)


def _target(contender: str) -> str:
    module = "feature_stores" if contender.startswith(("ours", "feast")) else "hand_written"
    return f"benchmarks.{module}:{contender}"


def _note(case: Case) -> str:
    rows = ", ".join(f"{view.rows:,}" for view in case.data.views[:2]) + (
        ", …" if len(case.data.views) > 2 else ""
    )
    return (
        f"{case.note}. Here {rows} feature rows, {case.data.rows:,} entity rows, {cores()} cores."
    )


def _warm(folder: Path, data: DataSet) -> None:
    """Read all files once, so that each contender finds them in the operating system's cache."""
    for path in (
        folder / "entities.parquet",
        *(Path(path) for view in data.views for path in files(folder, view)),
    ):
        with path.open("rb") as file:
            while file.read(1 << 22):
                pass


def _slope(cases: dict[str, list[Measurement]]) -> str:
    """The growth of time when the history doubles, one line per contender.

    On a busy machine, CPU seconds are more reliable than seconds.
    """
    lines = []
    for half, one, double in zip(*(cases.get(name, []) for name in SETS["slope"]), strict=False):
        wall, cpu = (
            [one.seconds, half.seconds, double.seconds],
            [one.cpu_seconds, half.cpu_seconds, double.cpu_seconds],
        )
        grown = [
            f"{full / less:.2f} and {more / full:.2f}" if full and less else "-"
            for full, less, more in (wall, cpu)
        ]
        lines.append(
            f"{half.contender}: history doubled twice, seconds {grown[0]} times, cpu s {grown[1]}"
            " times"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code of `report`."""
    options = _arguments().parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        return report(lambda: _measured(options, Path(options.folder or temporary).resolve()))


def _measured(options: argparse.Namespace, root: Path) -> dict[str, list[Measurement]]:
    names = [
        name
        for given in options.case or (["deep", "shallow"] if options.quick else ["all"])
        for name in SETS.get(given, (given,))
    ]
    scale = options.scale or (0.1 if options.quick else 1.0)
    patience = options.patience or (15.0 if options.quick else 60.0)
    cases: dict[str, list[Measurement]] = {}
    for name in dict.fromkeys(names):
        case = replace(CASES[name], data=scaled(CASES[name].data, scale))
        # Cases with the same data share a folder; each scale has its own.
        first = next(other for other in CASES if CASES[other].data == CASES[name].data)
        folder, contenders = root / f"{first}_{scale:g}", options.contender or list(case.contenders)
        cases[name] = run(
            name,
            case,
            folder,
            contenders,
            repetitions=options.repetitions,
            patience=patience,
            timeout=options.timeout,
        )
    if slope := _slope(cases):
        print(slope)
    return cases


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.point_in_time", description=__doc__)
    parser.add_argument(
        "--case",
        action="append",
        choices=[*CASES, *SETS],
        help="may be repeated; default: all except huge",
    )
    parser.add_argument(
        "--contender",
        action="append",
        choices=ALL_CONTENDERS,
        help="may be repeated; default: the contenders of the case",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="deep and shallow with a tenth of the rows, at the same depth",
    )
    parser.add_argument(
        "--repetitions", type=int, default=5, help="repetitions, whose median is shown (5)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        help="seconds of a contender's work after which no repetition starts (60)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=1800.0,
        help="seconds after which a contender is killed (1800)",
    )
    parser.add_argument(
        "--scale",
        type=float,
        help="factor for the numbers of entities and entity rows, at the same depth (1)",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="folder that keeps the generated data for the next run; default: temporary",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
