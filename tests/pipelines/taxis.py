"""A throw-away domain of taxi trips and the raw file of its events."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipelines.build import build
from punctual.home import Home
from punctual.progress import Progress
from punctual.repository import load_domain
from stores.tables import Table, canonical_hash, event_table

QUIET = Progress(quiet=True)

# A fare is known at the end of the trip; the label (a tip) an hour later.
DOMAIN = """
from datetime import timedelta

from feast import Entity, FeatureService, ValueType

from punctual.use_case import Gate, Label, TimeSplit, UseCase
from punctual.home import Home
from punctual.sources import CsvSource
from punctual.domain import Domain
from punctual.events import Events
from punctual.windows import count, latest_feature_view, mean, sum_of, windowed_feature_view

taxis_domain = Domain(name="taxis", description="Trips of taxis")
trips = CsvSource(
    name="trips",
    location=lambda: str(Home.at().path("raw", "trips.csv")),
    columns={
        "trip": "BIGINT",
        "driver": "BIGINT",
        "begun": "TIMESTAMP",
        "ended": "TIMESTAMP",
        "cents": "BIGINT",
        "tip": "BOOLEAN",
    },
    key=("trip",),
)
fares = Events(
    name="fares",
    sources=(trips,),
    id=("trip",),
    columns={"trip": "BIGINT", "driver": "BIGINT", "cents": "BIGINT"},
    sql="SELECT trip, driver, cents,"
    " ended AS event_timestamp, ended AS created_timestamp FROM trips",
)
calls = Events(
    name="calls",
    sources=(trips,),
    id=("trip",),
    columns={"trip": "BIGINT", "driver": "BIGINT"},
    sql="SELECT trip, driver, begun AS event_timestamp, begun AS created_timestamp FROM trips",
)
tips = Events(
    name="tips",
    sources=(trips,),
    id=("trip",),
    columns={"trip": "BIGINT", "tip": "BOOLEAN"},
    sql="SELECT trip, tip,"
    " begun AS event_timestamp, ended + INTERVAL 1 HOUR AS created_timestamp FROM trips",
)
driver = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
driver_fares = windowed_feature_view(
    name="driver_fares",
    entities=[driver],
    events=fares,
    every=timedelta(hours=1),
    available_after=timedelta(minutes=5),
    features=[
        sum_of("cents", over=("1h", "3h"), description="Cents earned"),
        mean("cents", over=("3h",), description="Mean fare"),
        count(over=("3h",), description="Trips"),
    ],
    description="What a driver earned",
)
driver_last_fare = latest_feature_view(
    name="driver_last_fare",
    entities=[driver],
    events=fares,
    every=timedelta(hours=1),
    available_after=timedelta(minutes=5),
    fields={"cents": "Cents of the last trip", "trip": "The last trip"},
    description="A driver's last trip",
)
tips_v1 = FeatureService(name="tips_v1", features=[driver_fares, driver_last_fare])
"""
USE_CASE = """
from datetime import timedelta

from punctual.use_case import Label, TimeSplit, UseCase

from .taxis import calls, tips

tipped = UseCase(
    name="tipped",
    description="Will there be a tip?",
    task="binary",
    feature_service="tips_v1",
    requests=calls,
    label=Label("tip", of=tips, horizon=timedelta(hours=6)),
    split=TimeSplit(train="10d", validation="2d", test="2d"),
    metric="roc_auc",
)
"""


def at(day, hour=0, minute=0):
    """A moment of June 2013."""
    return datetime(2013, 6, day, hour, minute, tzinfo=UTC)


def utc(day, hour=0, minute=0):
    """The same moment as naive UTC, as the tables store it."""
    return at(day, hour, minute).replace(tzinfo=None)


def a_trip(trip, begun, *, minutes=30, driver=1, cents=1000, tip=True):
    return (
        trip,
        driver,
        begun.replace(tzinfo=None),
        (begun + timedelta(minutes=minutes)).replace(tzinfo=None),
        cents,
        tip,
    )


def many_trips(count=120, seed=5):
    """Trips of five days, always the same for a seed."""
    chance = random.Random(seed)
    return [
        a_trip(
            number,
            at(1) + timedelta(minutes=chance.randrange(5 * 24 * 60)),
            minutes=chance.randrange(5, 200),
            driver=chance.randrange(1, 6),
            cents=chance.randrange(300, 9000),
            tip=chance.random() < 0.5,
        )
        for number in range(count)
    ]


class Taxis:
    """A repository with the taxi domain, and a data folder with its raw file."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.home = home
        self.repository = folder / "repository"
        (self.repository / "taxis").mkdir(parents=True)
        (self.repository / "taxis" / "__init__.py").write_text("")
        (self.repository / "taxis" / "taxis.py").write_text(DOMAIN)
        (self.repository / "taxis" / "use_case.py").write_text(USE_CASE)
        (self.repository / "feature_store.yaml").write_text(
            (Path(__file__).parents[2] / "feature_repo" / "feature_store.yaml").read_text()
        )

    @property
    def domain(self):
        """The domain with the data folder of `PUNCTUAL_HOME`."""
        return load_domain(Home.at(repository=self.repository), "taxis")

    def write(self, trips):
        path = Home.at().path("raw", "trips.csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "trip,driver,begun,ended,cents,tip\n"
            + "".join(",".join(map(str, trip)) + "\n" for trip in trips)
        )

    def build(self, moment):
        return build(self.domain, moment, QUIET)

    def redefined(self, old, new, file="taxis.py"):
        """A copy of the repository whose `file` says `new` instead of `old`."""
        other = Taxis.__new__(Taxis)
        other.home, other.repository = (
            self.home,
            self.repository.with_name(f"repository{random.random()}"),
        )
        self.repository.rename(other.repository)
        path = other.repository / "taxis" / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        return other

    def events(self, name, *columns):
        stream = next(stream for stream in self.domain.events if stream.name == name)
        rows = event_table(self.domain, stream).read()
        return (
            sorted(zip(*(rows[column].to_pylist() for column in columns), strict=True), key=repr)
            if rows.num_columns
            else []
        )

    def hashes(self):
        """The canonical hash of every table of the data folder."""
        root = Home.at().path("tables")
        return {
            path.name: canonical_hash(Table.current(root, path.name).read())
            for path in sorted(root.iterdir())
            if path.is_dir()
        }
