"""The benchmark of start-up on the shop domain, with one run of each command."""

import json

from benchmarks import start_up


def test_commands_are_measured_on_a_copy_and_the_last_line_is_json(built_shop, capsys):
    manifest = (built_shop / "tables" / "manifest.db").read_bytes()
    commands = ["help", "status", "build_nothing_new", "build_one_hour"]
    asked = [word for name in commands for word in ("--command", name)]
    options = ["--home", str(built_shop), "--domain", "shop", "--repetitions", "1"]

    assert start_up.main([*options, *asked]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "### start_up"
    assert any(line.startswith("| build_one_hour ") for line in lines)
    measured = json.loads(lines[-1])["cases"]["start_up"]
    assert list(measured) == commands
    for name, one in measured.items():
        assert one["cpu_seconds"] > 0
        assert 0 < one["fastest"] <= one["seconds"]
        assert one["peak_mb"] > 0
        assert one["limit_cpu_s"] == start_up.LIMITS[name]
    # The benchmark works on a copy of the data folder.
    assert (built_shop / "tables" / "manifest.db").read_bytes() == manifest


def test_a_command_that_fails_ends_the_run_with_its_message(built_shop, capsys):
    options = ["--home", str(built_shop), "--domain", "shops", "--command", "build_nothing_new"]

    assert start_up.main(options) == 2

    said = capsys.readouterr()
    assert "no domain 'shops'" in said.err
    assert '{"cases"' not in said.out
