"""The platform knows no domain: another one runs through all stages, also without `flights`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from orchestration.cli import main

ROOT = Path(__file__).parent.parent


def answer(capsys, *arguments, code=0):
    """What a command prints as JSON."""
    capsys.readouterr()
    assert main([*arguments, "--json"]) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_a_domain_of_one_csv_runs_through_all_stages_with_json_output(shop, capsys):
    built = answer(capsys, "features", "build", "shop")
    assert built["sources"][0]["rows_in"] == 730 * 12
    assert {view["view"]: view["rows"] for view in built["views"]}["shop_sales"] == 700 * 12

    assert answer(capsys, "features", "quarantine", "shop", "sales") == []

    applied = answer(capsys, "features", "apply")
    assert (applied["domains"], applied["feature_services"], applied["removed"]) == (
        ["shop"],
        ["next_sales_v1"],
        [],
    )

    online = answer(capsys, "features", "materialize", "shop")
    assert {view["view"]: view["records"] for view in online} == {"shop_sales": 12, "last_day": 12}

    trained = answer(capsys, "train", "next_sales")
    card = trained["card"]
    assert trained["promoted"]
    assert card["metrics"]["test"]["r2"] > 0.8
    assert card["metrics"]["test"]["rmse"] < card["baselines"]["mean"]["test"]["rmse"]
    assert card["training_set"]["tables"].keys() == {
        "shop.mornings",
        "shop.takings",
        "shop_sales",
        "last_day",
    }

    assert answer(capsys, "card", "next_sales") == card
    assert answer(capsys, "training-set", "next_sales").keys() == card["training_set"].keys()
    assert answer(capsys, "rollback", "next_sales", "--to", "1") == {
        "use_case": "next_sales",
        "from": "1",
        "to": "1",
    }

    row = json.dumps({"shop_id": 3, "opens": "2020-12-01T08:00:00Z"})
    predicted = answer(capsys, "predict", "next_sales", "--row", row)
    assert 40_000 < predicted["predictions"][0]["prediction"] < 100_000

    batch = answer(capsys, "batch", "next_sales")
    assert pq.read_table(batch["path"]).num_rows == 12

    monitored = answer(capsys, "monitor", "next_sales")
    assert monitored["use_case"] == "next_sales"

    status = answer(capsys, "status")
    assert status["champion"]["version"] == card["version"]
    assert status["views"]["shop_sales"]["online_rows"] == 12


def test_a_run_that_is_late_by_the_wall_clock_reports_what_it_missed(built_shop, capsys):
    # Each view is promised at 01:00; the second run is for midnight too and starts at 09:00.
    answer(capsys, "features", "materialize", "shop")
    missed = []
    for day, clock in (("2020-12-02", []), ("2020-12-03", ["--clock", "2020-12-03T09:00Z"])):
        answer(capsys, "features", "build", "shop", "--as-of", day)
        missed.append(
            {
                view["view"]: view["missed"]
                for view in answer(
                    capsys, "features", "materialize", "shop", "--as-of", day, *clock
                )
            }
        )
    assert missed == [{"shop_sales": 0, "last_day": 0}, {"shop_sales": 12, "last_day": 12}]


def test_the_platform_works_without_the_flights(shop, tmp_path):
    project = tmp_path / "project"
    for package in (
        "feature_repo",
        "stores",
        "pipelines",
        "training",
        "inference",
        "orchestration",
    ):
        shutil.copytree(
            ROOT / package, project / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.rmtree(project / "feature_repo" / "flights")
    environment = {**os.environ, "PYTHONPATH": str(project)}

    def punctual(*arguments):
        command = [sys.executable, "-m", "orchestration.cli", *arguments]
        return subprocess.run(
            command, env=environment, cwd=project, capture_output=True, text=True, timeout=120
        )

    built = punctual("features", "build", "shop", "--json")
    assert built.returncode == 0, built.stderr
    assert str(project) in punctual_file(environment, project)
    missing = punctual(
        "features", "build", "flights", "--repository", str(project / "feature_repo")
    )
    assert missing.returncode == 2
    assert "UnknownDomain: no domain 'flights' in feature_repo/. Known: none." in missing.stderr


def punctual_file(environment, project):
    """The path of the platform that a child process imports."""
    command = [sys.executable, "-c", "import feature_repo; print(feature_repo.__file__)"]
    return subprocess.run(
        command, env=environment, cwd=project, capture_output=True, text=True, check=True
    ).stdout
