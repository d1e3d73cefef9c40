"""The predictors of a server, refreshed in a background thread and never within a request."""

from __future__ import annotations

import gc
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inference.champion import champion_version
from inference.predict import Predictor
from punctual.errors import ExitCode, NoChampion, NotBuilt, PunctualError
from punctual.loaded_domain import LoadedDomain
from punctual.use_case import UseCase
from stores.online import Freshness, OnlineStoreUnavailable
from stores.predictions import PredictionLog

CHECK_SECONDS = 2.0
_logger = logging.getLogger(__name__)


class NotReady(PunctualError):
    """The server has just started and is still loading."""

    exit_code = ExitCode.TRY_AGAIN


@dataclass(frozen=True)
class Served:
    """A predictor with the freshness of its views at the last refresh."""

    predictor: Predictor
    fresh: dict[str, Freshness]


class Serving:
    """The predictors of a server. One thread refreshes them, any number of threads read them."""

    def __init__(self, use_cases: Sequence[tuple[LoadedDomain, UseCase]]) -> None:
        self.use_cases = {use_case.name: (domain, use_case) for domain, use_case in use_cases}
        self.logs = {
            name: PredictionLog(domain.home, name) for name, (domain, _) in self.use_cases.items()
        }
        self._served: dict[str, Served] = {}
        self._problems: dict[str, PunctualError] = {}
        self._problems.update(
            {
                name: NotReady(f"'{name}' is being loaded; ask again in a moment.")
                for name in self.use_cases
            }
        )
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def served(self, use_case: str) -> Served:
        """The use case's predictor.

        If none is available, raises the error of the last refresh: `NotReady`, `NoChampion`,
        `NotBuilt`, `BrokenModel`, …
        """
        served = self._served.get(use_case)
        if served is None:
            raise self._problems[use_case]
        return served

    @property
    def problems(self) -> dict[str, PunctualError]:
        """The errors of the last refresh, by use case."""
        return dict(self._problems)

    @property
    def is_ready(self) -> bool:
        """Whether every use case has a predictor and an online store that is available."""
        return all(
            name in self._served
            and not isinstance(self._problems.get(name), OnlineStoreUnavailable)
            for name in self.use_cases
        )

    @property
    def damaged_records(self) -> dict[str, int]:
        """The number of damaged online records read since the predictors were loaded, by view."""
        counted: Counter[str] = Counter()
        for served in list(self._served.values()):
            counted.update(served.predictor.features.database.corrupt)
        return dict(counted)

    def refresh(self) -> None:
        """Load new champions, and read the watermarks of the online store.

        If a champion cannot be loaded, the previous one stays in use; answers name its version.
        Without a champion, or with a view that is not online, the use case is not served.
        """
        for name in self.use_cases:
            try:
                self._served[name] = self._refreshed(name)
            except PunctualError as error:
                self._note(name, error)
            except Exception as error:
                # A temporary failure of the model registry or the disk must not end the thread.
                self._note(
                    name,
                    NotReady(f"'{name}' cannot be refreshed: {type(error).__name__}: {error}."),
                )
            else:
                self._problems.pop(name, None)

    def _refreshed(self, name: str) -> Served:
        domain, use_case = self.use_cases[name]
        version = champion_version(domain.home, name)
        served = self._served.get(name)
        if served is None or served.predictor.champion.card.version != version:
            predictor = Predictor.load(domain, use_case)
            _logger.info("%s is served by version %s", name, predictor.champion.card.version)
            _freeze_loaded_objects()
        else:
            predictor = served.predictor
            predictor.features.check_store()
        return Served(predictor, predictor.freshness())

    def _note(self, name: str, error: PunctualError) -> None:
        if isinstance(error, (NoChampion, NotBuilt)):
            self._served.pop(name, None)
        before = self._problems.get(name)
        self._problems[name] = error
        if str(before) != str(error):
            _logger.warning("%s", error)

    def start(
        self, every: float = CHECK_SECONDS, after_refresh: Callable[[], None] | None = None
    ) -> None:
        """Refresh now and every `every` seconds in a thread; call `after_refresh` after each."""

        def refresh_repeatedly() -> None:
            while True:
                self.refresh()
                if after_refresh is not None:
                    after_refresh()
                if self._stop.wait(every):
                    return

        self._thread = threading.Thread(target=refresh_repeatedly, name="refresh", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the logs."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        for log in self.logs.values():
            log.close()


def _freeze_loaded_objects() -> None:
    """Exclude all loaded objects from garbage collection, which would pause requests."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
