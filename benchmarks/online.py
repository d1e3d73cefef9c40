"""Compares online stores: `python -m benchmarks.online`; see `benchmarks/README.md`.

Prints one table per case and, as the last line, one JSON object. Seconds are wall time, MB are 10^6
bytes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.data import Progress
from benchmarks.harness import Measurement, compare, cores, measure, report
from benchmarks.online_data import OnlineData, Reads
from benchmarks.redis_server import RedisServer
from benchmarks.servers import NoServer

READERS = (
    "feast_sqlite",
    "feast_redis",
    "ours",
    "ours_redis",
    "ours_via_feast",
    "ours_redis_via_feast",
)
ON_REDIS = ("feast_redis", "ours_redis", "ours_redis_via_feast")
MATERIALIZERS = (
    "feast_sqlite",
    "feast_sqlite_defaults",
    "feast_redis",
    "feast_redis_defaults",
    "ours_sqlite",
    "ours_redis",
)
OURS = ("ours_sqlite", "ours_redis")
ALL_CONTENDERS = tuple(dict.fromkeys((*READERS, *MATERIALIZERS)))

SHAPE = OnlineData(views=25, features=10, entities=10_000)
SMALL = OnlineData(views=20, features=3, entities=1_000)
MILLION = OnlineData(views=1, features=10, entities=1_000_000)
# Rows per request: number of requests. Larger requests take longer, and fewer suffice.
REQUESTS = {1: 2_000, 10: 500, 50: 500, 100: 200}


@dataclass(frozen=True)
class Case:
    """Data, contenders and task: `reads`, reads during a `rebuild`, or else materialization."""

    data: OnlineData
    contenders: tuple[str, ...]
    note: str
    reads: Reads | None = None
    rebuild: bool = False

    def quick(self) -> Case:
        """A tenth of the rows or requests."""
        if self.reads:
            return replace(
                self, reads=replace(self.reads, requests=max(self.reads.requests // 10, 20))
            )
        return replace(self, data=replace(self.data, entities=self.data.entities // 10))


def _reading(views: int, rows: int, *, missing: bool) -> Case:
    note = "a third of the keys missing" if missing else "no key missing"
    return Case(
        SHAPE,
        READERS,
        f"{rows} rows of {views} views of 10 features, {note}",
        Reads(views, rows, REQUESTS[rows], missing),
    )


def _cases() -> Iterator[tuple[str, Case]]:
    for missing in (True, False):
        for views in (5, 25):
            for rows in (1, 10, 100):
                yield (
                    f"reads_{views}x{rows}_{'missing' if missing else 'found'}",
                    _reading(views, rows, missing=missing),
                )
    for views in (1, 5, 10, 20):
        note = f"50 rows of {views} views of 3 features, one Redis server"
        yield f"redis_{views}", Case(SMALL, ON_REDIS, note, Reads(views, 50, REQUESTS[50]))
    yield (
        "materialize",
        Case(MILLION, MATERIALIZERS, "every entity's 10 features into an empty store"),
    )
    yield (
        "materialize_5m",
        Case(
            replace(MILLION, entities=5_000_000),
            OURS,
            "the same for five times as many entities: memory must not grow",
        ),
    )
    yield (
        "rebuild",
        Case(
            MILLION,
            OURS,
            "one reader per core, 10 rows 200 times a second, before and during a rebuild",
            rebuild=True,
        ),
    )


CASES = dict(_cases())
SETS = {
    "reads": tuple(name for name in CASES if name.startswith("reads_")),
    "redis": tuple(name for name in CASES if name.startswith("redis_")),
    "all": tuple(CASES),
}


@dataclass
class Run:
    """The folder of the data and the limits of a run.

    Contenders that read the same data share a Redis server, which `servers` stops at the end.
    """

    folder: Path
    servers: ExitStack
    repetitions: int = 3
    patience: float = 60.0
    timeout: float = 1800.0
    _servers: dict[Path, RedisServer] = field(default_factory=dict)
    _filled: set[tuple[Path, str]] = field(default_factory=set)

    def case(self, name: str, case: Case, contenders: Sequence[str]) -> list[Measurement]:
        """Measure a case's contenders. Raises `UnequalResults` where they differ."""
        folder = self.folder / f"{case.data.views}x{case.data.features}x{case.data.entities}"
        case.data.make(folder, Progress())
        note = f"{case.note}; {case.data.entities:,} entities, {cores()} cores."
        return compare(
            name, contenders, lambda contender: self._measured(case, contender, folder), note
        )

    def _measured(self, case: Case, contender: str, folder: Path) -> Measurement:
        store = store_of(contender)
        if not case.reads and not case.rebuild:
            repetitions = 1 if store.startswith("feast") else self.repetitions
            with RedisServer(folder / "redis_alone") as server:
                defaults = contender.endswith("_defaults")
                return self._child(
                    contender,
                    "online_stores:materialize",
                    case,
                    store,
                    server,
                    folder,
                    repetitions,
                    defaults=defaults,
                )
        server = self._server(folder)
        if failed := self._filled_or_failed(case, store, server, folder):
            return replace(failed, contender=contender)
        if case.rebuild:
            return self._child(
                contender,
                "online_rebuild:readers_meanwhile",
                case,
                store,
                server,
                folder,
                self.repetitions,
            )
        target = "via_feast" if "feast" in contender else "direct"
        reads = asdict(case.reads) if case.reads else {}
        return self._child(
            contender,
            f"online_stores:{target}",
            case,
            store,
            server,
            folder,
            self.repetitions,
            reads=reads,
        )

    def _server(self, folder: Path) -> RedisServer:
        if folder not in self._servers:
            self._servers[folder] = self.servers.enter_context(RedisServer(folder / "redis"))
        return self._servers[folder]

    def _filled_or_failed(
        self, case: Case, store: str, server: RedisServer, folder: Path
    ) -> Measurement | None:
        """Fill a store once per run for all its readers; returns the measurement if that failed."""
        if (folder, store) in self._filled:
            return None
        print(f"filling {store} …", file=sys.stderr, flush=True)
        done = self._child(store, "online_stores:fill", case, store, server, folder, 1)
        if done.failed:
            return done
        self._filled.add((folder, store))
        return None

    def _child(
        self,
        contender: str,
        target: str,
        case: Case,
        store: str,
        server: RedisServer,
        folder: Path,
        repetitions: int,
        **more: Any,
    ) -> Measurement:
        arguments = {
            "folder": str(folder),
            "data": asdict(case.data),
            "store": store,
            "redis_url": server.url,
            **more,
        }
        limits: dict[str, Any] = {
            "repetitions": repetitions,
            "patience": self.patience,
            "timeout": self.timeout,
        }
        return measure(contender, f"benchmarks.{target}", arguments, folder=folder, **limits)


def store_of(contender: str) -> str:
    """The store that a contender reads or fills."""
    name = contender.removesuffix("_defaults").removesuffix("_via_feast")
    return "ours_sqlite" if name == "ours" else name


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code of `report`."""
    options = _arguments().parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        return report(lambda: _measured(options, Path(options.folder or temporary).resolve()))


def _measured(options: argparse.Namespace, folder: Path) -> dict[str, list[Measurement]]:
    if reason := RedisServer.missing():
        raise NoServer(reason)
    names = [name for given in options.case or ["all"] for name in SETS.get(given, (given,))]
    cases: dict[str, list[Measurement]] = {}
    with ExitStack() as servers:
        run = Run(
            folder,
            servers,
            options.repetitions or (1 if options.quick else 3),
            timeout=options.timeout,
        )
        for name in dict.fromkeys(names):
            case = CASES[name].quick() if options.quick else CASES[name]
            if options.rows and not case.reads:
                case = replace(case, data=replace(case.data, entities=options.rows))
            contenders = [
                each
                for each in case.contenders
                if not options.contender or each in options.contender
            ]
            if contenders:
                cases[name] = run.case(name, case, contenders)
    return cases


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online", description=__doc__)
    parser.add_argument(
        "--case",
        action="append",
        choices=[*CASES, *SETS],
        help="may be repeated; default: all",
    )
    parser.add_argument(
        "--contender",
        action="append",
        choices=ALL_CONTENDERS,
        help="may be repeated; cases without these contenders are skipped",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a tenth of the requests and of the materialized rows, one repetition",
    )
    parser.add_argument(
        "--rows", type=int, help="number of entities to materialize, instead of the case's"
    )
    parser.add_argument(
        "--repetitions",
        type=int,
        help="repetitions, whose median is shown (3); Feast's own stores materialize once",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=1800.0,
        help="seconds after which a contender is killed (1800)",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="folder that keeps the generated data for the next run; default: temporary",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
