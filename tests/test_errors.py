"""Mistakes of users: a clear error, exit code 2, no traceback, and nothing lost."""

import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.cli import COMMANDS, main
from punctual.errors import ExitCode
from stores.tables import Manifest


def complaint(capsys, *arguments):
    """What a failing command prints on standard error."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return said.err


def sales(home):
    return home / "raw" / "sales.csv"


def tables(home):
    """The number of rows of each table."""
    manifest = Manifest(home / "tables")
    return {
        name: sum(file.rows for file in manifest.files(manifest.current(name)))
        for name in manifest.names()
    }


def test_a_misspelt_domain_gets_a_suggestion(shop, capsys):
    assert (
        complaint(capsys, "features", "build", "shpo")
        == "UnknownDomain: no domain 'shpo' in repository/. Did you mean 'shop'? Known: shop.\n"
    )


def test_a_misspelt_use_case_gets_a_suggestion(shop, capsys):
    expected = (
        "UnknownUseCase: no use case 'nextsales' in repository/. Did you mean 'next_sales'?"
        " Known: next_sales.\n"
    )
    for command in ("train", "batch", "monitor", "rollback", "card"):
        assert complaint(capsys, command, "nextsales") == expected


def test_a_misspelt_command_gets_a_suggestion(capsys):
    assert (
        "no command 'trian' in punctual. Did you mean 'train'? Known: batch, card, demo"
        in complaint(capsys, "trian", "next_sales")
    )
    assert "no command 'biuld' in punctual features. Did you mean 'build'?" in complaint(
        capsys, "features", "biuld"
    )


def test_a_missing_column_is_named_with_what_was_expected_and_the_tables_stay(built_shop, capsys):
    before = tables(built_shop)
    sales(built_shop).write_text("shop_id,day,euros\n1,2020-12-01,17\n")
    said = complaint(capsys, "features", "build", "shop", "--as-of", "2020-12-02")
    assert said.startswith("BrokenSource: source 'sales':")
    assert (
        "lacks column cents, is_promotion; it has shop_id, day, euros. Expected: shop_id BIGINT,"
        " day DATE" in said
    )
    assert tables(built_shop) == before


def test_damaged_empty_and_missing_files_are_reported(shop, capsys):
    sales(shop).write_bytes(bytes(range(256)) * 100)
    assert "BrokenSource: source 'sales'" in complaint(capsys, "features", "build", "shop")
    sales(shop).write_text("")
    assert "it has no columns" in complaint(capsys, "features", "build", "shop")
    sales(shop).write_text("shop_id,day,cents,is_promotion\n")
    assert "has a header and no rows" in complaint(capsys, "features", "build", "shop")
    sales(shop).unlink()
    assert "does not exist" in complaint(capsys, "features", "build", "shop")
    assert tables(shop) == {}


def test_a_column_of_another_type_stops_the_run(shop, capsys):
    sales(shop).write_text(
        "shop_id,day,cents,is_promotion\none,2020-01-01,1,true\ntwo,2020-01-02,2,true\n3,2020-01-03,3,true\n"
    )
    said = complaint(capsys, "features", "build", "shop")
    assert (
        "column 'shop_id' is not BIGINT: 2 of 3 values cannot be read as that, such as 'one'"
        in said
    )


def test_a_data_folder_that_is_not_a_folder_is_refused(shop, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    said = complaint(capsys, "--home", str(file / "data"), "features", "materialize", "shop")
    assert said.startswith("DataFolderError:")
    assert "choose another --home" in said


def test_a_full_disk_loses_nothing(built_shop):
    before = tables(built_shop)

    def no_large_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    command = [sys.executable, "-m", "pipelines", "build", "shop", "--as-of", "2020-12-20"]
    with sales(built_shop).open("a") as file:
        file.writelines(f"{shop_id},2020-12-31,{shop_id},false\n" for shop_id in range(13, 30_000))
    full = subprocess.run(
        command, preexec_fn=no_large_files, capture_output=True, text=True, timeout=120
    )
    assert full.returncode == 2, full.stderr
    assert "Traceback" not in full.stderr
    assert "DataFolderError:" in full.stderr
    assert tables(built_shop) == before
    freed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert freed.returncode == 0, freed.stderr


def test_a_port_in_use_is_reported_before_anything_is_loaded(shop, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for command in (["serve"], ["up"], ["demo"]):
            said = complaint(capsys, *command, "--port", port)
            assert said.startswith("PortInUse:")
            assert port in said


def test_without_a_champion_the_error_says_to_train(built_shop, capsys):
    for command in (
        ["card", "next_sales"],
        ["rollback", "next_sales"],
        ["batch", "next_sales"],
        ["monitor", "next_sales"],
    ):
        said = complaint(capsys, *command)
        assert said.startswith("NoChampion:")
        assert "punctual train next_sales" in said


def test_a_damaged_model_registry_is_named_with_the_remedy(shop, capsys):
    shop.joinpath("mlflow.db").write_text("this is no database, " * 100)
    for command in (["card", "next_sales"], ["rollback", "next_sales"]):
        said = complaint(capsys, *command)
        assert said.startswith("BrokenRegistry: the model registry sqlite:///")
        assert "cannot be read: file is not a database. Restore it, or move it away" in said
    # Everything else is still shown.
    assert main(["status"]) == 0
    assert "BrokenRegistry: the model registry" in capsys.readouterr().out


def test_a_store_older_than_the_definitions_is_refused_until_it_is_built_again(
    built_shop, tmp_path, capsys, monkeypatch
):
    assert main(["features", "materialize", "shop"]) == 0
    repository = tmp_path / "changed"
    (tmp_path / "repository").rename(repository)
    path = repository / "shop" / "shop.py"
    path.write_text(path.read_text().replace('over=("7d", "28d")', 'over=("7d", "14d")'))
    monkeypatch.setenv("PUNCTUAL_REPOSITORY", str(repository))
    for command in (["features", "materialize", "shop"], ["train", "next_sales"]):
        said = complaint(capsys, *command)
        assert (
            "StoreOutdated: table 'shop_sales' was built from another definition; run: punctual"
            " features build" in said
        )
    assert main(["features", "build", "shop"]) == 0
    assert main(["features", "materialize", "shop"]) == 0


def test_all_problems_of_a_declaration_are_reported(shop, tmp_path, capsys):
    path = tmp_path / "repository" / "shop" / "use_case.py"
    text = path.read_text().replace('"next_sales_v1"', '"next_sales_v2"')
    path.write_text(text)
    shop_py = tmp_path / "repository" / "shop" / "shop.py"
    shop_py.write_text(
        shop_py.read_text().replace('std("cents", over=("28d",)', 'std("pence", over=("25h",)')
    )
    said = complaint(capsys, "features", "build", "shop")
    assert said.startswith("InvalidDeclaration: domain 'shop' has 3 problems:")
    assert "no feature service 'next_sales_v2' in shop. Did you mean 'next_sales_v1'?" in said
    assert "no column 'pence' in events of 'closed_days'" in said
    assert "a window must be a multiple of its grid" in said


def test_a_time_without_a_zone_is_refused(shop, capsys):
    assert "NaiveTimestamp: 2020-12-01T06:00:00 has no time zone" in complaint(
        capsys, "features", "build", "shop", "--as-of", "2020-12-01T06:00"
    )
    assert "InvalidTime: 'yesterday' is not a timestamp" in complaint(
        capsys, "features", "build", "shop", "--as-of", "yesterday"
    )


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(words, capsys):
    assert main([*words, "--help"]) == 0
    said = capsys.readouterr().out
    assert "Example:" in said
    assert "--home" in said


# Commands that run until they are stopped, and Feast's own.
REPORT_NOTHING = {("serve",), ("up",), ("feast",)}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_reporting_command_has_a_json_option(words, capsys):
    assert main([*words, "--help"]) == 0
    assert ("--json" in capsys.readouterr().out) is (words not in REPORT_NOTHING)


def test_the_help_of_punctual_is_the_reviewed_one(capsys):
    assert main(["--help"]) == 0
    assert (
        capsys.readouterr().out
        == (Path(__file__).parent / "golden" / "punctual_help.txt").read_text()
    )


OF_A_MODEL = ("batch", "card", "monitor", "rollback")
FIRST_BUILD = "punctual features build"
FIRST_TRAIN = "punctual train next_sales"
KEYS = ["--key", "shop_id=3", "--key", "opens=2020-12-01T08:00Z"]


@pytest.mark.parametrize(
    ("words", "then"),
    [
        (["features", "materialize", "shop"], FIRST_BUILD),
        (["features", "quarantine", "shop", "sales"], FIRST_BUILD),
        (["training-set", "next_sales"], FIRST_BUILD),
        (["train", "next_sales"], FIRST_BUILD),
        *(([name, "next_sales"], FIRST_TRAIN) for name in OF_A_MODEL),
        (["predict", "next_sales", *KEYS], FIRST_TRAIN),
    ],
    ids=lambda each: " ".join(each[:2]) if isinstance(each, list) else "",
)
def test_a_command_out_of_order_names_the_command_to_run_first(shop, capsys, words, then):
    # A retry may succeed if a scheduled run has built the missing data meanwhile.
    assert main(words) in (ExitCode.NEEDS_A_PERSON, ExitCode.TRY_AGAIN)
    assert then in capsys.readouterr().err


def test_training_and_batch_need_no_feast_registry(built_shop, capsys):
    assert main(["training-set", "next_sales"]) == 0
    assert main(["train", "next_sales"]) == 0
    assert main(["batch", "next_sales"]) == 0
    assert main(["predict", "next_sales", *KEYS]) == ExitCode.TRY_AGAIN
    assert "run: punctual features build shop and punctual features materialize shop" in (
        capsys.readouterr().err
    )
    assert not (built_shop / "registry.db").exists()
