"""Which rows a training set has and leaves out, and that it can be rebuilt."""

from datetime import date, timedelta

import pytest

from pipelines.build import build
from pipelines.materialize import apply_definitions
from punctual.errors import NotBuilt, StoreOutdated
from punctual.home import Home
from punctual.progress import Progress
from punctual.repository import feature_store, find_use_case, load_domain
from punctual.times import moment
from stores.tables import canonical_hash
from training.training_set import training_set

QUIET = Progress(quiet=True)


@pytest.fixture
def built(shop):
    """The shops built up to the end of January 2019."""
    domain, use_case = find_use_case(Home.at(), "next_sales")
    build(domain, moment("2019-01-31T06:00Z"), QUIET)
    store = feature_store(Home.at())
    apply_definitions(store, [domain])
    return store, domain, use_case


def test_a_request_is_included_only_after_its_horizon(built):
    made = training_set(*built, as_of=moment("2019-01-31T06:00Z"))
    newest = max(made.rows["event_timestamp"].to_pylist())
    # At that time the prediction of the 30th is 24 hours old and its label 6.
    assert newest == moment("2019-01-30T06:00Z")
    assert made.rows.num_rows == 30 * 12
    one_microsecond_less = training_set(
        *built, as_of=moment("2019-01-31T06:00Z") - timedelta(microseconds=1)
    )
    assert one_microsecond_less.rows.num_rows == 29 * 12


def test_labels_and_features_are_used_only_once_known(built):
    made = training_set(*built, as_of=moment("2019-01-31T06:00Z"))
    assert max(made.rows["label_timestamp"].to_pylist()) <= moment("2019-01-31T06:00Z")
    first = made.rows.slice(0, 12)
    # On the first morning no day has ended, so nothing is known of any shop.
    assert first["shop_sales__cents_mean_7d"].null_count == 12
    assert first["shop_day__mean_known"].to_pylist() == [0] * 12
    second = made.rows.slice(12, 12)
    assert second["shop_sales__cents_mean_7d"].to_pylist() == [
        float(cents) for cents in made.rows.slice(0, 12)["label"].to_pylist()
    ]


def test_the_manifest_rebuilds_the_set_from_changed_tables(built, shop):
    store, domain, use_case = built
    as_of = moment("2019-01-31T06:00Z")
    made = training_set(store, domain, use_case, as_of=as_of)

    lines = (shop / "raw" / "sales.csv").read_text().splitlines()
    lines[13] = lines[13].rsplit(",", 2)[0] + ",1,true"
    (shop / "raw" / "sales.csv").write_text("\n".join(lines[:100] + lines[101:]) + "\n")
    again = build(domain, moment("2019-02-15T06:00Z"), QUIET)
    assert {events.events: events.corrected for events in again.events}["takings"] == 1

    rebuilt = training_set(store, domain, use_case, as_of=as_of, commits=made.commits)
    assert canonical_hash(rebuilt.rows) == canonical_hash(made.rows)
    assert rebuilt.rows.equals(made.rows)
    # Without the manifest the time alone gives the same rows: a correction has its own knowledge
    # time.
    assert training_set(store, domain, use_case, as_of=as_of).rows.equals(made.rows)


def test_withdrawn_rows_leave_later_sets_and_earlier_sets_rebuild_the_same(built, shop):
    store, domain, use_case = built
    as_of, later = moment("2019-01-31T06:00Z"), moment("2019-01-31T07:00Z")
    made = training_set(store, domain, use_case, as_of=as_of)

    path = shop / "raw" / "sales.csv"
    lines = path.read_text().splitlines()
    gone = lines.pop(40).split(",")
    path.write_text("\n".join(lines) + "\n")
    again = build(domain, later, QUIET)
    assert {events.events: events.withdrawn for events in again.events} == {
        "closed_days": 1,
        "mornings": 1,
        "takings": 1,
    }

    left = training_set(store, domain, use_case, as_of=later)
    assert left.rows.num_rows == made.rows.num_rows - 1
    assert left.unlabelled == {}
    days = zip(left.rows["shop_id"].to_pylist(), left.rows["day"].to_pylist(), strict=True)
    assert (int(gone[0]), date.fromisoformat(gone[1])) not in set(days)
    assert left.rows.column_names == made.rows.column_names
    assert training_set(store, domain, use_case, as_of=as_of).rows.equals(made.rows)
    pinned = training_set(store, domain, use_case, as_of=as_of, commits=made.commits)
    assert canonical_hash(pinned.rows) == canonical_hash(made.rows)


def test_requests_without_a_label_are_counted_by_reason(built, shop):
    store, domain, use_case = built
    path = shop / "raw" / "sales.csv"
    lines = path.read_text().splitlines()
    shop_id, day, _, promotion = lines[5].split(",")
    lines[5] = f"{shop_id},{day},,{promotion}"
    path.write_text("\n".join(lines) + "\n")
    build(domain, moment("2019-02-01T06:00Z"), QUIET)
    made = training_set(store, domain, use_case, as_of=moment("2019-02-01T06:00Z"))
    assert made.unlabelled == {"no reason given": 1}
    assert made.rows.num_rows == 31 * 12 - 1


def test_a_time_that_is_not_built_yet_is_refused(built):
    with pytest.raises(
        NotBuilt,
        match=r"is built up to 2019-01-31T06:00:00Z.*punctual features build shop --as-of"
        r" 2019-06-01",
    ):
        training_set(*built, as_of=moment("2019-06-01"))


def test_a_changed_definition_is_refused_until_it_is_built(built, tmp_path):
    store, _, _ = built
    views = tmp_path / "repository" / "shop" / "shop.py"
    changed = tmp_path / "changed"
    (tmp_path / "repository").rename(changed)
    (changed / "shop" / "shop.py").write_text(
        (changed / "shop" / views.name)
        .read_text()
        .replace('over=("7d", "28d")', 'over=("7d", "14d")')
    )
    domain = load_domain(Home.at(repository=changed), "shop")
    with pytest.raises(
        StoreOutdated,
        match="'shop_sales' was built from another definition; run: punctual features build shop",
    ):
        training_set(
            store, domain, domain.use_cases["next_sales"], as_of=moment("2019-01-31T06:00Z")
        )
