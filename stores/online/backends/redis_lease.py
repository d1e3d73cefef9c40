"""A lock on a Redis server that expires when its holder dies."""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisClusterException, RedisError

from stores.online.backends.redis_scripts import RENEW_OR_RELEASE

# A holder that does not renew the lock for this long loses it.
SECONDS = 30.0


class Lease:
    """A lock, acquired at construction and renewed by a thread within the `with` block.

    Construction waits for the lock, and raises Redis errors. Errors of a renewal are suppressed:
    the work under the lock meets them too.
    """

    def __init__(self, client: Any, lock: str) -> None:
        self._client = client
        self._lock = lock
        self._token = uuid.uuid4().hex
        self._milliseconds = int(SECONDS * 1000)
        # `get` covers a successful `set` whose answer was lost with its connection.
        while (
            not client.set(lock, self._token, nx=True, px=self._milliseconds)
            and client.get(lock) != self._token.encode()
        ):
            time.sleep(0.1)
        self._done = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="materializing", daemon=True)

    def __enter__(self) -> str:
        """The token that identifies the holder."""
        self._renewer.start()
        return self._token

    def __exit__(self, *_error: object) -> None:
        """Release the lock; if that fails, it expires."""
        self._done.set()
        self._renewer.join()
        self._extend(0)

    def _renew(self) -> None:
        while not self._done.wait(self._milliseconds / 3000):
            self._extend(self._milliseconds)

    def _extend(self, milliseconds: int) -> None:
        with suppress(RedisError, RedisClusterException):
            self._client.eval(RENEW_OR_RELEASE, 1, self._lock, self._token, milliseconds)
