"""Redis that stops, loses data, is slow or full, or belongs to somebody else."""

import signal
import time
from contextlib import closing, suppress

import pytest

from punctual.errors import NotBuilt
from stores.online import OnlineStoreUnavailable, PackedDatabase
from stores.online.backend import Watermark
from stores.online.backends.redis import RedisRecords
from tests.stores.online_rows import KEYS, LATER, NEW, OLD, TRIPS, fill, rebuild, rows, shown


def test_a_stopped_redis_is_an_error_at_once_and_is_used_again_after_its_restart(start_redis):
    server = start_redis(appendonly=True)
    database = PackedDatabase(RedisRecords(server.url, "test", timeout=5.0))
    fill(database)
    for end in (server.stop, server.kill):
        end()
        for act in (
            lambda: shown(database),
            lambda: fill(database, NEW),
            lambda: database.erase(TRIPS, KEYS),
        ):
            started = time.monotonic()
            with pytest.raises(
                OnlineStoreUnavailable, match=rf"Redis at 127.0.0.1:{server.port} does not answer"
            ):
                act()
            assert time.monotonic() - started < 5
        server.start()
        assert shown(database) == [OLD] * 10
    assert database.records.watermark(TRIPS) == Watermark(1, OLD)
    database.close()


@pytest.mark.parametrize("lose", ["flushall", "restart", "hash"])
def test_a_redis_that_lost_its_data_is_filled_from_the_beginning(start_redis, lose):
    server = start_redis()
    database = PackedDatabase(RedisRecords(server.url, "test"))

    def lost():
        if lose == "restart":
            server.kill()
            server.start()
            return
        with closing(server.client()) as client:
            client.flushall() if lose == "flushall" else client.delete("{punctual:test}")

    fill(database)
    lost()
    with pytest.raises(NotBuilt):
        shown(database)
    # The mark has gone with the data: a run that begins now fills the view whole.
    assert database.records.watermark(TRIPS) is None
    fill(database, NEW)
    assert (shown(database), database.count(TRIPS)) == ([NEW] * 10, 10)
    # A run that was interrupted sets no mark for the rows it wrote before.
    with (
        pytest.raises(OnlineStoreUnavailable, match="removed or replaced"),
        database.records.exclusive(TRIPS),
    ):
        database.write(TRIPS, rows(LATER, KEYS[:5]), 50)
        lost()
        database.write(TRIPS, rows(LATER, KEYS[5:]), 50)
        database.records.move_watermark(TRIPS, Watermark(1, LATER))
    assert database.records.watermark(TRIPS) is None
    database.close()


def test_a_slow_redis_is_an_error_within_the_configured_timeout(start_redis):
    server = start_redis()
    database = PackedDatabase(RedisRecords(server.url, "test", timeout=0.2))
    fill(database)
    server._process.send_signal(signal.SIGSTOP)
    for act in (lambda: shown(database), lambda: database.write(TRIPS, rows(NEW), 50)):
        started = time.monotonic()
        with pytest.raises(OnlineStoreUnavailable, match="Timeout"):
            act()
        assert time.monotonic() - started < 5
    server._process.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OnlineStoreUnavailable):  # it has a moment's work to do
            assert shown(database)[0] in (OLD, NEW)
            break
    database.close()


def test_a_cluster_that_starts_late_is_used_once_it_runs(start_redis):
    server = start_redis(cluster=True)
    server.stop()
    database = PackedDatabase(RedisRecords(server.url, "test", cluster=True))
    with pytest.raises(OnlineStoreUnavailable, match=f"Redis cluster at 127.0.0.1:{server.port}"):
        shown(database)
    server.start()
    fill(database)
    server.kill()
    with pytest.raises(OnlineStoreUnavailable):
        shown(database)
    server.start()
    fill(database, NEW)
    assert shown(database) == [NEW] * 10
    database.close()


def test_a_redis_url_may_have_a_password_and_tls(start_redis):
    server = start_redis(password="p@ss word/1", tls=True)
    with closing(
        PackedDatabase(RedisRecords(f"{server.url}?ssl_ca_certs={server.certificate}", "test"))
    ) as database:
        fill(database)
        assert shown(database) == [OLD] * 10
        assert "p@ss" not in database.records.where
    for address, reason in (
        (server.url, "certificate"),
        (server.url.replace("p%40ss", "other"), "."),
    ):
        with closing(PackedDatabase(RedisRecords(address, "test"))) as database:
            with pytest.raises(OnlineStoreUnavailable, match=reason) as said:
                shown(database)
            assert "p@ss" not in str(said.value) and "p%40ss" not in str(said.value)


def test_a_run_that_lost_its_lock_neither_swaps_nor_moves_the_mark(redis_server, monkeypatch):
    """A lock expires after half a minute of silence and may be taken by another run."""
    first, second = (PackedDatabase(RedisRecords(redis_server.url, "test")) for _ in range(2))
    fill(first)

    def lose():
        with closing(redis_server.client()) as client:
            client.set(first.records._lock(TRIPS), "somebody else")

    with pytest.raises(OnlineStoreUnavailable, match="did not renew its lock for over 30 s"):
        rebuild(first, NEW, before_swap=lose)
    with closing(redis_server.client()) as client:
        client.delete(first.records._lock(TRIPS))
    with pytest.raises(OnlineStoreUnavailable), first.records.exclusive(TRIPS):
        lose()
        first.records.move_watermark(TRIPS, Watermark(1, NEW))
    assert second.records.watermark(TRIPS) == Watermark(1, OLD)
    first.close()
    second.close()


def test_a_redis_that_evicts_keys_is_reported_when_it_is_filled(redis_server):
    with (
        closing(redis_server.client()) as client,
        closing(PackedDatabase(RedisRecords(redis_server.url, "test"))) as database,
    ):
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            fill(database)  # without a limit nothing is dropped
            client.config_set("maxmemory", "1gb")
            with pytest.warns(UserWarning, match="allkeys-lru"):
                fill(database)
            client.config_set("maxmemory-policy", "volatile-lru")
            fill(database)
        finally:
            client.config_set("maxmemory", "0")
            client.config_set("maxmemory-policy", "noeviction")


def test_a_full_redis_is_an_error_and_keeps_its_records(redis_server):
    with (
        closing(redis_server.client()) as client,
        closing(PackedDatabase(RedisRecords(redis_server.url, "test"))) as database,
    ):
        fill(database)
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(OnlineStoreUnavailable, match="maxmemory"):
                fill(database, NEW)
            assert shown(database) == [OLD] * 10
        finally:
            client.config_set("maxmemory", "0")
        fill(database, NEW)
        assert shown(database) == [NEW] * 10
