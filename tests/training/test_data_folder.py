"""Models are in the data folder only: it can be moved, and MLflow's settings stay the user's."""

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from orchestration.cli import main
from punctual.home import Home
from stores.models import aliases
from stores.models.paths import tracking_uri

ROOT = Path(__file__).parents[2]
ROW = json.dumps({"shop_id": 3, "opens": "2020-12-01T08:00:00Z"})


def answer(capsys, *arguments, codes=(0,)):
    capsys.readouterr()
    code = main([*arguments, "--json"])
    shown = capsys.readouterr()
    assert code in codes, shown.err
    return json.loads(shown.out)


def run_child(program, **variables):
    """Runs a program outside the platform; returns the JSON of its last line."""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **variables}, cwd=ROOT, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("copied", [False, True], ids=["moved", "copied"])
def test_a_moved_or_copied_data_folder_works(
    first, trained_once, shop_built_once, shop, tmp_path, capsys, copied
):
    assert main(["features", "materialize", "shop", "--quiet"]) == 0
    gc.collect()  # the last connection to a SQLite file removes what is beside it
    there = tmp_path / "elsewhere" / "home"
    if copied:
        shutil.copytree(shop, there)
        # The original's files become garbage, so that reading one of them fails.
        for path in files(shop):
            path.unlink()
            path.write_bytes(b"of the original")
    else:
        there.parent.mkdir()
        shop.rename(there)
    original = files(shop)
    for path, content in files(there).items():
        for known in (shop, trained_once[0], shop_built_once):
            assert str(known).encode() not in content, path

    at = ("--home", str(there))
    card = answer(capsys, "card", "next_sales", *at)
    predicted = answer(capsys, "predict", "next_sales", "--row", ROW, *at)
    trained = answer(capsys, "train", "next_sales", *at, codes=(0, 2, 3))
    promoted = "2" if trained["promoted"] else "1"
    rolled_back = answer(capsys, "rollback", "next_sales", "--to", "1", *at)

    assert card["run_id"] == first.card.run_id
    assert 40_000 < predicted["predictions"][0]["prediction"] < 100_000
    assert trained["card"]["version"] == "2"
    assert trained["verdict"]["champion"] > 0
    assert rolled_back == {"use_case": "next_sales", "from": promoted, "to": "1"}
    assert files(shop) == original
    assert shop.exists() == copied


def names_of_places():
    """MLflow's environment variables that name a location or a record."""
    import mlflow.environment_variables as variables

    names = re.findall(r'"(_?MLFLOW_\w+)"', Path(variables.__file__).read_text())
    place = re.compile(
        "URI|DIR|PATH|ROOT|TMP|LOCATION|DESTINATION|EXPERIMENT|RUN_ID|WORKSPACE|STORE|MODEL_ID"
        "|TARGET|CONTEXT|HOME"
    )
    found = {name for name in names if place.search(name)}
    assert {"MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME"} <= found
    return {*found, "_MLFLOW_SERVER_ARTIFACT_ROOT", "_MLFLOW_SERVER_FILE_STORE"}


def test_no_mlflow_variable_redirects_a_model(first, tmp_path):
    other = tmp_path / "other"
    hostile = {
        name: f"sqlite:///{other}/{name}.db" if "URI" in name or "STORE" in name else str(other)
        for name in names_of_places()
    }
    hostile |= {
        "MLFLOW_EXPERIMENT_ID": "7", "MLFLOW_RUN_ID": "0" * 32, "MLFLOW_ENABLE_WORKSPACES": "true"
    }  # fmt: skip
    before = set(tmp_path.rglob("*"))
    program = f"""
import json
from orchestration.cli import main
codes = [
    main(["features", "materialize", "shop", "--quiet"]),
    main(["train", "next_sales", "--quiet"]),
    main(["rollback", "next_sales", "--to", "2"]),
    main(["predict", "next_sales", "--row", {ROW!r}]),
]
print(json.dumps(codes))
"""
    codes = run_child(program, **hostile)

    assert codes[0] == codes[2] == codes[3] == 0
    assert aliases(Home.at(), "next_sales") == {"champion": "2", "challenger": "2"}
    assert not other.exists()
    new = {
        path for path in set(tmp_path.rglob("*")) - before if Home.at().folder not in path.parents
    }
    assert {path for path in new if "__pycache__" not in str(path)} == set()


def test_a_program_keeps_its_mlflow_run_environment_and_log_levels(first, tmp_path):
    assert main(["features", "materialize", "shop", "--quiet"]) == 0
    program = f"""
import json, logging, os, sys, warnings
from datetime import UTC, datetime
from orchestration.notebook import Punctual
from punctual.repository import find_use_case

environment = dict(os.environ)
punctual = Punctual({str(Home.at().folder)!r})
opens = datetime(2020, 12, 1, 8, tzinfo=UTC)
predicted = punctual.predict("next_sales", [{{"shop_id": 3, "opens": opens}}])
rows = punctual.training_set("next_sales", as_of="2020-10-01")
imported = [name for name in ("mlflow", "matplotlib") if name in sys.modules]
assert dict(os.environ) == environment

import mlflow
from punctual.progress import Progress
from training.run import train

mlflow.set_tracking_uri("sqlite:///{tmp_path}/mine.db")
mlflow.set_experiment("mine")
mine = mlflow.start_run()

def settings():
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in ("mlflow", "alembic"))]
    return (
        dict(os.environ), mlflow.get_tracking_uri(), mlflow.get_registry_uri(),
        mlflow.active_run().info.run_id, list(warnings.filters),
        [(logger.level, logger.disabled, list(logger.handlers)) for logger in loggers],
    )

before = settings()
domain, use_case = find_use_case(punctual.home, "next_sales")
done = train(
    punctual.store, domain, use_case, as_of=punctual.moment("next_sales"),
    progress=Progress(quiet=True),
)
after = settings()
mlflow.log_param("of", "mine")
mlflow.end_run()
print(json.dumps({{
    "imported": imported, "rows": len(rows), "predictions": len(predicted),
    "changed": [number for number, pair in enumerate(zip(before, after)) if pair[0] != pair[1]],
    "version": done.card.version, "mine": mlflow.get_run(mine.info.run_id).data.params,
    "runs": len(mlflow.search_runs(search_all_experiments=True, output_format="list")),
}}))
"""
    assert run_child(program) == {
        "imported": [], "rows": 7_656, "predictions": 1, "changed": [],
        "version": "2", "mine": {"of": "mine"}, "runs": 1,
    }  # fmt: skip


def test_mlflows_commands_find_runs_metrics_and_files(first, tmp_path):
    # As an installation of the project registers it.
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    (name, target) = next(iter(points["mlflow.artifact_repository"].items()))
    installed = tmp_path / "installed" / "plugin-1.dist-info"
    installed.mkdir(parents=True)
    installed.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    installed.joinpath("entry_points.txt").write_text(
        f"[mlflow.artifact_repository]\n{name} = {target}\n"
    )
    row = first.card.parity_rows[0]
    program = f"""
import json, logging
import mlflow
import pandas as pd

logging.disable(logging.WARNING)
mlflow.set_tracking_uri({tracking_uri(Home.at())!r})
run = mlflow.MlflowClient().get_run({first.card.run_id!r})
model = mlflow.sklearn.load_model("models:/next_sales@champion")
row = pd.DataFrame([{row.features!r}]).astype(float)
print(json.dumps({{
    "files": sorted(file.path for file in mlflow.artifacts.list_artifacts(run_id=run.info.run_id)),
    "card": mlflow.artifacts.load_dict(run.info.artifact_uri + "/model_card.json")["use_case"],
    "mae": run.data.metrics["test.mae"], "depth": run.data.params["max_depth"],
    "prediction": float(model.predict(row)[0]), "status": run.info.status,
}}))
"""
    path = os.pathsep.join([str(installed.parent), str(ROOT), os.environ.get("PYTHONPATH", "")])
    assert run_child(program, PYTHONPATH=path, MLFLOW_ALLOW_PICKLE_DESERIALIZATION="true") == {
        "files": [
            "feature_importance.png", "model", "model_card.json", "predicted_and_true.png",
            "reference.parquet", "test_predictions.parquet",
        ],
        "card": "next_sales", "mae": first.card.metrics["test"].mae, "depth": "6",
        "prediction": row.prediction, "status": "FINISHED",
    }  # fmt: skip
