"""What all command lines do with options, exit codes and exceptions."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import click
import pytest

from orchestration.cli import COMMANDS, ROOT, main
from punctual.command_line import Command, common_options, run
from punctual.errors import AlreadyRunning, GateRefused, NotBuilt, PunctualError, exit_code_of


def command_of(words):
    """The click command behind the words."""
    found, context = ROOT, click.Context(ROOT)
    for word in words:
        found = found.get_command(context, word)
    return found


def options():
    """(words, option) for each option of each command except --help."""
    return [
        pytest.param(words, option, id=f"{' '.join(words)} {option.opts[-1]}")
        for words in COMMANDS
        for option in command_of(words).params
        if isinstance(option, click.Option)
    ]


@pytest.mark.parametrize(("words", "option"), options())
def test_an_option_given_twice_counts_twice_or_is_refused(words, option, capsys):
    name = option.opts[-1]
    once = [name] if option.is_flag else [name, "1"]
    if option.multiple:
        return
    assert main([*words, *once, *once]) == 2
    assert f"Error: {name} is given twice; expected once." in capsys.readouterr().err


@pytest.mark.parametrize(("words", "option"), options())
def test_an_option_with_an_empty_value_is_refused(words, option, capsys):
    if option.is_flag:
        return
    assert main([*words, option.opts[-1], ""]) == 2
    assert f"Error: {option.opts[-1]} has an empty value." in capsys.readouterr().err


def test_the_home_may_be_given_before_the_command_and_not_twice(tmp_path, capsys):
    assert main(["--home", str(tmp_path), "steps", "--json"]) == 0
    assert main(["--home", str(tmp_path), "steps", "--home", str(tmp_path)]) == 2
    assert "--home is given twice; expected once." in capsys.readouterr().err


def raising(error):
    """A command that raises an exception."""

    def end(home):
        raise error

    return click.command("end", cls=Command)(common_options(end))


class Locked(PunctualError):
    """An error defined in another module than punctual.errors."""

    exit_code = AlreadyRunning.exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PunctualError("no such domain."), 2),
        (GateRefused("challenger 7 is worse."), 3),
        (NotBuilt("built until yesterday."), 75),
        (Locked("try again."), 75),
    ],
)
def test_an_error_has_its_exit_code_in_any_module(home, error, code, capsys):
    assert run(raising(error), []) == code
    assert capsys.readouterr().err == f"{error}\n"


def test_an_unexpected_exception_gives_one_sentence_and_logs_its_traceback(home, capsys):
    assert run(raising(OverflowError("date value\nout of range")), ["--home", str(home)]) == 70
    [log] = (home / "logs").glob("crash-*.log")
    assert capsys.readouterr().err == (
        "UnexpectedError: OverflowError: date value out of range. This is a fault of Punctual, not"
        f" of what was typed. The traceback is in {log}; report that file.\n"
    )
    text = log.read_text()
    assert text.startswith(f"$ end --home {home}\n")
    assert "Traceback (most recent call last)" in text and "in end" in text


def test_without_a_writable_data_folder_the_traceback_is_in_the_temporary_folder(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "logs").write_text("a file")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    assert run(raising(KeyError("x")), ["--home", str(tmp_path / "home")]) == 70
    [log] = (tmp_path / "elsewhere").glob("crash-*.log")
    assert str(log) in capsys.readouterr().err


def test_a_database_that_another_process_has_locked_is_a_temporary_failure(tmp_path, home, capsys):
    path = tmp_path / "locked.db"
    with closing(sqlite3.connect(path)) as holder:
        holder.execute("BEGIN EXCLUSIVE")

        def write(home):
            with closing(sqlite3.connect(path, timeout=0)) as other:
                other.execute("CREATE TABLE trips (id INTEGER)")

        assert run(click.command("write", cls=Command)(common_options(write)), []) == 75
        assert "is locked by another process. Try again." in capsys.readouterr().err
        with closing(sqlite3.connect(path, timeout=0)) as other:
            try:
                try:
                    other.execute("CREATE TABLE trips (id INTEGER)")
                except sqlite3.Error as error:
                    raise PunctualError("the model registry cannot be written.") from error
            except PunctualError as error:
                assert exit_code_of(error) == 75


def test_a_full_disk_gives_exit_code_2_anywhere(home, capsys):
    def write(home):
        with Path("/dev/full").open("w") as full:
            full.write("x")

    assert run(click.command("write", cls=Command)(common_options(write)), []) == 2
    assert capsys.readouterr().err.startswith("DataFolderError: No space left on device: ")


@pytest.mark.parametrize("kind", ["file", "below a file", "broken link"])
def test_a_home_that_cannot_be_a_folder_is_refused(tmp_path, kind, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "at all")
    path = tmp_path / {"file": "file", "below a file": "file/home", "broken link": "link"}[kind]
    for command in (["features", "build", "flights"], ["status"], ["up", "--port", "1"]):
        assert main([*command, "--home", str(path)]) == 2
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert said.err.startswith("DataFolderError: ")


def test_a_repository_that_is_not_a_folder_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "nowhere"):
        assert main(["steps", "--repository", str(path)]) == 2
        assert "is not a folder. Choose another --repository." in capsys.readouterr().err


def punctual(*arguments, **options):
    command = [sys.executable, "-m", "orchestration.cli", *arguments]
    return subprocess.run(command, capture_output=True, timeout=120, check=False, **options)


def test_an_argument_that_is_not_utf_8_is_refused():
    done = punctual(b"features", b"build", b"\xff\xfe")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"Error: the argument '\\udcff\\udcfe' is not UTF-8 text.\n"


def test_a_closed_pipe_gives_no_traceback():
    command = [sys.executable, "-m", "orchestration.cli", "steps", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as shown:
        shown.stdout.close()
        said = shown.stderr.read()
    assert (shown.returncode, said) == (141, b"")
