"""Raw files that are hard to read; `tests/test_sources.py` has the faults of single rows."""

import gzip
import os
import zipfile
from decimal import Decimal

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.clean.cleaning import (
    clean_path,
    clean_source,
    quarantined_rows,
    read_report,
    register_clean,
)
from punctual.errors import BrokenSource, InvalidDeclaration
from punctual.home import Home
from punctual.sources import CsvSource, Rule
from stores.tables import connect

HEADER = b"id,minutes,name\n"


@pytest.fixture
def file(home, tmp_path):
    return tmp_path / "trips.csv"


def source(path, **changes):
    said = {
        "name": "trips",
        "location": path,
        "columns": {"id": "BIGINT", "minutes": "INTEGER", "name": "VARCHAR"},
        "key": ("id",),
    }
    return CsvSource(**{**said, **changes})


def clean(path, content=None, **changes):
    """Cleans the file and returns the report, after checking that its counts add up."""
    if content is not None:
        path.write_bytes(content)
    report = clean_source(Home.at(), "travel", source(path, **changes), {})
    assert report.rows_in == report.rows_clean + report.quarantined + report.duplicates
    return report


def rows(columns="id, minutes, name"):
    with connect() as connection:
        return connection.execute(
            f"SELECT {columns} FROM read_parquet('{clean_path(Home.at(), 'travel', 'trips')}')"
            " ORDER BY id"
        ).fetchall()


def quarantine():
    return [
        (row["rule"], row["reason"]) for row in quarantined_rows(Home.at(), "travel", "trips", 1000)
    ]


@pytest.mark.parametrize(
    "content",
    [
        HEADER + b"1,5,a\n2,6,b\n",
        HEADER + b"1,5,a\n2,6,b",
        HEADER + b"1,5,a\n\n2,6,b\n\n",
        HEADER + b' 1 ,+5,a\n"2","6","b"\n',
        b"\xef\xbb\xbf" + HEADER + b"1,5,a\n2,6,b\n",
        HEADER.replace(b"\n", b"\r\n") + b"1,5,a\r\n2,6,b\r\n",
        b'more,"name",minutes,id\nx,a,5,1\ny,b,6,2\n',
    ],
)
def test_the_same_rows_are_read_from_every_csv_dialect(file, content):
    assert (clean(file, content).rows_clean, rows()) == (2, [(1, 5, "a"), (2, 6, "b")])


def test_undeclared_columns_are_named(file):
    assert clean(file, b"more,id,minutes,name\nx,1,5,a\n").unused_columns == ["more"]


def test_text_may_contain_commas_quotes_line_breaks_and_any_letter(file):
    clean(file, HEADER + '1,5,"a, ""b""\nc ✈"\n2,6,d\n'.encode())
    assert rows() == [(1, 5, 'a, "b"\nc ✈'), (2, 6, "d")]


def test_a_line_that_is_not_utf_8_is_quarantined(file):
    report = clean(file, HEADER + b"1,5,\xff\xfe\n2,6,b\n3,7,c\n")
    assert (report.rows_clean, report.quarantined) == (2, 1)
    assert "not utf-8" in quarantine()[0][1]


def test_an_unclosed_quote_removes_no_line_from_the_count(file):
    lines = [b"%d,%d,a" % (number, number) for number in range(100)]
    lines[60] = b'60,60,"a'
    report = clean(file, HEADER + b"\n".join(lines) + b"\n")
    assert (report.rows_in, report.rows_clean, report.quarantined) == (100, 60, 40)
    assert quarantine()[0] == ("not a row", "line 62: Value with unterminated quote found.")
    lines[10] = b'10,10,"a'
    lines[60] = b"60,60,a"
    with pytest.raises(
        BrokenSource, match=r"90 of 100 lines of .*trips.csv are not rows, such as line 12"
    ):
        clean(file, HEADER + b"\n".join(lines) + b"\n")


def test_rows_without_a_key_are_quarantined_and_not_counted_as_duplicates(file):
    report = clean(file, HEADER + b"1,5,a\n,6,b\n,6,b\n2,5,a\n")
    assert (report.rows_clean, report.quarantined, report.duplicates) == (2, 2, 0)


def test_a_number_is_never_rounded_to_fit_its_type(file):
    types = {
        "id": "BIGINT",
        "small": "TINYINT",
        "positive": "UINTEGER",
        "price": "DECIMAL(6, 2)",
        "ratio": "DOUBLE",
    }
    lines = [
        "1,1,1.50,1e-3",
        "128,1,1,1",
        "1,-1,1,1",
        "1,1.5,1,1",
        "1,1,1.555,1",
        "1,1,12345,1",
        "1,1,.5,1",
        "1,1,1.5000,1",
    ]
    text = "id,small,positive,price,ratio\n" + "".join(
        f"{number},{line}\n" for number, line in enumerate(lines, start=1)
    )
    report = clean(file, text.encode(), columns=types)
    assert rows("id, price, ratio") == [
        (1, Decimal("1.50"), 0.001),
        (7, Decimal("0.50"), 1.0),
        (8, Decimal("1.50"), 1.0),
    ]
    assert report.rules == {"type": 5}
    assert {reason for _, reason in quarantine()} == {
        "small is not TINYINT:"
        " 128", "positive is not UINTEGER: -1", "positive is not UINTEGER: 1.5",
        "price is not DECIMAL(6, 2): 1.555", "price is not DECIMAL(6, 2): 12345",
    }  # fmt: skip


def test_every_problem_of_a_row_is_reported(file):
    clean(file, b"id,minutes,name\nx,1.5,a\n1,5,b\n2,5,c\n")
    assert quarantine() == [("type", "id is not BIGINT: x; minutes is not INTEGER: 1.5")]


def test_a_null_passes_a_rule(file):
    assert clean(
        file, HEADER + b"1,NA,a\n2,-1,b\n", rules=(Rule("not_negative", "minutes >= 0"),)
    ).rules == {"not_negative": 1}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "lacks column id, minutes, name; it has no columns"),
        (b"\n", "lacks column id, minutes, name; it has no columns"),
        (HEADER, "has a header and no rows"),
        (b"id;minutes;name\n1;5;a\n", "lacks column id, minutes, name; it has id;minutes;name"),
        (b"ID,minutes,name\n1,5,a\n", "lacks column id; it has ID, minutes, name"),
        (b"id,minutes,name,id\n1,5,a,2\n", "has column id more than once"),
        (b"id,minutes,name,\n1,5,a,\n", "has a column without a name"),
        (
            b"id,minutes,name\none,5,a\ntwo,6,b\n3,7,c\n",
            "column 'id' is not BIGINT: 2 of 3 values cannot be read as that, such as 'one'",
        ),
        (bytes(range(256)) * 2000, "it has no readable text"),
        (b"x" * 200_000, "it has no readable text"),
        (HEADER + bytes(range(256)) * 2000, "trips.csv"),
        (gzip.compress(HEADER), "it has no readable text"),
    ],
    ids=range(12),
)
def test_an_unexpected_file_is_refused_and_changes_nothing(file, content, what):
    clean(file, HEADER + b"1,5,a\n")
    with pytest.raises(BrokenSource, match="source 'trips'.*[Ee]xpected.* BIGINT") as error:
        clean(file, content)
    assert what in str(error.value)
    assert rows() == [(1, 5, "a")]


def test_a_file_that_is_not_there_is_named(file):
    with pytest.raises(BrokenSource, match=r"source 'trips': file .*trips.csv does not exist"):
        clean(file)


def a_zip(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)


def test_an_archive_without_exactly_one_csv_is_refused(tmp_path, home):
    path = tmp_path / "trips.csv.zip"
    for members in ({}, {"a_csv": HEADER, "b_csv": HEADER}):
        a_zip(path, **members)
        with pytest.raises(BrokenSource, match=f"it holds {len(members)} CSV files, expected one"):
            clean(path)


@pytest.mark.parametrize("kind", ["gz", "zip"])
def test_damage_anywhere_in_a_compressed_file_is_found(tmp_path, home, kind):
    path = tmp_path / f"trips.csv.{kind}"
    content = HEADER + b"".join(
        b"%d,%d,%d\n" % (number, number % 7, number * 7919 % 1000) for number in range(3000)
    )
    if kind == "gz":
        path.write_bytes(gzip.compress(content, mtime=0))
    else:
        a_zip(path, trips_csv=content)
    assert clean(path).rows_clean == 3000
    whole, before = path.read_bytes(), rows()
    for place in range(60, len(whole) - 100, len(whole) // 12):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with pytest.raises(BrokenSource, match="is damaged and cannot be unpacked"):
            clean(path)
    assert rows() == before


def test_a_location_function_is_called_when_the_source_is_read(file, monkeypatch):
    file.write_bytes(HEADER + b"1,5,a\n")
    monkeypatch.setenv("TRIPS", str(file))
    assert clean(lambda: os.environ["TRIPS"]).rows_clean == 1


def test_a_source_is_cleaned_again_when_what_it_reads_changes(file, tmp_path):
    names = CsvSource(
        name="names", location=tmp_path / "names.csv", columns={"name": "VARCHAR"}, key=("name",)
    )
    (tmp_path / "names.csv").write_text("name\na\n")
    known = (Rule("name_known", "name IN (SELECT name FROM names)"),)

    def both():
        reports = {"names": clean_source(Home.at(), "travel", names, {})}
        return clean_source(Home.at(), "travel", source(file, reads=(names,), rules=known), reports)

    file.write_bytes(HEADER + b"1,5,a\n2,6,b\n")
    assert both().rows_clean == 1
    (tmp_path / "names.csv").write_text("name\na\nb\n")
    assert both().rows_clean == 2


def test_cleaning_that_drops_the_row_number_is_refused(file):
    file.write_bytes(HEADER + b"1,5,a\n")
    with pytest.raises(InvalidDeclaration, match="its cleaning gives no column row_number"):
        clean(file, clean="SELECT id, minutes, name FROM trips")
    with pytest.raises(InvalidDeclaration, match="its rules do not run"):
        clean(file, rules=(Rule("nonsense", "nothing > 0"),))


def test_a_run_that_died_between_its_files_cleans_again(file):
    clean(file, HEADER + b"1,5,a\n")
    first = read_report(Home.at(), "travel", "trips")
    clean(file, HEADER + b"2,6,b\n")
    # The state after a run that died between rows and report: the earlier file must not match
    # its old report.
    clean_path(Home.at(), "travel", "trips").with_suffix(".json").unlink()
    assert clean(file, HEADER + b"1,5,a\n") == first
    assert rows() == [(1, 5, "a")]


values = st.sampled_from(["", "NA", "1", "2", "3", "1.5", "x", " 7", '"8"', "é", "9,9"])


@given(st.lists(st.tuples(values, values, values), min_size=1, max_size=12))
def test_every_line_of_a_file_is_counted_once(file, lines):
    text = HEADER + "".join(",".join(line) + "\n" for line in lines).encode()
    try:
        assert clean(file, text, rules=(Rule("short", "minutes < 3"),)).rows_in == len(lines)
    except BrokenSource as refused:
        assert "cannot be read as that" in str(refused) or "are not rows" in str(refused)


@pytest.mark.parametrize("name", ["things [1]", "th*ngs", "things ?", "year=2020", "100% #1"])
def test_a_file_whose_name_could_be_a_pattern_is_read_and_not_its_neighbour(
    home, tmp_path, monkeypatch, name
):
    monkeypatch.setenv("PUNCTUAL_HOME", str(tmp_path / name / "data"))
    (tmp_path / name).mkdir()
    (tmp_path / "things 1.csv").write_bytes(HEADER + b"1,99,other\n")
    clean(tmp_path / f"{name}.csv", HEADER + b"1,5,a\n")
    written = pq.read_table(clean_path(Home.at(), "travel", "trips"), partitioning=None)
    assert written.select(["id", "minutes", "name"]).to_pylist() == [
        {"id": 1, "minutes": 5, "name": "a"}
    ]
    with connect() as connection:
        register_clean(connection, Home.at(), "travel", (source(tmp_path / f"{name}.csv"),))
        read = connection.sql("SELECT * FROM trips").to_arrow_table()
    assert read.drop_columns(["row_number"]).to_pylist() == [{"id": 1, "minutes": 5, "name": "a"}]
    assert quarantine() == []
