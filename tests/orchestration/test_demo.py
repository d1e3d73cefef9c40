"""The requests that the demo predicts."""

from datetime import timedelta

from orchestration.demo import SHOWN, _latest_requests
from pipelines.build import build
from punctual.home import Home
from punctual.progress import Progress
from punctual.repository import find_use_case
from punctual.times import moment

NOW = moment("2020-12-01T06:00Z")


def test_the_demo_asks_once_for_a_corrected_request_and_never_for_a_withdrawn_one(
    built_shop,
):
    domain, use_case = find_use_case(Home.at(), "next_sales")
    asked = _latest_requests(domain, use_case, NOW)
    assert [row["shop_id"] for row in asked] == [*range(SHOWN, 0, -1)]

    path = built_shop / "raw" / "sales.csv"
    lines = path.read_text().splitlines()
    day = f"{NOW:%Y-%m-%d}"
    (corrected,) = (n for n, line in enumerate(lines) if line.startswith(f"3,{day},"))
    (withdrawn,) = (n for n, line in enumerate(lines) if line.startswith(f"5,{day},"))
    before = lines[corrected].rsplit(",", 1)[1]
    lines[corrected] = f"3,{day},1,{'false' if before == 'true' else 'true'}"
    del lines[withdrawn]
    path.write_text("\n".join(lines) + "\n")
    later = NOW + timedelta(hours=1)
    build(domain, later, Progress(quiet=True))

    shops = [
        row["shop_id"]
        for row in _latest_requests(domain, use_case, later)
        if f"{row['day']}" == day
    ]
    assert shops == [12, 11, 10, 9, 8, 7, 6, 4, 3, 2, 1]
