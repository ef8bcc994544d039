"""`audit init` and `audit status`."""

import json
from pathlib import Path

import pytest

from audit.events.payloads import StoreFacts
from audit.recording import spool
from audit.recording.losses import Losses
from audit.store.append import append
from audit.store.engine import AuditStore
from tests.audit.cli.conftest import Audit, Day, an_event


def test_init_makes_store_key_and_origin_once(audit: Audit, home: Path) -> None:
    first = json.loads(audit("init", "--origin", "acme.example/fraud", "--json").stdout)
    again = json.loads(audit("init", "--json").stdout)

    assert (first["made"], again["made"]) == (True, False)
    assert {**first, "made": False} == again
    assert first["origin"] == "acme.example/fraud"
    assert (home / "keys" / "mask.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("store")
def test_an_origin_cannot_be_changed(audit: Audit) -> None:
    refused = audit("init", "--origin", "other.example/log")

    assert refused.returncode == 1
    assert "origin is acme.example/flights and stays so" in refused.stderr


@pytest.mark.parametrize("origin", ["two words", "a+b", "line\nend"])
def test_an_origin_that_no_checkpoint_could_carry_is_refused(origin: str, audit: Audit, home: Path) -> None:
    refused = audit("init", "--origin", origin)

    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert not home.exists()


def test_status_counts_what_is_on_record(audit: Audit, day: Day, home: Path) -> None:
    found = json.loads(audit("status", "--json").stdout)

    assert (found["flow_runs"], found["task_runs"], found["origin"]) == (2, 4, "acme.example/flights")
    assert found["store"] == str(home / "audit.db")
    assert (found["waiting_in_spool"], found["lost"], found["mask_key_problem"]) == (0, 0, None)
    assert f"{found['events']} events · 2 flow runs · 4 task runs" in audit("status").stdout


def test_status_says_what_waits_and_what_was_lost(audit: Audit, store: AuditStore, home: Path) -> None:
    append(store, [an_event("store.dropped", StoreFacts(count=3)), an_event("store.dropped", StoreFacts(count=4))])
    append(spool.spool(home / "spool.db"), [an_event("store.spooled", StoreFacts(reason="disk full"))])

    shown = audit("status").stdout

    assert "1 events wait" in shown
    assert "7 events are not on record" in shown


@pytest.mark.usefixtures("store")
def test_status_names_a_key_that_is_missing_open_or_another(audit: Audit, home: Path) -> None:
    key = home / "keys" / "mask.key"
    key.chmod(0o644)
    assert "open to other users" in audit("status").stdout

    key.unlink()
    assert "is missing" in audit("status").stdout

    key.write_bytes(b"x" * 32)
    key.chmod(0o600)
    assert "is another key than the recorded" in audit("status").stdout


def test_status_where_there_is_no_store_says_what_waits_and_what_was_lost(audit: Audit, home: Path) -> None:
    append(spool.spool(home / "spool.db"), [an_event("store.spooled", StoreFacts(reason="disk full"))])
    Losses(home / "spool.lost").add()

    shown = audit("status")
    found = json.loads(audit("status", "--json").stdout)

    assert shown.returncode == 2
    assert "problem    There is no audit store at" in shown.stdout
    assert (found["store"], found["waiting_in_spool"], found["lost"]) == (str(home / "audit.db"), 1, 1)
    assert not (home / "audit.db").exists()


def test_status_accounts_for_every_event_that_is_not_sealed(audit: Audit, store: AuditStore) -> None:
    audit("seal")
    append(store, [an_event("store.dropped", StoreFacts(count=1)) for _ in range(2)])

    shown = audit("status").stdout

    assert "3 of 6 events" in shown
    assert "2 not sealed yet: audit seal · 1 of the log's own, sealed with them\n" in shown


@pytest.mark.usefixtures("store")
def test_status_never_shows_a_secret(audit: Audit) -> None:
    shown = audit(
        "status",
        AUDIT_ALERT_URL="slack://TOKEN-a/TOKEN-b",
        AUDIT_ARTIFACTS_URL="s3://key:TOKEN-c@bucket/audit?secret=TOKEN-d",
    ).stdout

    assert "TOKEN" not in shown
    assert "a target is set" in shown
    assert "s3://bucket/audit" in shown


@pytest.mark.usefixtures("store")
def test_status_adds_up_local_artifacts(audit: Audit, home: Path) -> None:
    from audit.artifacts import blobs

    blobs.put(b"x" * 1_000)
    blobs.put(b"y" * 500)

    found = json.loads(audit("status", "--json").stdout)

    assert (found["artifact_files"], found["artifact_bytes"]) == (2, 1_500)
