"""Hostile values for every command: one sentence and an exit code, never a traceback."""

import json
import re

import pytest

from orchestration.cli import main

USE_CASE = "parcel_lateness"
WHOLE = '{"courier":"A","route":1,"promised":"2024-02-21T00:00Z","weight_grams":1'
MOMENTS = [
    "9999-12-31", "0001-01-01", "0001-01-01T00:00+14:00", "9999-12-31T23:59:59-14:00", "2262-01-01",
    "1677-12-31", "1678-01-01", "2261-12-31T23:59:59.999999Z", "2024-02-20T12:00", "yesterday", "",
    "nan", "2024-02-30", "2024-02-20T25:00Z", "\u0662\u0660\u0662\u0664-\u0660\u0662-\u0662\u0660",
]  # fmt: skip
SPEEDS = ["nan", "inf", "-inf", "-1", "1e308", "1e7", "abc", ""]
HOSTS = ["a..b", "", "256.256.256.256", "a" * 300, "\u00e9\u00e9..", "192.0.2.1", "::1::"]
ROWS = [
    "", "{", "[]", "5", "null", '"x"', "[1]", "[[]]", "{}", '{"courier": NaN}', "[1, 2",
    f'{WHOLE},"parcel":"x\\ud83d"}}', f'{WHOLE},"x\\ud83d":1}}', '{"courier":"x\\ud83d"}',
    '{"courier":{"a":["\\ud83d"]}}', f'{WHOLE},"route":1e400}}', f'{WHOLE},"weight_grams":2}}',
    WHOLE.replace('"route":1', '"route":' + "9" * 5000) + "}", "[" * 100_000, '{"a":' * 100_000,
    '{"courier":' + "[" * 500 + "]" * 500 + "}", WHOLE.replace("2024-02-21", "9999-12-31") + "}",
]  # fmt: skip
KEYS = ["=", "x", "=x", "courier", "courier=", "route=1e5", "route=" + "9" * 30, "curier=A", ""]
NAMES = ["", "x", "../parcels", "parcels/..", "\udcff", "a\0b", "-x", "parcels "]
VERSIONS = ["0", "-1", "2", "x", "", "\u00b2", "9" * 40, "champion", "'; drop", "../1"]
URLS = [
    "abc", "http://", "http://127.0.0.1:1", "ftp://x", "http://[::1", "http://127.0.0.1:99999", "",
    "http://a..b/",
]  # fmt: skip
OF_A_MOMENT = [
    ["features", "build", "parcels"],
    ["features", "materialize", "parcels"],
    ["train", USE_CASE],
    ["training-set", USE_CASE],
    ["predict", USE_CASE, "--row", "{}"],
    ["batch", USE_CASE],
    ["monitor", USE_CASE],
    ["status", "--json"],
]
OF_A_NAME = [
    ["features"], ["features", "build"], ["features", "materialize"], ["features", "quarantine"],
    ["features", "erase", "--key", "courier=A"],
    ["train"], ["card"], ["rollback"], ["batch"], ["monitor"], ["training-set"], ["steps"], [],
    ["predict", "--row", "{}"], ["up", "--as-of", "0", "--domain"], ["serve", "--host", "a..b"],
]  # fmt: skip


def calls():
    """The hostile calls by kind; none of them starts a server."""
    for moment in MOMENTS:
        yield from (("moments", [*command, "--as-of", moment]) for command in OF_A_MOMENT)
        yield "moments", ["batch", USE_CASE, "--since", moment]
        yield "moments", ["monitor", USE_CASE, "--since", moment]
        yield "moments", ["train", USE_CASE, "--until", moment]
        yield "moments", ["train", USE_CASE, "--until", f"{moment},{moment},{moment}"]
        yield "moments", ["features", "materialize", "parcels", "--clock", moment]
        yield "moments", ["up", "--as-of", moment, "--speed", "nan"]
    for speed in SPEEDS:
        yield "numbers", ["features", "materialize", "parcels", "--speed", speed]
        yield "numbers", ["serve", "--host", "a..b", "--speed", speed]
        yield "numbers", ["up", "--as-of", "0", "--speed", speed]
    for limit in ("-1", "0", "nan", "1e9", "9" * 20, "", "1.5"):
        yield "numbers", ["features", "quarantine", "parcels", "parcels", "--limit", limit]
    for port in ("99999", "-1", "nan", "", "8400.5", "0x50"):
        yield from (("numbers", [each, "--port", port]) for each in ("serve", "up", "demo"))
    for host in HOSTS:
        yield "names", ["serve", "--port", "0", "--host", host]
    for row in ROWS:
        yield "rows", ["predict", USE_CASE, "--row", row]
        yield "rows", ["predict", "parcel_delay", "--row", f"{WHOLE}}}", "--row", row]
    for key in KEYS:
        yield "rows", ["predict", USE_CASE, "--key", key]
        yield "rows", ["features", "erase", "courier_deliveries", "--key", key]
    for file in ("binary", "folder", "nowhere", "/dev/null", "/proc/self/mem", ""):
        yield "rows", ["predict", USE_CASE, "--rows", file]
    for url in URLS:
        yield "names", ["predict", USE_CASE, "--row", "{}", "--url", url]
    for version in VERSIONS:
        yield "names", ["card", USE_CASE, "--version", version]
        yield "names", ["rollback", USE_CASE, "--to", version]
    for out in ("folder", "nowhere/x.parquet", "binary/x", ""):
        yield "names", ["training-set", USE_CASE, "--out", out]
    for name in NAMES:
        yield from (("names", [*command, name]) for command in OF_A_NAME)
        yield "names", ["features", "quarantine", "parcels", name]


@pytest.mark.parametrize("kind", ["moments", "numbers", "rows", "names"])
def test_a_hostile_value_gives_one_sentence_and_an_exit_code(
    home, tmp_path, monkeypatch, capsys, subtests, kind
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 20)
    for number, (of, arguments) in enumerate(calls()):
        if of != kind:
            continue
        with subtests.test(number=number, arguments=[each[:60] for each in arguments]):
            capsys.readouterr()
            code = main(arguments)
            said = capsys.readouterr()
            assert code in (0, 1, 2, 3, 75)
            assert "Traceback" not in said.out + said.err
            if code in (2, 75):
                assert said.out == ""
                assert re.fullmatch(
                    r"[A-Z]\w+: [^\n]+\n|(Usage: [^\n]+\nTry [^\n]+\n\n)?Error: [^\n]+\n", said.err
                )
    assert not list(home.glob("logs/crash-*"))


def test_a_run_at_the_last_possible_time_leaves_a_usable_data_folder(home, capsys):
    assert main(["up", "--as-of", "9999-12-31"]) == 2
    assert main(["features", "build", "parcels", "--as-of", "2262-01-01"]) == 2
    assert main(["status", "--json"]) == 0
    assert '"as_of": "2024-02-20T12:00:00Z"' in capsys.readouterr().out


def test_two_rows_are_two_predictions(home, row, capsys):
    rows = [f"--row={json.dumps(row(courier=courier))}" for courier in "AB"]
    assert main(["predict", USE_CASE, *rows, "--json"]) == 0
    both = json.loads(capsys.readouterr().out)["predictions"]
    assert main(["predict", USE_CASE, rows[1], "--json"]) == 0
    [second] = json.loads(capsys.readouterr().out)["predictions"]
    first, other = (each["probability"] for each in both)
    assert other == pytest.approx(second["probability"], abs=1e-12)
    assert first != pytest.approx(other, abs=1e-3)


@pytest.mark.parametrize(
    "text", [b"", b"x", b"\xff\x00", b"9" * 40, b"-1e3", b"253402300800000000"]
)
def test_a_damaged_clock_is_named_with_the_remedy_and_reset_by_a_build(home, text, capsys):
    (home / "clock").write_bytes(text)
    for command in (["status"], ["batch", USE_CASE], ["predict", USE_CASE, "--row", "{}"]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"BrokenClock: {home / 'clock'} contains ")
        assert "Set the clock again with --as-of MOMENT on a build, or remove the file" in said
    assert main(["features", "build", "parcels", "--as-of", "2024-02-20T12:00Z", "--quiet"]) == 0
    assert main(["status", "--json"]) == 0


def test_a_rollback_to_the_current_champion_reports_no_change(home, capsys):
    assert main(["rollback", USE_CASE, "--to", "1"]) == 0
    said = capsys.readouterr().out
    assert said == f"Version 1 is already the champion of {USE_CASE}; nothing is changed.\n"
