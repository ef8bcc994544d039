"""The command as a whole: quick, quiet, and in one line where something is wrong."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from audit.cli.app import app
from audit.store.engine import NO_STORE_HINT
from tests.audit.cli.conftest import Audit, Day

HEAVY = ("prefect", "sqlmodel", "polars", "pandas", "sklearn", "alembic", "great_expectations", "evidently")
COMMANDS = (
    [], ["init"], ["status"], ["runs"], ["run"], ["events"], ["tail"], ["models"], ["datasets"], ["alerts"],
    ["approve"], ["seal"], ["log-key"], ["publish"], ["prove"], ["export"],
    ["verify"], ["reconcile"], ["completeness"], ["anchor"],
    ["spool"], ["spool", "flush"],
    ["spec"], ["spec", "check"],
    ["retention"], ["retention", "run"], ["retention", "status"],
    ["hold"], ["hold", "add"], ["hold", "list"], ["hold", "release"],
)  # fmt: skip
READERS = (
    ["runs"], ["run", "abcd"], ["events"], ["tail"], ["models"], ["datasets"], ["alerts"],
    ["seal"], ["seal", "--watch"], ["publish", "log"], ["log-key"], ["log-key", "--rotate"],
    ["prove", "abcd"], ["export", "-o", "bundle.zip"], ["reconcile"], ["completeness"], ["spool", "flush"],
    ["log-key", "--lost", "--reason", "disk gone", "--yes"],
)  # fmt: skip


def imported_by(*words: str) -> set[str]:
    """Top-level packages that a command imports, in a process of its own."""
    asked = (
        "import sys, atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
        "from audit.cli.app import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", asked, *words], capture_output=True, text=True, timeout=60, check=True)
    return {name.partition(".")[0] for name in done.stderr.split()}


def test_help_imports_nothing_heavy(home: Path) -> None:
    assert imported_by("--help").isdisjoint((*HEAVY, "sqlalchemy", "pydantic", "rich"))


@pytest.mark.usefixtures("day")
def test_status_imports_nothing_heavy() -> None:
    loaded = imported_by("status")

    assert "sqlalchemy" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_help_has_an_example(words: list[str], audit: Audit) -> None:
    shown = audit(*words, "--help")

    assert shown.returncode == 0
    assert f"Example: audit {' '.join(words)}".rstrip() in shown.stdout


def test_the_list_of_commands_above_is_complete() -> None:
    registered = {
        command.callback.__name__.replace("_", "-") for command in app.registered_commands if command.callback
    }

    groups = {str(group.name) for group in app.registered_groups}
    assert registered | groups == {words[0] for words in COMMANDS if words}


def test_version_is_the_package_s(audit: Audit) -> None:
    from importlib.metadata import version

    assert audit("--version").stdout == f"prefect-audit {version('prefect-audit')}\n"


@pytest.mark.parametrize("words", READERS, ids=" ".join)
def test_no_store_is_exit_code_2_and_none_is_made(words: list[str], audit: Audit, home: Path) -> None:
    refused = audit(*words)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"There is no audit store at {home / 'audit.db'}. {NO_STORE_HINT}\n"
    assert not home.exists()


def test_another_kind_of_database_is_refused_in_one_line(audit: Audit) -> None:
    refused = audit("runs", AUDIT_DATABASE_URL="mysql://me:secret@db/audit")

    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "secret" not in refused.stderr


def test_a_database_of_somebody_else_is_refused(audit: Audit, home: Path) -> None:
    import sqlite3

    home.mkdir()
    with sqlite3.connect(home / "audit.db") as other:
        other.execute("CREATE TABLE customer (id)")

    refused = audit("runs")

    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "another application" in refused.stderr


@pytest.mark.usefixtures("day")
@pytest.mark.parametrize("words", [["status"], ["runs"], ["events"], ["models"], ["datasets"]], ids=" ".join)
def test_a_pipe_gets_no_escape_codes_and_no_trailing_blanks(words: list[str], audit: Audit) -> None:
    shown = audit(*words, COLUMNS="40").stdout

    assert shown
    assert "\x1b" not in shown
    assert all(line == line.rstrip() for line in shown.splitlines())


def on_a_terminal(*words: str, **environ: str) -> str:
    """What the command writes to a pseudo-terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "audit", *words]
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    with subprocess.Popen(command, stdout=theirs, env={**plain, "TERM": "xterm-256color", **environ}):
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65_536):
                shown += piece
        except OSError:  # Linux's way to say that the other end is closed
            pass
    os.close(ours)
    return shown.decode()


def test_a_terminal_gets_colours_unless_they_are_unwanted(day: Day) -> None:
    assert "\x1b[32mcompleted" in on_a_terminal("runs")
    assert "\x1b[32m" not in on_a_terminal("runs", NO_COLOR="1")


def test_a_narrow_terminal_wraps_names_and_never_ids_or_times(day: Day) -> None:
    shown = on_a_terminal("runs", COLUMNS="80", NO_COLOR="1")

    assert day.training.id[-8:] in shown
    assert "2026-11-24 21:04:02    12.4 s" in shown
    assert max(len(line) for line in shown.splitlines() if "\x1b" not in line) == 80


@pytest.mark.usefixtures("day")
@pytest.mark.parametrize(
    "words", [["status"], ["runs"], ["models"], ["datasets"], ["init"], ["seal"], ["log-key"]], ids=" ".join
)
def test_json_is_one_document_and_nothing_else(words: list[str], audit: Audit) -> None:
    shown = audit(*words, "--json")

    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("words", [["runs"], ["models"], ["datasets"]], ids=" ".join)
def test_json_of_nothing_is_an_empty_list(words: list[str], audit: Audit) -> None:
    assert json.loads(audit(*words, "--json").stdout) == []


@pytest.mark.usefixtures("day")
def test_a_reader_that_goes_away_is_no_error(audit: Audit) -> None:
    piped = f"{sys.executable} -m audit events --json --limit 0 | head -c 10"

    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, timeout=60, check=False)

    assert (len(done.stdout), done.stderr) == (10, "")


@pytest.mark.usefixtures("day")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("status > /dev/full", 2, "Standard output cannot be written (No space left on device).\n"),
        ("events --json > /dev/full", 2, "Standard output cannot be written (No space left on device).\n"),
        ("verify >&-", 2, "Standard output is closed, so nothing is done.\n"),
        ("status 2>&-", 0, ""),
        ("events | true", 141, ""),
    ],
)
def test_output_that_goes_nowhere_is_one_line_at_most(words: str, code: int, said: str, unbuffered: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m audit {words}"],
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.usefixtures("store")
def test_too_few_characters_of_an_id_are_refused(audit: Audit) -> None:
    refused = audit("prove", "abc")

    assert (refused.returncode, refused.stderr) == (1, "'abc' is too short for an id. Give at least 4 characters.\n")


@pytest.mark.usefixtures("day")
def test_output_that_is_not_utf_8_loses_signs_not_the_answer(audit: Audit) -> None:
    shown = audit("runs", PYTHONIOENCODING="ascii")

    assert shown.returncode == 0
    assert "training flights 2013-01?06" in shown.stdout


def test_python_m_audit_and_the_script_are_one(audit_process: Audit) -> None:
    script = Path(sys.executable).with_name("audit")

    by_script = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=60, check=True)

    assert by_script.stdout == audit_process("--help").stdout.replace("python -m audit", "audit")


def test_a_failure_in_a_process_of_its_own_is_one_line_and_exit_code_2(audit_process: Audit, home: Path) -> None:
    refused = audit_process("runs")

    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)


def test_an_error_that_nobody_foresaw_keeps_its_traceback(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    from audit.cli import store

    monkeypatch.setattr(store, "status_of", lambda _: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        audit("status")
