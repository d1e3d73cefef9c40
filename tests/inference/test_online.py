"""The prediction API as a client uses it."""

import json
import re
import sqlite3
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import requests
import uvicorn

from inference.api.app import create_app
from inference.api.error_responses import MAX_BODY_BYTES
from inference.api.server import address, bind_port
from punctual.home import Home
from stores.predictions.log import read_log

NOW = datetime(2024, 2, 20, 12, 30, tzinfo=UTC)


class Client(requests.Session):
    """Sends requests to a server by path."""

    def __init__(self, url):
        super().__init__()
        self.url = url

    def request(self, method, path, **options):
        return super().request(method, self.url + path, timeout=30, **options)


@contextmanager
def client_of(domain, *names, now=NOW, check_every=0.2):
    """A server of its own on a free port, and somebody who asks it."""
    taken = bind_port("127.0.0.1", 0)
    taken.listen()
    app = create_app(
        [(domain, domain.use_cases[name]) for name in names], lambda: now, check_every=check_every
    )
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
    thread.start()
    try:
        with Client(address(taken)) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def wait_for(condition, seconds=10.0):
    pause = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        pause.wait(0.02)
    pytest.fail("it did not come about")


def ready(client):
    wait_for(lambda: client.get("/readyz").status_code == 200)
    return client


@pytest.fixture
def client(domain):
    with client_of(domain, "parcel_lateness") as client:
        yield ready(client)


@pytest.fixture
def clients(domain):
    with client_of(domain, "parcel_lateness", "parcel_delay") as client:
        yield ready(client)


def logged(use_case="parcel_lateness"):
    return list(read_log(Home.at(), use_case))


def test_one_row_is_predicted_and_logged(client, row):
    response = client.post("/predict", json={"rows": [row(parcel=12)]})

    answer = response.json()
    assert response.status_code == 200, answer
    (predicted,) = answer["predictions"]
    assert answer["model"] == {"name": "parcel_lateness", "version": "1"}
    assert (answer["use_case"], answer["at"], answer["threshold"]) == (
        "parcel_lateness",
        "2024-02-20T12:30:00Z",
        0.4,
    )
    assert 0 < predicted["probability"] < 1
    assert predicted["decision"] is (predicted["probability"] >= 0.4)
    assert "prediction" not in predicted
    assert predicted["id"] == {"parcel": 12}
    assert [each.prediction_id for each in logged()] == [predicted["prediction_id"]]


def test_many_rows_are_answered_in_their_order(client, row):
    weights = [(number * 37) % 9_000 + 1 for number in range(1_000)]

    predictions = client.post(
        "/predict",
        json={
            "rows": [row(weight_grams=weight, parcel=place) for place, weight in enumerate(weights)]
        },
    ).json()

    found = [each["probability"] for each in predictions["predictions"]]
    assert [each["id"]["parcel"] for each in predictions["predictions"]] == list(range(1_000))
    assert [weight for _, weight in sorted(zip(found, weights, strict=True))] == sorted(weights)
    assert len(logged()) == 1_000


def test_a_timestamp_in_any_zone_is_the_same_timestamp(client, row):
    body = {"rows": [row(promised="2024-02-21T10:00:00+02:00")], "at": "2024-02-20T07:30:00-05:00"}

    answer = client.post("/predict", json=body).json()

    assert answer["at"] == "2024-02-20T12:30:00Z"
    assert logged()[0].row["promised"] == "2024-02-21T08:00:00Z"


MALFORMED_ROWS = [
    ({"courier": ...}, "rows[1].courier", "is missing"),
    ({"promised": ...}, "rows[1].promised", "is missing"),
    ({"courier": None}, "rows[1].courier", "is null; expected a valid string"),
    ({"courier": 7}, "rows[1].courier", "is 7; expected a valid string"),
    ({"depot": 7}, "rows[1].depot", "is 7; expected a valid string"),
    ({"route": "2"}, "rows[1].route", "is '2'; expected a valid integer"),
    ({"route": 2.0}, "rows[1].route", "is 2.0; expected a valid integer"),
    ({"route": True}, "rows[1].route", "is True; expected a valid integer"),
    ({"route": 2**63}, "rows[1].route", "is 9223372036854775808; expected an integer of 64 bits"),
    (
        {"curier": "A"},
        "rows[1].curier",
        "is unknown. Did you mean 'courier'? Known: courier, depot, route, promised, weight_grams,"
        " parcel",
    ),
    (
        {"promised": "2024-02-21T08:00:00"},
        "rows[1].promised",
        "has no time zone; expected one, for example 2024-02-21T08:00:00Z",
    ),
    (
        {"promised": "tomorrow"},
        "rows[1].promised",
        "is not a timestamp; expected ISO 8601 with a time zone, such as 2013-12-05T20:00:00Z",
    ),
    (
        {"promised": 1_708_500_000},
        "rows[1].promised",
        "is not a timestamp; expected ISO 8601 text with a time zone, such as 2013-12-05T20:00:00Z",
    ),
    (
        {"promised": "0001-01-01T00:00:00+14:00"},
        "rows[1].promised",
        "is outside the years 1678 to 2261",
    ),
]
MALFORMED_BODIES = [
    ({}, "rows", "is missing"),
    ({"rows": []}, "rows", "is empty; expected at least one row"),
    ({"rows": {"courier": "A"}}, "rows", "is {'courier': 'A'}; expected a valid list"),
    ({"rows": ["A"]}, "rows[0]", "is 'A'; expected a JSON object"),
    ({"row": {}, "rows": []}, "row", "is unknown. Did you mean 'rows'? Known: use_case, at, rows"),
    (
        {"use_case": "parcel_delay", "rows": []},
        "use_case",
        "is 'parcel_delay'; expected 'parcel_lateness'",
    ),
    (
        {"at": "2024-02-20T12:00:00", "rows": []},
        "at",
        "has no time zone; expected one, for example 2024-02-20T12:00:00Z",
    ),
    (
        {"at": 5, "rows": []},
        "at",
        "is not a timestamp; expected ISO 8601 text with a time zone, such as 2013-12-05T20:00:00Z",
    ),
    ([], "", "is []; expected a JSON object"),
]
NO_JSON = [
    b"",
    b"{",
    b'{"rows": [\xff]}',
    b"not json",
    b"[" * 100_000,
    b'{"rows": [{"courier": "\\ud800"}]}',
]


def test_a_malformed_row_is_refused_with_the_field_that_is_wrong(client, row, subtests):
    for changes, field, problem in MALFORMED_ROWS:
        with subtests.test(changes=changes):
            response = client.post("/predict", json={"rows": [row(), row(**changes)]})

            assert response.status_code == 422
            assert response.json() == {
                "error": "InvalidRequest",
                "message": f"{field} {problem}.",
                "problems": [{"field": field, "problem": problem}],
            }
    assert logged() == []


def test_a_malformed_body_is_refused_with_the_field_that_is_wrong(client, subtests):
    for body, field, problem in MALFORMED_BODIES:
        with subtests.test(body=body):
            response = client.post("/predict", json=body)

            assert response.status_code == 422
            assert {"field": field, "problem": problem} in response.json()["problems"]


def test_a_body_that_is_not_json_is_a_client_error(client, subtests):
    for body in NO_JSON:
        with subtests.test(body=body[:20]):
            response = client.post(
                "/predict", data=body, headers={"content-type": "application/json"}
            )

            assert response.status_code in (400, 422)
            assert response.json()["message"]


HALF = "x\ud83d"  # half of a surrogate pair: JSON can hold it, and UTF-8 cannot
NOT_TEXT = [
    ({"rows": [{"courier": HALF}]}, "rows[0].courier"),
    ({"rows": [{"depot": HALF}]}, "rows[0].depot"),
    ({"rows": [{"promised": HALF}]}, "rows[0].promised"),
    ({"rows": [{"parcel": HALF}]}, "rows[0].parcel"),
    ({"rows": [{"courier": {"name": [HALF]}}]}, "rows[0].courier"),
    ({"rows": [{HALF: 1}]}, "rows[0]"),
    ({"rows": HALF}, "rows"),
    ({"rows": [HALF]}, "rows[0]"),
    ({"use_case": HALF}, "use_case"),
    ({"at": HALF}, "at"),
]


@pytest.mark.parametrize("served", [["parcel_lateness"], ["parcel_lateness", "parcel_delay"]])
def test_text_that_is_not_unicode_is_refused_with_its_field(domain, served, row, subtests):
    with client_of(domain, *served) as client:
        ready(client)
        for changes, field in NOT_TEXT:
            with subtests.test(changes=changes):
                body = {"use_case": "parcel_lateness", "rows": [row()], **changes}
                if isinstance(body["rows"][0], dict):
                    body["rows"] = [{**row(), **body["rows"][0]}]
                response = client.post("/predict", json=body)

                assert response.status_code == 422
                assert field in [each["field"] for each in response.json()["problems"]]
        assert client.post("/predict", json={HALF: 1}).status_code == 422
        assert client.get("/model?use_case=%ed%a0%bd").status_code in (200, 422)
    assert logged() == []


def test_nan_and_infinity_are_refused(client, row):
    body = json.dumps({"rows": [row(weight_grams=float("nan"))]})

    response = client.post("/predict", data=body, headers={"content-type": "application/json"})

    assert response.status_code == 422
    assert response.json()["problems"][0]["field"] == "rows[0].weight_grams"


def test_every_problem_of_a_request_is_named_at_once(client, row):
    response = client.post(
        "/predict", json={"at": "noon", "rows": [row(courier=..., route="2"), row(depot=1)]}
    )

    assert [each["field"] for each in response.json()["problems"]] == [
        "at",
        "rows[0].courier",
        "rows[0].route",
        "rows[1].depot",
    ]


def test_a_row_that_a_feature_cannot_be_computed_from_is_named(client, row):
    response = client.post("/predict", json={"rows": [row(), row(promised="2024-02-20T12:00:00Z")]})

    assert response.status_code == 422
    assert (
        "rows[1]: the features of 'parcel_request_features' cannot be computed from it:"
        " ZeroDivisionError" in response.json()["message"]
    )


def test_more_rows_than_one_request_may_have_are_refused_with_the_limit(client, row):
    response = client.post("/predict", json={"rows": [row()] * 1_001})

    assert response.status_code == 413
    assert (
        response.json()["message"] == "rows has more than the 1000 rows that one request may have."
    )


def test_a_body_that_is_too_long_is_refused_with_or_without_a_content_length(client):
    def pieces():
        for _ in range(MAX_BODY_BYTES // 65_536 + 1):
            yield b" " * 65_536

    for data in (b" " * (MAX_BODY_BYTES + 1), pieces()):
        response = client.post("/predict", data=data, headers={"content-type": "application/json"})
        assert response.status_code == 413
        assert "4,194,304 bytes" in response.json()["message"]


def test_a_future_time_and_a_past_that_is_not_kept_are_refused(client, row):
    future = client.post("/predict", json={"at": "2024-02-20T13:30:00Z", "rows": [row()]})
    past = client.post("/predict", json={"at": "2024-02-19T12:30:00Z", "rows": [row()]})
    recent = client.post("/predict", json={"at": "2024-02-20T12:10:00Z", "rows": [row()]})

    assert (future.status_code, future.json()["error"]) == (422, "InvalidRequest")
    assert (past.status_code, past.json()["error"]) == (422, "PastNotKept")
    assert (recent.status_code, recent.json()["at"]) == (200, "2024-02-20T12:10:00Z")


def test_a_server_whose_clock_is_behind_the_store_reports_it(domain, row):
    with client_of(domain, "parcel_lateness", now=NOW - timedelta(days=2)) as client:
        response = ready(client).post("/predict", json={"rows": [row()]})

    assert (response.status_code, response.json()["error"]) == (503, "ClockBehindStore")


def test_several_use_cases_are_served_by_name(clients, row):
    by_name = {
        name: clients.post("/predict", json={"use_case": name, "rows": [row()]}).json()
        for name in ("parcel_lateness", "parcel_delay")
    }
    nameless = clients.post("/predict", json={"rows": [row()]})
    wrong = clients.post("/predict", json={"use_case": "parcel_loss", "rows": [row()]})
    malformed = clients.post(
        "/predict", json={"use_case": "parcel_delay", "rows": [row(route="2")]}
    )

    assert "probability" in by_name["parcel_lateness"]["predictions"][0]
    assert "decision" not in by_name["parcel_delay"]["predictions"][0]
    assert isinstance(by_name["parcel_delay"]["predictions"][0]["prediction"], float)
    assert nameless.json()["problems"] == [
        {
            "field": "use_case",
            "problem": "is missing; expected a name, because several use cases are served",
        }
    ]
    assert (
        wrong.json()["problems"][0]["problem"]
        == "is 'parcel_loss'; expected one of 'parcel_lateness', 'parcel_delay'"
    )
    assert malformed.json()["problems"] == [
        {"field": "rows[0].route", "problem": "is '2'; expected a valid integer"}
    ]
    assert (len(logged("parcel_lateness")), len(logged("parcel_delay"))) == (1, 1)


def test_a_server_without_a_champion_reports_it_and_loads_the_first_one(domain, models, row):
    models.dethrone("parcel_lateness")
    with client_of(domain, "parcel_lateness") as client:
        wait_for(lambda: "NoChampion" in str(client.get("/readyz").json()["problems"]))
        not_ready = client.get("/readyz")
        refused = client.post("/predict", json={"rows": [row()]})
        alive = client.get("/livez")
        models.promote("parcel_lateness", "1")
        ready(client)
        answered = client.post("/predict", json={"rows": [row()]})

    assert (not_ready.status_code, not_ready.json()["status"]) == (503, "not ready")
    assert "run: punctual train parcel_lateness" in not_ready.json()["problems"]["parcel_lateness"]
    assert (refused.status_code, refused.json()["error"]) == (503, "NoChampion")
    assert (alive.status_code, answered.status_code) == (200, 200)


def test_a_new_champion_and_a_rollback_are_loaded_without_a_restart(client, models, row):
    def version():
        return client.post("/predict", json={"rows": [row()]}).json()["model"]["version"]

    assert version() == "1"
    models.promote("parcel_lateness", models.register_again("parcel_lateness"))
    wait_for(lambda: version() == "2")
    models.promote("parcel_lateness", "1")
    wait_for(lambda: version() == "1")


def test_a_champion_that_cannot_be_loaded_leaves_the_one_before_it_in_place(client, models, row):
    def broken(card):
        card.parity_rows[0].prediction = 2.0

    models.promote("parcel_lateness", models.register_again("parcel_lateness", broken))
    wait_for(lambda: "BrokenModel" in str(client.get("/readyz").json()["problems"]))

    answer = client.post("/predict", json={"rows": [row()]}).json()
    assert (client.get("/readyz").status_code, answer["model"]["version"]) == (200, "1")


def test_a_missing_or_broken_online_store_is_an_error(home, client, row):
    for path in home.glob("online.db*"):
        path.write_bytes(b"no database" * 1_000)
    broken = client.post("/predict", json={"rows": [row()]})

    assert broken.status_code == 503
    assert logged() == []


def test_a_view_that_is_dropped_makes_the_server_unready(home, client, row):
    with sqlite3.connect(home / "online.db") as connection:
        (place,) = connection.execute(
            "DELETE FROM places WHERE name = 'depot_deliveries' RETURNING place"
        ).fetchone()
        connection.execute(f'DROP TABLE "{place}"')
    wait_for(lambda: client.get("/readyz").status_code == 503)

    refused = client.post("/predict", json={"rows": [row()]})
    assert (refused.status_code, refused.json()["error"]) == (503, "NotBuilt")
    assert "depot_deliveries" in refused.json()["message"]


def test_a_prediction_that_cannot_be_logged_is_not_returned(home, client, row):
    (home / "predictions").write_text("a file where a folder belongs")

    response = client.post("/predict", json={"rows": [row()]})

    assert (response.status_code, response.json()["error"]) == (503, "DataFolderError")
    assert "probability" not in response.text


def test_requests_at_the_same_time_are_all_answered_and_logged_once(client, row):
    answers = []

    def ask(size):
        answers.append(client.post("/predict", json={"rows": [row(parcel=size)] * size}).json())

    threads = [threading.Thread(target=ask, args=(size,)) for size in (1, 2, 33, 40, 1, 100, 3, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    given = [each["prediction_id"] for answer in answers for each in answer["predictions"]]
    assert len(set(given)) == len(given) == 240
    assert sorted(given) == sorted(each.prediction_id for each in logged())


def test_the_documentation_types_a_row_and_its_example_works(client):
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]

    row = schemas["ParcelLatenessRow"]
    assert row["required"] == ["courier", "route", "promised", "weight_grams"]
    assert row["properties"]["promised"]["format"] == "date-time"
    assert row["properties"]["route"]["type"] == "integer"
    assert row["additionalProperties"] is False
    assert {"Answer", "Prediction", "Problem"} <= set(schemas)
    # A regression has no probability, and a classification has only a probability.
    assert not {"probability", "prediction", "decision"} & set(schemas["Prediction"]["required"])
    example = schemas["ParcelLatenessRequest"]["example"]
    response = client.post("/predict", json=example)
    assert response.status_code == 200
    assert response.json()["predictions"][0]["unknown"] == []


def test_the_documentation_page_loads_from_this_server_only(client):
    page = client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'; connect-src 'self'" in page.headers["content-security-policy"]
    assert "//" not in re.sub(r"^\s*//.*$", "", page.text, flags=re.MULTILINE)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page.text)) == {"data:,", "openapi.json"}


def test_every_reference_of_the_documentation_resolves(clients):
    document = clients.get("/openapi.json").json()
    text = json.dumps(document)

    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= set(document["components"]["schemas"])


def test_the_other_endpoints_answer(client, clients):
    assert client.get("/").json()["documentation"] == "/docs"
    assert client.get("/model").json()["version"] == "1"
    assert clients.get("/model", params={"use_case": "parcel_delay"}).json()["task"] == "regression"
    assert clients.get("/model").status_code == 422
    assert (
        clients.get("/model", params={"use_case": "parcel_dely"})
        .json()["message"]
        .endswith("Did you mean 'parcel_delay'? Known: parcel_delay, parcel_lateness.")
    )
    assert client.get("/nowhere").status_code == 404
    assert client.get("/predict").status_code == 405
