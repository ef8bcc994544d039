"""Of many runs that find the same at the same moment one tells people, whichever store they share."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from audit.spec.load import load_spec
from audit.spec.model import Spec
from tasks.alert import Finding, send_alert
from tests.postgres import postgres_server, postgres_url  # noqa: F401  # fixtures
from tests.receivers import webhook
from tests.stores import home  # noqa: F401
from tests.tasks.test_alert import FLIGHTS, point_at, states

AT_ONCE, ROUNDS = 4, 25


def test_of_runs_that_find_the_same_at_once_one_sends(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    fork = multiprocessing.get_context("fork")
    with webhook() as receiver:
        point_at(receiver.url(), monkeypatch)
        gate, spec = fork.Barrier(AT_ONCE), load_spec(FLIGHTS)
        # Nothing here has opened the store yet: connections do not survive a fork.
        finders = [fork.Process(target=find, args=(gate, spec)) for _ in range(AT_ONCE)]
        for finder in finders:
            finder.start()
        for finder in finders:
            finder.join()

        assert [finder.exitcode for finder in finders] == [0] * AT_ONCE
        assert len(receiver.received) == ROUNDS
    assert (states().count("sent"), states().count("held")) == (ROUNDS, (AT_ONCE - 1) * ROUNDS)


def find(gate: Any, spec: Spec) -> None:
    for number in range(ROUNDS):
        found = Finding(kind="drift", title="Drift", body="", severity="warning", window="2013-08", about=f"v{number}")
        gate.wait()
        send_alert.fn(found, spec)
