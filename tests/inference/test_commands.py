"""The command lines: output, exit codes and a quick --help."""

import json
import subprocess
import sys

import pytest

from inference.__main__ import cli, main


def run(capsys, *arguments):
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_helps_with_an_example_and_has_json_where_it_reports(capsys, command):
    code, out, _ = run(capsys, command, "--help")

    assert code == 0
    assert f"Example: python -m inference {command} arrival_delay" in " ".join(out.split())
    assert "--home FOLDER" in out and "--as-of MOMENT" in out
    assert ("--json" in out) is (command != "serve")


def test_help_loads_nothing_heavy():
    program = (
        "import sys; from inference.__main__ import main; main(['predict', '--help']);"
        "print([name for name in ('feast', 'mlflow', 'fastapi', 'xgboost', 'pandas', 'duckdb') if"
        " name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stderr == "[]\n"


def test_a_row_is_predicted_in_process_from_keys_json_or_a_file(home, capsys, row, tmp_path):
    keys = [f"--key={name}={value}" for name, value in row(depot="").items()]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([row(depot=None), row(depot=None, courier="Z")]))

    by_keys = run(capsys, "predict", "parcel_lateness", *keys, "--json")
    by_row = run(
        capsys, "predict", "parcel_lateness", "--row", json.dumps(row(depot=None)), "--json"
    )
    by_file = run(capsys, "predict", "parcel_lateness", "--rows", str(file), "--json")

    assert [code for code, _, _ in (by_keys, by_row, by_file)] == [0, 0, 0]
    answers = [json.loads(out) for _, out, _ in (by_keys, by_row, by_file)]
    first, *others = [answer["predictions"][0]["probability"] for answer in answers]
    assert others == pytest.approx([first] * 2, abs=1e-12)
    assert answers[0]["at"] == "2024-02-20T12:00:00Z"
    assert answers[2]["predictions"][1]["unknown"][0] == {
        "keys": {"courier": "Z"},
        "views": ["courier_deliveries", "last_delivery"],
    }


def test_a_prediction_is_shown_with_its_model_and_feature_statuses(home, capsys, row):
    code, out, err = run(
        capsys, "predict", "parcel_lateness", "--row", json.dumps(row(courier="Z"))
    )

    assert (code, err) == (0, "")
    assert "parcel_lateness, version 1, at 2024-02-20T12:00:00Z; decided at 0.4" in out
    assert "courier Z" in out
    assert "last_delivery" in out and "NOT_FOUND" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["predict", "parcel_latenes", "--row", "{}"],
            "UnknownUseCase: no use case 'parcel_latenes' in repository/. Did you mean"
            " 'parcel_lateness'?",
        ),
        (
            ["predict", "parcel_lateness", "--row", "{}"],
            "InvalidRequest: rows[0].courier is missing; rows[0].route is missing",
        ),
        (["predict", "parcel_lateness", "--row", "{"], "InvalidRequest: --row is not JSON"),
        (["predict", "parcel_lateness", "--row", "5"], "InvalidRequest: --row contains no rows"),
        (["predict", "parcel_lateness", "--row", "[]"], "InvalidRequest: --row contains no rows"),
        (
            ["predict", "parcel_lateness", "--key", "route=two"],
            "rows[0].route is 'two'; expected a valid integer",
        ),
        (
            ["predict", "parcel_lateness", "--key", "route"],
            "--key route has no value; expected NAME=VALUE.",
        ),
        (["predict", "parcel_lateness"], "give the rows with exactly one of"),
        (
            ["predict", "parcel_lateness", "--row", "{}", "--as-of", "yesterday"],
            "InvalidTime: 'yesterday' is not a timestamp",
        ),
        (
            ["batch", "parcel_lateness", "--since", "2024-02-20T12:00"],
            "NaiveTimestamp: 2024-02-20T12:00:00 has no time zone",
        ),
        (
            ["monitor", "parcel_lateness", "--since", "2025-01-01"],
            "InvalidRequest: the period of the report",
        ),
        (["serve", "parcel_los", "--port", "0"], "UnknownUseCase: no use case 'parcel_los'"),
    ],
)
def test_a_wrong_argument_gives_one_sentence_and_exit_code_2(home, capsys, arguments, message):
    code, _, err = run(capsys, *arguments)

    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_a_batch_for_a_time_that_is_not_built_yet_is_a_temporary_failure(home, capsys):
    code, _, err = run(capsys, "batch", "parcel_lateness", "--as-of", "2024-03-01")

    assert code == 75
    assert "NotBuilt: the tables of 'parcel_lateness' are built until 2024-02-20T12:00:00Z" in err


def test_a_batch_reports_what_it_wrote(home, capsys):
    code, out, _ = run(capsys, "batch", "parcel_lateness", "--since", "2024-02-19")
    quiet = run(capsys, "batch", "parcel_lateness", "--since", "2024-02-19", "--quiet")
    as_json = json.loads(
        run(capsys, "batch", "parcel_lateness", "--since", "2024-02-19", "--json")[1]
    )

    assert code == 0
    period = "(2024-02-19T00:00:00Z, 2024-02-20T12:00:00Z]"
    assert out.startswith(
        f"{as_json['rows']} requests of parcel_lateness in {period} by version 1; the mean"
        " prediction is 0."
    )
    assert quiet == (0, out, "")
    assert as_json["path"].endswith("20240219T000000Z-20240220T120000Z-v1.parquet")


def test_monitoring_ends_with_1_where_something_needs_attention(home, capsys):
    fine = run(capsys, "monitor", "parcel_lateness")
    stale = run(capsys, "monitor", "parcel_lateness", "--as-of", "2024-02-20T16:00Z", "--json")

    assert fine[0] == 0 and "Nothing needs attention." in fine[1]
    assert stale[0] == 1 and json.loads(stale[1])["reasons"][0].startswith("4 of 4 views are stale")


def test_without_a_champion_every_command_says_what_to_run(home, capsys, models, row):
    models.dethrone("parcel_lateness")

    for arguments in (
        ["predict", "parcel_lateness", "--row", json.dumps(row())],
        ["batch", "parcel_lateness"],
        ["monitor", "parcel_lateness"],
    ):
        code, _, err = run(capsys, *arguments)
        assert (code, err) == (
            2,
            "NoChampion: use case 'parcel_lateness' has no champion yet; run: punctual train"
            " parcel_lateness.\n",
        )


def test_a_server_of_domains_in_different_times_asks_for_one(home, capsys, built, tmp_path):
    import shutil

    repository = tmp_path / "repository"
    shutil.copytree(built[0], repository)
    text = (repository / "parcels" / "use_case.py").read_text()
    (repository / "letters").mkdir()
    present = text.replace(
        '"parcels", "Parcels of a small carrier", demo_at=datetime(2024, 2, 20, 12, tzinfo=UTC)',
        '"letters", "Letters"',
    )
    assert present != text
    # All domains share one registry, so each view and service needs a name of its own.
    for name in (
        *("courier_deliveries", "depot_deliveries", "route_deliveries", "last_delivery"),
        *("parcel_request_features", "parcels_v1"),
    ):
        present = present.replace(name, f"letters_{name}")
    (repository / "letters" / "use_case.py").write_text(present.replace('"parcel_', '"letter_'))

    code, _, err = run(capsys, "serve", "--port", "0", "--repository", str(repository))

    assert code == 2
    assert (
        "the domains have different demo moments: letters in the present, parcels"
        " 2024-02-20T12:00:00Z. Name the use cases to serve" in " ".join(err.split())
    )
