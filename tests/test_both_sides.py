"""One view is read twice, once for each team of a game: two names, two join keys, one table."""

import csv
import random
import shutil
import textwrap
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from inference.batch import batch
from inference.features import OnlineFeatures
from inference.predict import Predictor, predict_rows
from inference.request_rows import checked_rows
from pipelines.build import build
from pipelines.materialize import apply_definitions, materialize, online_database
from punctual.errors import InvalidDeclaration
from punctual.home import Home
from punctual.progress import Progress
from punctual.repository import feature_store, find_use_case, load_domain
from punctual.times import moment
from stores.offline import historical_features
from stores.predictions import PredictionLog
from stores.tables import Manifest
from training.publish import promote
from training.run import train

AS_OF = moment("2024-06-01T00:00Z")
QUIET = Progress(quiet=True)
DOMAIN = """
from datetime import timedelta

from feast import Entity, FeatureService, Field, RequestSource, ValueType
from feast.types import Int64, UnixTimestamp

from punctual import (
    CsvSource,
    Domain,
    Events,
    Gate,
    Label,
    RequestFeature,
    TimeSplit,
    UseCase,
    mean,
    moment,
    request_feature_view,
    windowed_feature_view,
)

games_domain = Domain("games", "Games of a league", demo_at=moment("2024-06-01T00:00Z"))
games = CsvSource(
    name="games",
    location="raw/games.csv",
    key=("game",),
    columns={
        "game": "BIGINT",
        "home_team": "VARCHAR",
        "away_team": "VARCHAR",
        "starts": "TIMESTAMP",
        "home_points": "BIGINT",
        "away_points": "BIGINT",
    },
)
KNOWN = "starts AS event_timestamp, starts + INTERVAL 3 HOUR AS created_timestamp FROM games"
scores = Events(
    "scores",
    (games,),
    id=("game", "team"),
    columns={"game": "BIGINT", "team": "VARCHAR", "points": "BIGINT"},
    sql=f"SELECT game, home_team AS team, home_points AS points, {KNOWN}"
    f" UNION ALL SELECT game, away_team, away_points, {KNOWN}",
)
fixtures = Events(
    "fixtures",
    (games,),
    id=("game",),
    columns={"game": "BIGINT", "home_team": "VARCHAR", "away_team": "VARCHAR"},
    sql="SELECT game, home_team, away_team,"
    " starts AS event_timestamp, starts AS created_timestamp FROM games",
)
margins = Events(
    "margins",
    (games,),
    id=("game",),
    columns={"game": "BIGINT", "margin": "BIGINT"},
    sql=f"SELECT game, home_points - away_points AS margin, {KNOWN}",
)
team = Entity(name="team", join_keys=["team"], value_type=ValueType.STRING, description="A team")
team_form = windowed_feature_view(
    name="team_form",
    entities=[team],
    events=scores,
    every=timedelta(hours=1),
    available_after=timedelta(minutes=5),
    features=[mean("points", over=("30d",), description="Mean points")],
    description="How a team has played",
)
home_form = team_form.with_name("home_form").with_join_key_map({"team": "home_team"})
away_form = team_form.with_name("away_form").with_join_key_map({"team": "away_team"})


@request_feature_view(
    sources=[RequestSource(name="game_request", schema=[Field(name="at", dtype=UnixTimestamp)])],
    features=[RequestFeature("weekday", Int64, "Day of the week, Monday is 0")],
    description="The day",
)
def game_day(inputs):
    return {"weekday": [at.weekday() for at in inputs["at"]]}


margin_v1 = FeatureService(
    name="margin_v1",
    features=[
        game_day,
        home_form,
        team_form.with_name("away_form").with_join_key_map({"team": "away_team"}),
    ],
)
margin = UseCase(
    name="margin",
    description="By how many points will the home team win?",
    task="regression",
    feature_service="margin_v1",
    requests=fixtures,
    label=Label("margin", of=margins, horizon=timedelta(hours=24)),
    split=TimeSplit(train="90d", validation="20d", test="20d"),
    metric="rmse",
    gate=Gate(minimum_rows=10),
)
"""


@pytest.fixture
def league(home, tmp_path, monkeypatch):
    """Five months of games that the stronger team wins; returns the file of definitions."""
    repository = tmp_path / "repository"
    (repository / "games").mkdir(parents=True)
    shutil.copy(Path(__file__).parents[1] / "feature_repo" / "feature_store.yaml", repository)
    path = repository / "games" / "use_case.py"
    path.write_text(textwrap.dedent(DOMAIN))
    monkeypatch.setenv("PUNCTUAL_REPOSITORY", str(repository))
    noise = random.Random(5)
    (home / "raw").mkdir(parents=True)
    with (home / "raw" / "games.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["game", "home_team", "away_team", "starts", "home_points", "away_points"])
        for game in range(152 * 20):
            starts = datetime(2024, 1, 1, 18) + timedelta(days=game // 20)
            one, other = noise.sample(range(8), 2)
            points = [70 + 5 * number + noise.randrange(10) for number in (one, other)]
            rows.writerow([game, f"T{one}", f"T{other}", starts, *points])
    return path


def test_both_sides_of_a_game_are_read_from_one_view_in_training_and_in_serving(league):
    domain, use_case = find_use_case(Home.at(), "margin")
    assert domain.join_keys("margin_v1") == ["away_team", "home_team"]
    store = feature_store(Home.at())
    assert [view.view for view in build(domain, AS_OF, QUIET).views] == ["team_form"]
    apply_definitions(store, [domain])
    materialize(store, domain, AS_OF, QUIET)
    assert list(online_database(store).records.views("punctual")) == ["team_form"]
    assert [name for name in Manifest(Home.at().tables).names() if "." not in name] == ["team_form"]

    rows = [
        {"home_team": "T7", "away_team": "T1", "event_timestamp": AS_OF, "at": AS_OF},
        {"home_team": "T1", "away_team": "T7", "event_timestamp": AS_OF, "at": AS_OF},
        {"home_team": "T1", "away_team": "none", "event_timestamp": AS_OF, "at": AS_OF},
    ]
    import pandas as pd

    online = OnlineFeatures(domain, use_case).read(rows, AS_OF).to_pandas()
    offline = historical_features(
        store, pd.DataFrame(rows), store.get_feature_service("margin_v1")
    ).to_pandas()
    names = ["game_day__weekday", "home_form__points_mean_30d", "away_form__points_mean_30d"]
    assert list(online) == names
    pd.testing.assert_frame_equal(online, offline[names])
    strong, weak = online["home_form__points_mean_30d"][:2]
    assert strong > weak + 20
    assert online["away_form__points_mean_30d"].tolist()[:2] == [weak, strong]
    assert online["game_day__weekday"].tolist() == [5, 5, 5]
    assert online["away_form__points_mean_30d"].isna().tolist() == [False, False, True]

    quiet = Progress(quiet=True)
    made = train(store, domain, use_case, as_of=AS_OF, progress=quiet)
    promote(domain.home, "margin", made.card.version)
    predictor = Predictor.load(domain, use_case)
    log = PredictionLog(Home.at(), "margin")
    sent = [{"home_team": row["home_team"], "away_team": row["away_team"]} for row in rows]
    checked = checked_rows(predictor.row_model, sent)
    answer = predict_rows(predictor, checked, clock=lambda: AS_OF, at=AS_OF, log=log)
    log.close()
    wins, loses, _unknown = (each.prediction for each in answer.predictions)
    assert wins > loses
    assert [dict(each.keys) for each in answer.predictions[2].unknown] == [{"away_team": "none"}]
    assert batch(domain, use_case, AS_OF).rows == 20


def test_a_view_that_is_read_only_under_another_name_is_reported(league):
    text = league.read_text().replace("team_form = windowed", "home_form = windowed", 1)
    league.write_text(
        text.replace("home_form = team_form.with_name", "home_form = home_form.with_name").replace(
            "team_form.with_name", "home_form.with_name"
        )
    )
    with pytest.raises(
        InvalidDeclaration, match=r"no view 'team_form' in games\. .*feature service 'margin_v1'"
    ):
        load_domain(Home.at(), "games")


@pytest.mark.parametrize(
    ("before", "body", "said"),
    [
        ("FIRST = 1", "at.weekday() + FIRST", "uses 'FIRST', which its source does not define"),
        ("def day(at): return at.weekday()", "day(at)", "uses 'day'"),
        ("import math", "math.floor(at.weekday())", "uses 'math'"),
        ("", "__import__('x') and Any(at)", "uses 'Any'"),
    ],
)
def test_a_request_time_function_that_needs_its_module_is_refused(league, before, body, said):
    text = league.read_text().replace("at.weekday() for at", f"{body} for at")
    league.write_text(f"{before}\n{text}")
    with pytest.raises(InvalidDeclaration, match=f"request-time view 'game_day' {said}"):
        load_domain(Home.at(), "games")


def test_a_request_time_function_that_imports_its_domains_modules_is_refused(
    league,
):
    league.with_name("helpers.py").write_text("def day(at):\n    return at.weekday()\n")
    body = "def game_day(inputs):\n    from .helpers import day\n"
    league.write_text(
        league.read_text()
        .replace("def game_day(inputs):\n", body)
        .replace("at.weekday() for at", "day(at) for at")
    )
    with pytest.raises(InvalidDeclaration, match=r"'game_day' imports '\.helpers', whose source"):
        load_domain(Home.at(), "games")


def test_a_request_time_function_may_import_libraries_and_have_annotations(league):
    body = '''def game_day(inputs: "Nowhere") -> dict[str, list]:
    """Its documentation."""
    import math as m
    from statistics import fmean

    count: int = 2

    def day(at: "Nowhere") -> int:
        return int(fmean([at.weekday(), count])) + m.floor(0.5)

'''
    league.write_text(
        league.read_text()
        .replace("def game_day(inputs):\n", body)
        .replace("at.weekday() for at", "day(at) for at")
    )
    view = load_domain(Home.at(), "games").on_demand_views["game_day"]
    assert "Nowhere" not in view.feature_transformation.udf_string
    assert "documentation" not in view.feature_transformation.udf_string


@pytest.mark.parametrize(
    "read", ["home_form", "team_form.with_join_key_map({'team': 'home_team'})"]
)
def test_a_view_under_another_name_behind_a_request_time_view_is_refused(league, read):
    league.write_text(league.read_text().replace("sources=[Req", f"sources=[{read}, Req"))
    with pytest.raises(InvalidDeclaration, match="it reads view 'team_form' under another name or"):
        load_domain(Home.at(), "games")
