"""The connection to a Redis server or cluster, and commands that differ between the two."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.connection import parse_url
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from stores.online.backend import OnlineStoreUnavailable
from stores.online.backends.redis_names import by_bucket

# A server runs a command without interruption, and other clients wait: the most keys of a command.
KEYS_AT_ONCE = 100
_ERRORS = (RedisError, RedisClusterException)


class RedisConnection:
    """A client of a server or cluster. Threads may share it."""

    def __init__(self, address: str, *, cluster: bool = False, timeout: float = 2.0) -> None:
        self.cluster = cluster
        self._address = address
        # One retry, for a connection that broke, as after a restart of the server. No retry while
        # the server is down or slow: the second answer would be late as well.
        retry_once = Retry(NoBackoff(), 1, (redis.ConnectionError,))
        self._options: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": retry_once,
        }
        parsed: dict[str, Any] = parse_url(address)  # type: ignore[no-untyped-call]
        at = (
            parsed["path"]
            if "path" in parsed
            else f"{parsed.get('host', 'localhost')}:{parsed.get('port', 6379)}"
        )
        self.where = f"Redis cluster at {at}" if cluster else f"Redis at {at}"

    @cached_property
    def client(self) -> Any:
        """Created with the first request, since a cluster client asks the server for its nodes."""
        if self.cluster:
            return RedisCluster.from_url(self._address, **self._options)
        return redis.Redis.from_url(self._address, **self._options)

    def _run(self, script: str, keys: Sequence[Any], *values: Any) -> Any:
        """Run a script; it is sent whole, since a restarted server has no cached scripts."""
        with self._translating_errors():
            return self.client.eval(script, len(keys), *keys, *values)

    @contextmanager
    def _translating_errors(self) -> Iterator[None]:
        """Raise `OnlineStoreUnavailable` for errors of redis-py."""
        try:
            yield
        except _ERRORS as error:
            raise OnlineStoreUnavailable(
                f"{self.where} does not answer a request: {type(error).__name__}: {error}."
            ) from error

    def _by_command(self, names: Sequence[bytes]) -> Iterable[Sequence[int]]:
        """The positions of the names, grouped by the command that may contain them."""
        return by_bucket(names).values() if self.cluster else [range(len(names))]

    def _scan(self, pattern: str) -> Iterator[bytes]:
        """The names of all keys that match a pattern; may repeat some while the server resizes."""
        nodes = {"target_nodes": RedisCluster.PRIMARIES} if self.cluster else {}
        yield from self.client.scan_iter(match=pattern, count=KEYS_AT_ONCE, **nodes)

    def _unlink(self, names: Sequence[bytes]) -> int:
        """Remove keys; returns how many existed."""
        removed = 0
        pipeline = self.client.pipeline(transaction=False)
        for numbers in self._by_command(names):
            if numbers:
                pipeline.execute_command("UNLINK", *(names[number] for number in numbers))
        for count in pipeline.execute():
            removed += count
        return removed

    def _nodes(self) -> list[Any]:
        """A client for each server that stores records."""
        return (
            [self.client.get_redis_connection(node) for node in self.client.get_primaries()]
            if self.cluster
            else [self.client]
        )

    def close(self) -> None:
        """Close idle connections; the next request opens new ones."""
        if "client" in self.__dict__:
            for client in (
                [node.redis_connection for node in self.client.get_nodes()]
                if self.cluster
                else [self.client]
            ):
                client.connection_pool.disconnect(inuse_connections=False)
