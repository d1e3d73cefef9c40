"""The Redis server that tests and benchmarks start: real, on a port of its own, and gone when they
end.
"""

import os
import ssl
from contextlib import closing

import pytest
import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from benchmarks.redis_server import RedisServer

ONCE = Retry(NoBackoff(), 0)


def test_it_answers_where_it_says_and_nothing_is_left_of_it(tmp_path, start_redis):
    server = start_redis()
    with closing(redis.Redis.from_url(server.url)) as client:
        client.set("trips", 1)
        assert client.get("trips") == b"1"
    assert list(tmp_path.iterdir()) == [server.folder]
    server.stop()
    assert not server.running
    with closing(server.client()) as client, pytest.raises(redis.ConnectionError):
        client.ping()


@pytest.mark.parametrize("value", ["1", "2"])
def test_every_test_finds_the_shared_one_running_and_empty(redis_server, value):
    with closing(redis_server.client()) as client:
        assert client.dbsize() == 0
        client.set("trips", value)
    redis_server.kill()


def test_it_comes_back_on_its_port_with_its_data_where_it_appends_them(start_redis):
    for appendonly, left in ((False, None), (True, b"1")):
        server = start_redis(appendonly=appendonly)
        url = server.url
        with closing(server.client()) as client:
            client.set("trips", 1)
        server.kill()
        server.start()
        with closing(server.client()) as client:
            assert (server.url, client.get("trips")) == (url, left)


def test_two_have_ports_of_their_own(start_redis):
    one, other = start_redis(), start_redis()
    assert one.port != other.port and one.folder != other.folder


def test_a_password_is_asked_for_and_is_in_the_url(start_redis):
    server = start_redis(password="p@ss word/1")
    with closing(redis.Redis.from_url(server.url)) as client:
        assert client.ping()
    with (
        closing(redis.Redis(port=server.port, retry=ONCE)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_tls_is_the_only_way_in_and_its_certificate_is_checked(start_redis):
    server = start_redis(tls=True, password="secret")
    assert server.url.startswith("rediss://:secret@127.0.0.1:")
    with closing(redis.Redis.from_url(server.url, ssl_ca_certs=str(server.certificate))) as client:
        assert client.ping()
    with (
        closing(redis.Redis.from_url(server.url, retry=ONCE)) as client,
        pytest.raises(redis.ConnectionError) as refused,
    ):
        client.ping()
    assert isinstance(
        refused.value.__cause__ or refused.value.__context__, ssl.SSLCertVerificationError
    )
    with (
        closing(redis.Redis(port=server.port, password="secret", retry=ONCE)) as client,
        pytest.raises(redis.ConnectionError),
    ):
        client.ping()


def test_a_cluster_of_one_has_every_slot_and_refuses_what_needs_two(start_redis):
    server = start_redis(cluster=True)
    with closing(RedisCluster.from_url(server.url)) as client:
        client.set("{7}a", 1)
        client.set("{8}a", 2)
        assert client.get("{8}a") == b"2"
    with (
        closing(server.client()) as client,
        pytest.raises(redis.ResponseError, match="hash to the same slot"),
    ):
        client.mget("{7}a", "{8}a")
    server.kill()
    with closing(server.start().client()) as client:
        assert client.set("{7}a", 1)


def test_one_that_cannot_start_says_what_it_said(tmp_path, start_redis):
    other = RedisServer(tmp_path / "other")
    other.port = start_redis().port
    with pytest.raises(RuntimeError, match="did not start: .*Address already in use"):
        other.start()
    assert not other.running


@pytest.mark.parametrize(("ci", "outcome"), [("", "skipped"), ("1", "failed")])
def test_a_machine_without_it_skips_with_a_reason_and_ci_fails(
    tmp_path, monkeypatch, start_redis, ci, outcome
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(os.environ, "PUNCTUAL_CI", ci)
    kind = {"skipped": pytest.skip.Exception, "failed": pytest.fail.Exception}[outcome]
    with pytest.raises(kind, match="redis-server and openssl not found"):
        start_redis(tls=True)
