"""Cleaning and validation: every fault has a row and a reason, and no row is lost silently."""

import gzip
import zipfile

import pytest

from pipelines.clean.cleaning import clean_path, clean_source, quarantined_rows
from punctual.errors import BrokenSource, InvalidDeclaration
from punctual.home import Home
from punctual.sources import CsvSource, Rule
from stores.tables import connect

DIRTY = """id,day,minutes,name
1,2020-01-01,5,first
1,2020-01-01,5,first
2,2020-01-02,1.5,a fraction is no integer
3,not a day,7,no day
4,2020-01-04,8
5,2020-01-05,9,too,many
6,2020-01-06,-3,below zero
7,2020-01-07,2000,"above, and quoted"
1,2020-01-01,6,other values
,2020-01-08,1,no key
8,NA,2,nothing is missing from a day that is not there
"""


def source(path, **changes):
    said = {
        "name": "trips",
        "location": path,
        "columns": {"id": "BIGINT", "day": "DATE", "minutes": "INTEGER", "name": "VARCHAR"},
        "key": ("id",),
        "rules": (
            Rule("not_negative", "minutes >= 0"),
            Rule("under_a_day", "minutes < 1440"),
            Rule("not_long", "minutes < 1000"),
        ),
    }
    return CsvSource(**{**said, **changes})


@pytest.fixture
def dirty(home, tmp_path):
    path = tmp_path / "trips.csv"
    path.write_text(DIRTY)
    return path


def test_rows_in_are_rows_clean_plus_quarantined_plus_duplicates(dirty):
    report = clean_source(Home.at(), "travel", source(dirty), {})
    assert (report.rows_in, report.rows_clean, report.duplicates, report.quarantined) == (
        11,
        2,
        1,
        8,
    )
    assert report.rules == {
        "not_negative": 1,
        "under_a_day": 1,
        "not_long": 1,
        "type": 2,
        "not a row": 2,
        "key is null": 1,
        "key repeated": 1,
    }
    assert report.missing_values == {"id": 1, "day": 1}
    with connect() as connection:
        rows = connection.execute(
            f"SELECT id, minutes FROM read_parquet('{clean_path(Home.at(), 'travel', 'trips')}')"
            " ORDER BY id"
        ).fetchall()
    assert rows == [(1, 5), (8, 2)]


def test_each_quarantine_reason_names_the_fault(dirty):
    clean_source(Home.at(), "travel", source(dirty), {})
    reasons = {
        row["rule"]: row["reason"] for row in quarantined_rows(Home.at(), "travel", "trips", 100)
    }
    assert reasons["not_negative"] == "breaks not_negative"
    assert reasons["under_a_day, not_long"] == "breaks under_a_day, not_long"
    assert reasons["key repeated"] == "has the key of row 1 and other values"
    assert reasons["key is null"] == "one of id is missing"
    types = {
        row["reason"]
        for row in quarantined_rows(Home.at(), "travel", "trips", 100)
        if row["rule"] == "type"
    }
    assert types == {"minutes is not INTEGER: 1.5", "day is not DATE: not a day"}


def test_an_unchanged_file_is_not_cleaned_again_and_a_changed_rule_cleans_it_again(dirty):
    first = clean_source(Home.at(), "travel", source(dirty), {})
    written = clean_path(Home.at(), "travel", "trips").stat().st_mtime_ns
    assert clean_source(Home.at(), "travel", source(dirty), {}) == first
    assert clean_path(Home.at(), "travel", "trips").stat().st_mtime_ns == written
    looser = clean_source(Home.at(), "travel", source(dirty, rules=()), {})
    assert looser.rows_clean == 4


@pytest.mark.parametrize("kind", ["gz", "zip"])
def test_compressed_files_are_read_like_plain_ones(dirty, tmp_path, kind):
    path = tmp_path / f"trips.csv.{kind}"
    if kind == "gz":
        path.write_bytes(gzip.compress(DIRTY.encode()))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("trips.csv", DIRTY)
    assert clean_source(Home.at(), "travel", source(path), {}).rows_in == 11
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(BrokenSource, match="is damaged and cannot be unpacked"):
        clean_source(Home.at(), "travel", source(path), {})


def test_a_broken_source_keeps_the_earlier_clean_rows(dirty):
    clean_source(Home.at(), "travel", source(dirty), {})
    before = clean_path(Home.at(), "travel", "trips").read_bytes()
    for text in (
        "",
        "id,day,minutes,name\n",
        "id,day,name\n1,2020-01-01,x\n",
        "id,day,minutes,name\n1,x,1,a\n2,y,2,b\n3,z,3,c\n",
    ):
        dirty.write_text(text)
        with pytest.raises(BrokenSource, match="trips"):
            clean_source(Home.at(), "travel", source(dirty), {})
        assert clean_path(Home.at(), "travel", "trips").read_bytes() == before


def test_a_supplement_adds_rows_and_is_counted(dirty):
    report = clean_source(
        Home.at(),
        "travel",
        source(dirty, supplement=((99, "2020-02-01", 1, "known to be missing"),)),
        {},
    )
    assert (report.rows_in, report.supplemented, report.rows_clean) == (12, 1, 3)


def test_cleaning_that_loses_or_multiplies_rows_is_refused(dirty):
    with pytest.raises(InvalidDeclaration, match="made 1 rows of 4; expected one for each"):
        clean_source(
            Home.at(), "travel", source(dirty, clean="SELECT * FROM trips WHERE id = 1"), {}
        )
    with pytest.raises(InvalidDeclaration, match="made 8 rows of 4"):
        clean_source(
            Home.at(), "travel", source(dirty, clean="SELECT t.* FROM trips AS t, range(2)"), {}
        )
    with pytest.raises(InvalidDeclaration, match="its cleaning does not run"):
        clean_source(Home.at(), "travel", source(dirty, clean="SELECT nothing FROM trips"), {})
