"""Looking after a store that is in PostgreSQL."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from audit.events.event import Event, make_event
from audit.events.payloads import StoreFacts
from audit.recording.initialise import initialise
from audit.settings import settings
from audit.spec.model import Spec
from audit.store import ledger
from audit.store.append import append, insert_event
from audit.store.engine import open_store
from tasks.upkeep import Subject, disk_has_room, record_is_sealed, store_holds
from tests.postgres import postgres_server, postgres_url  # noqa: F401  # fixtures
from tests.stores import home, on_a_server, tried  # noqa: F401

pytestmark = on_a_server


@pytest.fixture
def about(home: Path, loan_spec: Spec) -> Subject:  # noqa: F811
    initialise()
    return Subject(loan_spec, 0.0, datetime.now(UTC))


def an_event() -> Event:
    return make_event("store.spooled", StoreFacts(), source="test", subject="store", actor="p:test")


def test_a_server_that_loses_commits_and_guards_that_are_lifted_are_told(about: Subject) -> None:
    """The tests' own server does not wait for its disk."""
    assert "fsync and full_page_writes off: a power cut loses" in store_holds(about).detail

    tried("ALTER TABLE event DISABLE TRIGGER event_insert_only")

    assert "has not the triggers" in store_holds(about).detail


def test_the_disk_of_the_server_is_not_taken_for_ours(about: Subject) -> None:
    assert disk_has_room(about).verdict == "in order"
    assert str(settings().home) in disk_has_room(about).detail


def test_what_came_in_later_than_a_loop_looks_back_is_sealed_within_the_hour(
    about: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "LOOK_BACK", 3)
    store = open_store()
    with store.writing() as slow:
        seq = insert_event(slow, an_event())
        append(store, [an_event() for _ in range(10)])
        record_is_sealed(about)

    assert ledger.not_sealed(store, whole=True)[0] == 1
    assert record_is_sealed(about).verdict == "in order"
    with store.reading() as connection:
        assert seq in {row[0] for row in connection.exec_driver_sql("SELECT event_seq FROM leaf")}
