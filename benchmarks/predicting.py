"""Compares ways to predict with one model: `python -m benchmarks.predicting`; see `README.md` beside this file.

Prints a table a case and, as its last line, one JSON object. Seconds are wall time of all calls, `p50_ms` and `p99_ms`
milliseconds of one call, MB are 10^6 bytes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Measurement, UnequalResults, as_json, cores, measure, refuse_unequal, table
from benchmarks.predictors import FEATURES, make

CONTENDERS = ("sklearn", "inplace_predict", "ours")
# Rows a call, and how many calls: the more rows, the fewer calls will do.
CALLS = {1: 1_000, 10: 500, 100: 200, 1_000: 50}
CASES = {f"rows_{rows}": rows for rows in CALLS}
# As many as the flights' model has, and more.
ROWS, ROUNDS = 60_000, 1_000
QUICK = 5


def run(name: str, folder: Path, contenders: list[str], *, quick: bool, repetitions: int, patience: float, note: str) -> list[Measurement]:
    """Measure a case's contenders, and raise `UnequalResults` where their predictions differ in any bit."""
    rows = CASES[name]
    calls = CALLS[rows] // (QUICK if quick else 1)
    measurements = []
    for contender in contenders:
        print(f"{name}: {contender} …", file=sys.stderr, flush=True)
        arguments = {"folder": str(folder), "rows": rows, "calls": calls}
        target = f"benchmarks.predictors:{contender}"
        measurements.append(measure(contender, target, arguments, folder=folder, repetitions=repetitions, patience=patience))
    print(table(name, measurements, f"{calls} calls of {rows} rows, {note}"), flush=True)
    refuse_unequal(name, [measurements])
    return measurements


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 where predictions that must be equal are not."""
    asked = _arguments().parse_args(arguments)
    less = QUICK if asked.quick else 1
    results: dict[str, list[Measurement]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        print("training …", file=sys.stderr, flush=True)
        trees, nodes = make(Path(temporary), rows=asked.rows // less, rounds=asked.rounds // less)
        note = f"{trees} trees of {nodes:,} nodes, {len(FEATURES)} features, {cores()} cores, one thread each."
        for name in dict.fromkeys(asked.case or CASES):
            try:
                results[name] = run(
                    name,
                    Path(temporary),
                    asked.contender or list(CONTENDERS),
                    quick=asked.quick,
                    repetitions=asked.repetitions,
                    patience=asked.patience,
                    note=note,
                )
            except UnequalResults as error:
                print(f"UnequalResults: {error}", file=sys.stderr)
                return 1
    print(as_json(results))
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predicting", description=__doc__)
    parser.add_argument("--case", action="append", choices=CASES, help="may be repeated; all where none is given")
    parser.add_argument("--contender", action="append", choices=CONTENDERS, help="may be repeated; all where none is given")
    parser.add_argument("--quick", action="store_true", help="a model of a fifth of the trees, a fifth of the calls")
    parser.add_argument("--repetitions", type=int, default=5, help="of which the median is shown (5)")
    parser.add_argument(
        "--patience", type=float, default=60.0, help="no repetition begins after so many seconds of a contender's work (60)"
    )
    parser.add_argument("--rows", type=int, default=ROWS, help=f"rows to train on ({ROWS:,})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of training at most ({ROUNDS:,})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
