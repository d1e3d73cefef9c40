"""A lock on a Redis server that ends by itself when its holder dies."""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisClusterException, RedisError

from stores.online.backends.redis_scripts import KEEP

# A holder that says nothing for this long has lost the lock.
SECONDS = 30.0


class Lease:
    """Takes the lock when it is made, waiting for its turn, and renews it from a thread until it is
    left.

    Redis errors while waiting are the caller's; those of a renewal are met by the work itself.
    """

    def __init__(self, client: Any, lock: str) -> None:
        self._client = client
        self._lock = lock
        self._token = uuid.uuid4().hex
        self._milliseconds = int(SECONDS * 1000)
        # The answer to the first try may have been lost with its connection.
        while (
            not client.set(lock, self._token, nx=True, px=self._milliseconds)
            and client.get(lock) != self._token.encode()
        ):
            time.sleep(0.1)
        self._done = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="materializing", daemon=True)

    def __enter__(self) -> str:
        """The token that says whose the lock is."""
        self._keeper.start()
        return self._token

    def __exit__(self, *_error: object) -> None:
        """Give the lock back; where that fails it ends by itself."""
        self._done.set()
        self._keeper.join()
        self._extend(0)

    def _keep(self) -> None:
        while not self._done.wait(self._milliseconds / 3000):
            self._extend(self._milliseconds)

    def _extend(self, milliseconds: int) -> None:
        with suppress(RedisError, RedisClusterException):
            self._client.eval(KEEP, 1, self._lock, self._token, milliseconds)
