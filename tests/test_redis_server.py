"""The Redis server of tests and benchmarks: real, on its own port, and removed at the end."""

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


def test_the_server_answers_at_its_url_and_leaves_nothing_behind(tmp_path, start_redis):
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
def test_every_test_finds_the_shared_server_running_and_empty(redis_server, value):
    with closing(redis_server.client()) as client:
        assert client.dbsize() == 0
        client.set("trips", value)
    redis_server.kill()


def test_a_restarted_server_keeps_its_port_and_its_append_only_data(start_redis):
    for appendonly, left in ((False, None), (True, b"1")):
        server = start_redis(appendonly=appendonly)
        url = server.url
        with closing(server.client()) as client:
            client.set("trips", 1)
        server.kill()
        server.start()
        with closing(server.client()) as client:
            assert (server.url, client.get("trips")) == (url, left)


def test_two_servers_have_different_ports(start_redis):
    one, other = start_redis(), start_redis()
    assert one.port != other.port and one.folder != other.folder


def test_a_password_is_required_and_is_in_the_url(start_redis):
    server = start_redis(password="p@ss word/1")
    with closing(redis.Redis.from_url(server.url)) as client:
        assert client.ping()
    with (
        closing(redis.Redis(port=server.port, retry=ONCE)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_a_tls_server_accepts_only_tls_and_has_a_checked_certificate(start_redis):
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


def test_a_cluster_of_one_node_has_every_slot_and_refuses_commands_across_slots(start_redis):
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


def test_a_server_that_cannot_start_is_an_error_with_its_output(tmp_path, start_redis):
    other = RedisServer(tmp_path / "other")
    other.port = start_redis().port
    with pytest.raises(RuntimeError, match="did not start: .*Address already in use"):
        other.start()
    assert not other.running


@pytest.mark.parametrize(("ci", "outcome"), [("", "skipped"), ("1", "failed")])
def test_without_redis_tests_are_skipped_and_ci_fails(
    tmp_path, monkeypatch, start_redis, ci, outcome
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(os.environ, "PUNCTUAL_CI", ci)
    kind = {"skipped": pytest.skip.Exception, "failed": pytest.fail.Exception}[outcome]
    with pytest.raises(kind, match="redis-server and openssl not found"):
        start_redis(tls=True)
