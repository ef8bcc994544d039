"""`audit publish`: what it says of a publication, and of one that was refused."""

import json
from pathlib import Path

import pytest

from audit.events.payloads import StoreFacts
from audit.ledger.tiles import read_published
from audit.store import read
from audit.store.append import append
from audit.store.engine import AuditStore
from tests.audit.cli.conftest import Audit, an_event


@pytest.fixture
def sealed(store: AuditStore, audit: Audit) -> AuditStore:
    assert audit("seal").returncode == 0
    return store


def test_the_log_is_published_and_what_is_not_sealed_is_told(sealed: AuditStore, audit: Audit, tmp_path: Path) -> None:
    append(sealed, [an_event("store.opened", StoreFacts())])
    shown = audit("publish", str(tmp_path / "the log"))
    assert (shown.returncode, shown.stderr) == (0, "")
    done, waits = shown.stdout.splitlines()
    assert done == f"published · checkpoint of size 3 · 5 files · {tmp_path / 'the log'}"
    assert waits == "1 event is not sealed and so not published: see `audit seal`"
    assert read_published(str(tmp_path / "the log")).splitlines()[1] == "3"


def test_the_place_may_stand_in_the_environment(sealed: AuditStore, audit: Audit, tmp_path: Path) -> None:
    named = {"AUDIT_PUBLISH_URL": str(tmp_path / "log")}
    first = json.loads(audit("publish", "--json", **named).stdout)
    (told,) = read.events(sealed, types=("checkpoint.published",))
    assert first == {
        "size": 3, "was": 0, "files": 5, "to": str(tmp_path / "log"), "unsealed": 0, "event": told.id,
    }  # fmt: skip
    again = audit("publish", **named)
    assert again.stdout == f"nothing new · the checkpoint of size 3 is at {tmp_path / 'log'} already\n"
    assert json.loads(audit("publish", "--json", **named).stdout)["event"] is None


def test_growth_is_told(sealed: AuditStore, audit: Audit, tmp_path: Path) -> None:
    audit("publish", str(tmp_path / "log"))
    append(sealed, [an_event("store.opened", StoreFacts())])
    audit("seal")
    shown = audit("publish", str(tmp_path / "log")).stdout
    assert "checkpoint of size 6, 3 events more than before · 4 files" in shown


def test_without_a_place_none_is_guessed(sealed: AuditStore, audit: Audit) -> None:
    shown = audit("publish")
    assert shown.returncode == 1 and "AUDIT_PUBLISH_URL" in shown.stderr


def test_nothing_sealed_is_nothing_to_publish(store: AuditStore, audit: Audit, tmp_path: Path) -> None:
    shown = audit("publish", str(tmp_path / "log"))
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == "Nothing is sealed yet, so there is nothing to publish. Run `audit seal`.\n"


def test_somebody_elses_log_is_exit_code_1(sealed: AuditStore, audit: Audit, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "checkpoint").write_text("other.example\n1\n" + "A" * 43 + "=\n\n— other.example AAAAAAAA\n")
    shown = audit("publish", str(tmp_path / "log"))
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "is of another log, other.example" in shown.stderr and shown.stderr.count("\n") == 1


def test_a_file_that_is_no_checkpoint_is_left_and_named(sealed: AuditStore, audit: Audit, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "checkpoint").write_text("my notes\n")
    shown = audit("publish", str(tmp_path / "log"))
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (1, "", 1)
    assert "of a published log holds its signed head, and this one does not. Nothing is written" in shown.stderr
    assert [(file.name, file.read_text()) for file in (tmp_path / "log").iterdir()] == [("checkpoint", "my notes\n")]


def test_a_place_that_cannot_be_reached_is_exit_code_2_and_shows_no_secret(sealed: AuditStore, audit: Audit) -> None:
    shown = audit("publish", "nothing-known://ann:secret@host/log?sig=secret")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert "nothing-known://host/log" in shown.stderr and "secret" not in shown.stderr
    assert shown.stderr.count("\n") == 1
