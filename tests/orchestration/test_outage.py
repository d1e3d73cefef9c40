"""A Redis outage during a scheduled run: the run is retried."""

from orchestration.steps import steps_of
from punctual.errors import ExitCode
from punctual.home import Home
from punctual.repository import feature_store, load_domain
from stores.online import OnlineView, packed_database

SQLITE = "  path: ${PUNCTUAL_HOME}/online.db\n"
NOW = "2020-12-01T06:00:00Z"


def test_a_materialization_interrupted_by_a_redis_outage_is_retried_and_succeeds(
    built_shop, tmp_path, world, redis_server
):
    settings = tmp_path / "repository" / "feature_store.yaml"
    assert SQLITE in settings.read_text()
    redis = f"  redis: {redis_server.url}\n  timeout_seconds: 1\n"
    settings.write_text(settings.read_text().replace(SQLITE, redis))
    domain = load_domain(Home.at(), "shop")
    [step] = [step for step in steps_of(domain) if step.name == "materialize"]
    here = world([step], NOW)

    def stop_redis_once_it_materializes():
        logs = [path.read_text() for path in (built_shop / "logs").glob("materialize-*.log")]
        if any("python -m pipelines materialize" in log for log in logs):
            redis_server.stop()
        return False

    here.stop_after = stop_redis_once_it_materializes
    assert here.at(NOW) == [("materialize", "01 00:00", "retrying")]
    [first] = here.shown
    assert f"OnlineStoreUnavailable: Redis at 127.0.0.1:{redis_server.port}" in first.message

    here.stop_after = None
    redis_server.start()
    here.wait(step.retry_delay_seconds)
    assert here.at(NOW) == [("materialize", "01 00:00", "succeeded")]
    assert [run.attempt for run in here.shown] == [1, 2]
    store = feature_store(Home.at())
    view = OnlineView.of(store.project, domain.views["shop_sales"])
    assert packed_database(store.config).count(view) == 12


def test_the_exit_codes_are_fixed_numbers():
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3, 70, 75, 130, 141]
