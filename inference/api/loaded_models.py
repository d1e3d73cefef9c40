"""Which predictor answers for which use case: loaded and kept at the champion beside the requests,
never within one.
"""

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
    """The server has just been started and is still loading."""

    exit_code = ExitCode.TRY_AGAIN


@dataclass(frozen=True)
class Served:
    """A predictor with the freshness of its views as it was last looked at."""

    predictor: Predictor
    fresh: dict[str, Freshness]


class Serving:
    """The predictors of a server. One thread refreshes, any number ask."""

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
        """The use case's predictor. Raises what is missing: `NotReady`, `NoChampion`, `NotBuilt`,
        `BrokenModel`, …
        """
        served = self._served.get(use_case)
        if served is None:
            raise self._problems[use_case]
        return served

    @property
    def problems(self) -> dict[str, PunctualError]:
        """What went wrong when last looked at, by use case."""
        return dict(self._problems)

    @property
    def is_ready(self) -> bool:
        """Whether every use case can be answered for; what is loaded answers again once its online
        store does.
        """
        return all(
            name in self._served
            and not isinstance(self._problems.get(name), OnlineStoreUnavailable)
            for name in self.use_cases
        )

    @property
    def damaged_records(self) -> dict[str, int]:
        """How many records the online store showed damaged, by view, since the predictors were
        loaded.
        """
        counted: Counter[str] = Counter()
        for served in list(self._served.values()):
            counted.update(served.predictor.features.database.corrupt)
        return dict(counted)

    def refresh(self) -> None:
        """Take up moved aliases, new tables and watermarks.

        A champion that cannot be loaded leaves the one before it in place, which its answers name;
        no champion, or a view that is not online, leaves nothing to answer with.
        """
        for name in self.use_cases:
            try:
                self._served[name] = self._look(name)
            except PunctualError as error:
                self._note(name, error)
            except (
                Exception
            ) as error:  # a registry or disk that fails for a while must not end the looking
                self._note(
                    name,
                    NotReady(f"'{name}' cannot be refreshed: {type(error).__name__}: {error}."),
                )
            else:
                self._problems.pop(name, None)

    def _look(self, name: str) -> Served:
        domain, use_case = self.use_cases[name]
        version = champion_version(domain.home, name)
        served = self._served.get(name)
        if served is None or served.predictor.champion.card.version != version:
            predictor = Predictor.load(domain, use_case)
            _logger.info("%s is served by version %s", name, predictor.champion.card.version)
            _keep_out_of_collection()
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

    def start(self, every: float = CHECK_SECONDS, then: Callable[[], None] | None = None) -> None:
        """Refresh now and every few seconds in a thread of its own, calling `then` after each time."""

        def go_on() -> None:
            while True:
                self.refresh()
                if then is not None:
                    then()
                if self._stop.wait(every):
                    return

        self._thread = threading.Thread(target=go_on, name="refresh", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the logs."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        for log in self.logs.values():
            log.close()


def _keep_out_of_collection() -> None:
    """Have Python's collector leave alone all that is loaded: going through it would now and then
    hold up a request for long.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
