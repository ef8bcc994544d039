"""A flow run seals what is on record when it ends, where the key is; what keeps it from that is told and no more."""

import logging
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
from prefect.states import Cancelling

from audit import flow, task
from audit.ledger.keys import FILE
from audit.recording import hooks, recorder
from audit.recording.initialise import initialise
from audit.settings import settings
from audit.store.engine import close_stores, open_store
from audit.store.ledger import not_sealed, sealing
from tests.audit.recording.conftest import Events, break_store, mend_store


@task
def adds(a: int) -> int:
    return a + 1


@flow
def a_flow() -> int:
    return adds(a_nested_flow())


@flow
def a_nested_flow() -> int:
    return adds(1)


@flow(on_completion=[lambda flow, flow_run, state: hooks.record_flow_end(flow, flow_run, Cancelling())])
def is_cancelled() -> None:  # as a worker's process calls our hook when somebody cancels a run in the UI
    pass


def rewrite(home: Path) -> None:
    """As the owner of the file can."""
    with sqlite3.connect(home / "audit.db") as database:
        database.execute("DROP TRIGGER leaf_no_update")
        database.execute("UPDATE leaf SET hash = zeroblob(32) WHERE idx = 1")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record for record in caplog.records if record.name == "audit" and record.levelno >= logging.WARNING]
    return [f"{record.levelname}: {record.getMessage()}" for record in found]


def test_a_flow_run_seals_once_when_it_ends(events: Events) -> None:
    assert a_flow() == 3

    assert not_sealed(open_store())[0] == 0
    assert sealing(open_store()).checkpoints == 1, "not when the nested one ended"
    (signed,) = events("checkpoint.signed")
    assert signed["payload"]["size"] == len(events()) - 1
    assert signed["actor"] == events("flow_run.running")[0]["actor"]


def test_what_a_hook_in_another_process_puts_on_record_is_sealed(events: Events) -> None:
    is_cancelled()

    assert {event["type"] for event in events("flow_run.c*")} == {"flow_run.completed", "flow_run.cancelled"}
    assert not_sealed(open_store())[0] == 0


def test_a_flow_run_without_the_key_ends_well_and_unsealed(events: Events, home: Path, caplog) -> None:
    initialise()
    (home / "keys" / FILE).unlink()

    with caplog.at_level(logging.WARNING, "audit"):
        assert a_flow() == 3

    assert events("checkpoint.signed") == []
    assert warnings(caplog) == [], "a machine without the key is a machine that does not seal"


def test_a_process_without_the_key_says_once_that_nobody_seals(home: Path, caplog, monkeypatch) -> None:
    close_stores()
    initialise()
    (home / "keys" / FILE).unlink()
    monkeypatch.setattr(recorder, "UNSEALED_FOR", timedelta(0))

    with caplog.at_level(logging.WARNING, "audit"):
        recorder.flow_ended()
        recorder.flow_ended()

    (said,) = warnings(caplog)
    assert said.startswith("WARNING: This process does not seal, and nobody did for long: 3 events wait since 20")


def test_a_flow_run_in_a_store_whose_past_was_changed_ends_well_and_says_so(events: Events, home: Path, caplog) -> None:
    a_flow()
    rewrite(home)

    with caplog.at_level(logging.WARNING, "audit"):
        assert a_flow() == 3

    assert len(events("checkpoint.signed")) == 1
    (said,) = warnings(caplog)
    assert said.startswith("ERROR: ")
    assert "sealed events were changed. Nothing is signed." in said


def test_a_flow_run_whose_key_others_can_read_ends_well_and_says_so(events: Events, home: Path, caplog) -> None:
    initialise()
    (home / "keys" / FILE).chmod(0o644)

    with caplog.at_level(logging.WARNING, "audit"):
        assert a_flow() == 3

    (said,) = warnings(caplog)
    assert "is open to other users" in said


def test_what_was_spooled_is_sealed_once_it_is_home(events: Events, home: Path, monkeypatch) -> None:
    monkeypatch.setattr(recorder, "RETRY_SECONDS", 0)
    close_stores()
    initialise()
    break_store(home)
    a_flow()
    assert settings().spool_path.exists()
    mend_store(home)

    recorder.flow_ended()

    assert not_sealed(open_store())[0] == 0
    assert len(events("flow_run.completed")) == 2
    assert sealing(open_store()).size == len(events()) - 1
