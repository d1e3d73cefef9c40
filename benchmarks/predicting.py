"""Compares ways to predict with one model: `python -m benchmarks.predicting`.

See `benchmarks/README.md`. Prints one table per case and, as the last line, one JSON object.
Seconds are wall time of all calls, `p50_ms` and `p99_ms` milliseconds of one call, MB are 10^6
bytes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Measurement, compare, cores, measure, report
from benchmarks.predictors import FEATURES, make

CONTENDERS = ("sklearn", "inplace_predict", "ours")
# Rows per call: number of calls. Larger calls take longer, and fewer suffice.
CALLS = {1: 1_000, 10: 500, 100: 200, 1_000: 50}
CASES = {f"rows_{rows}": rows for rows in CALLS}
# Early stopping ends training at about 950 trees; the model of the flights has 333.
ROWS, ROUNDS = 20_000, 1_200
QUICK = 5


def run(
    name: str,
    folder: Path,
    contenders: list[str],
    *,
    quick: bool,
    repetitions: int,
    patience: float,
    note: str,
) -> list[Measurement]:
    """Measure a case's contenders. Raises `UnequalResults` if any bit of a prediction differs."""
    rows = CASES[name]
    calls = CALLS[rows] // (QUICK if quick else 1)

    def measured(contender: str) -> Measurement:
        arguments, target = (
            {"folder": str(folder), "rows": rows, "calls": calls},
            f"benchmarks.predictors:{contender}",
        )
        return measure(
            contender, target, arguments, folder=folder, repetitions=repetitions, patience=patience
        )

    return compare(name, contenders, measured, f"{calls} calls of {rows} rows, {note}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code of `report`."""
    options = _arguments().parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        return report(lambda: _measured(options, Path(temporary)))


def _measured(options: argparse.Namespace, folder: Path) -> dict[str, list[Measurement]]:
    less = QUICK if options.quick else 1
    print("training …", file=sys.stderr, flush=True)
    trees, nodes = make(folder, rows=options.rows // less, rounds=options.rounds // less)
    note = (
        f"{trees} trees of {nodes:,} nodes, {len(FEATURES)} features, {cores()} cores, one"
        " thread each."
    )
    contenders = options.contender or list(CONTENDERS)
    limits = {"repetitions": options.repetitions, "patience": options.patience}
    return {
        name: run(name, folder, contenders, quick=options.quick, note=note, **limits)
        for name in dict.fromkeys(options.case or CASES)
    }


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predicting", description=__doc__)
    parser.add_argument(
        "--case", action="append", choices=CASES, help="may be repeated; default: all"
    )
    parser.add_argument(
        "--contender",
        action="append",
        choices=CONTENDERS,
        help="may be repeated; default: all",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a fifth of the trees and a fifth of the calls"
    )
    parser.add_argument(
        "--repetitions", type=int, default=5, help="repetitions, whose median is shown (5)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        help="seconds of a contender's work after which no repetition starts (60)",
    )
    parser.add_argument("--rows", type=int, default=ROWS, help=f"training rows ({ROWS:,})")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"maximum number of training rounds ({ROUNDS:,})"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
