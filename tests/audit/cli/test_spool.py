"""`audit spool` and `audit spool flush`."""

import json
from dataclasses import replace
from pathlib import Path

from audit.events.payloads import StoreFacts
from audit.recording import spool
from audit.recording.losses import Losses
from audit.store import read
from audit.store.engine import AuditStore
from tests.audit.cli.conftest import Audit, an_event


def test_nothing_waits_where_there_is_no_spool(audit: Audit, store: AuditStore, home: Path) -> None:
    assert audit("spool").stdout == "Nothing waits.\n"
    assert json.loads(audit("spool", "--json").stdout) == {"waiting": 0, "lost": 0, "files": []}
    assert not (home / "spool.db").exists()


def test_what_waits_is_shown_with_its_types_its_age_and_why(audit: Audit, store: AuditStore, home: Path) -> None:
    spool.put(home / "spool.db", [an_event("store.spooled", StoreFacts(reason="disk full"))])
    spool.put(
        home / "spool.db", [oldest := an_event("store.opened", StoreFacts()), an_event("store.opened", StoreFacts())]
    )
    Losses(home / "spool.lost").add()

    shown, told = audit("spool").stdout, json.loads(audit("spool", "--json").stdout)

    assert "3 events, the oldest since 20" in shown
    assert "store.opened 2 · store.spooled 1" in shown
    assert "disk full" in shown
    assert "1 events, not on record as lost yet" in shown
    assert (told["waiting"], told["lost"], told["files"][0]["why"]) == (3, 1, "disk full")
    assert oldest.recorded_at >= told["files"][0]["oldest"]


def test_flush_brings_home_what_waits_and_says_how_much(audit: Audit, store: AuditStore, home: Path) -> None:
    spool.put(home / "spool.db", [event := an_event("store.opened", StoreFacts(reason="waited"))])

    done = audit("spool", "flush")

    assert (done.returncode, done.stdout) == (0, "1 event brought home.\n")
    assert len(read.event(store, event.id)) == 1
    again = json.loads(audit("spool", "flush", "--json").stdout)
    assert again == {"brought_home": 0, "refused": [], "unusable": []}


def test_an_event_that_the_store_refuses_is_named_and_gives_1(audit: Audit, store: AuditStore, home: Path) -> None:
    bad = replace(an_event("store.opened", StoreFacts()), severity="critical")
    spool.put(home / "spool.db", [bad, good := an_event("store.opened", StoreFacts())])

    done = audit("spool", "flush")

    assert done.returncode == 1
    assert f"Refused: store.opened {bad.id}" in done.stdout
    assert "columns and envelope differ" in audit("spool").stdout
    assert len(read.event(store, good.id)) == 1


def test_a_damaged_spool_is_named_with_the_way_out_and_the_others_are_read(
    audit: Audit, store: AuditStore, home: Path
) -> None:
    (home / "spool.db").write_bytes(b"no database, but long enough to have a header" * 20)
    spool.put(home / "spool.db", [event := an_event("store.opened", StoreFacts())])

    shown, done = audit("spool").stdout, audit("spool", "flush")

    assert "spool.db cannot be used (file is not a database)" in shown
    assert ".recover" in shown
    assert "spool-2.db" in shown
    assert done.returncode == 2
    assert ".recover" in done.stderr
    assert len(read.event(store, event.id)) == 1


def test_a_store_that_is_not_there_is_not_made_by_flushing(audit: Audit, home: Path) -> None:
    spool.put(home / "spool.db", [an_event("store.opened", StoreFacts())])

    done = audit("spool", "flush")

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (home / "audit.db").exists()
