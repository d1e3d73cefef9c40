"""Compares ways to predict with one model: `python -m benchmarks.predicting`; see `README.md`
beside this file.

Prints a table a case and, as its last line, one JSON object. Seconds are wall time of all calls,
`p50_ms` and `p99_ms` milliseconds of one call, MB are 10^6 bytes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Measurement, compared, cores, measure, report
from benchmarks.predictors import FEATURES, make

CONTENDERS = ("sklearn", "inplace_predict", "ours")
# Rows a call, and how many calls: the more rows, the fewer calls will do.
CALLS = {1: 1_000, 10: 500, 100: 200, 1_000: 50}
CASES = {f"rows_{rows}": rows for rows in CALLS}
# Training stops after some 950 trees; the model of the flights has 333.
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
    """Measure a case's contenders, and raise `UnequalResults` where their predictions differ in any
    bit.
    """
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

    return compared(name, contenders, measured, f"{calls} calls of {rows} rows, {note}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; `report` says what it returns."""
    asked = _arguments().parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        return report(lambda: _measured(asked, Path(temporary)))


def _measured(asked: argparse.Namespace, folder: Path) -> dict[str, list[Measurement]]:
    less = QUICK if asked.quick else 1
    print("training …", file=sys.stderr, flush=True)
    trees, nodes = make(folder, rows=asked.rows // less, rounds=asked.rounds // less)
    note = (
        f"{trees} trees of {nodes:,} nodes, {len(FEATURES)} features, {cores()} cores, one"
        " thread each."
    )
    contenders = asked.contender or list(CONTENDERS)
    limits = {"repetitions": asked.repetitions, "patience": asked.patience}
    return {
        name: run(name, folder, contenders, quick=asked.quick, note=note, **limits)
        for name in dict.fromkeys(asked.case or CASES)
    }


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predicting", description=__doc__)
    parser.add_argument(
        "--case", action="append", choices=CASES, help="may be repeated; all where none is given"
    )
    parser.add_argument(
        "--contender",
        action="append",
        choices=CONTENDERS,
        help="may be repeated; all where none is given",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a model of a fifth of the trees, a fifth of the calls"
    )
    parser.add_argument(
        "--repetitions", type=int, default=5, help="of which the median is shown (5)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        help="no repetition begins after so many seconds of a contender's work (60)",
    )
    parser.add_argument("--rows", type=int, default=ROWS, help=f"rows to train on ({ROWS:,})")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"rounds of training at most ({ROUNDS:,})"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
