"""Withdrawals by policy, held against the policies, holds and keys on record, as verify does."""
# ruff: noqa: F811  # fixtures are arguments that are called as what was imported

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection

from audit import retention
from audit.answers import bundle, outside
from audit.answers.bundle import verify_bundle
from audit.answers.verify import verify
from audit.errors import InconsistentTree, StoreBusy
from audit.events.canonical import canonical
from audit.events.event import ENVELOPE_KEYS, Event, payload_hash, uuid7
from audit.events.payloads import ExpiryFacts, StoreFacts
from audit.ledger.keys import new_key
from audit.ledger.note import SigningKey
from audit.ledger.sealer import Withdrawal
from audit.recording import recorder
from audit.recording.sealing import demanded_key, seal_withdrawing
from audit.retention import Scope, hold, release
from audit.settings import settings
from audit.store import withdrawing
from audit.store.append import append
from audit.store.engine import AuditStore
from tests import aging
from tests.aging import KEPT, SPEC, months, policy, recorded, scoring
from tests.postgres import postgres_server, postgres_url  # noqa: F401
from tests.stores import home, on_a_server  # noqa: F401

TEXT: dict[str, Any] = {"capture_output": True, "text": True, "check": False}
BEGAN = months(2024, 1)[0]
JANUARY = scoring(BEGAN, 1)
NOW = datetime.now(UTC) - timedelta(hours=2)
RECENT = scoring(NOW, 2)
POLICY = policy(BEGAN)
RIGHT = {
    "spec": SPEC, "of": "decisions", "kept": "25 months", "policy": POLICY.id, "period": "2024-01",
    "bundle": "sha256:" + "0" * 64, "place": "expired/x.zip",
}  # fmt: skip


@pytest.fixture
def store(home: Path) -> AuditStore:
    store = aging.opened([POLICY, policy(BEGAN, spec="flights")], JANUARY.events, RECENT.events)
    recorder.flow_ended()
    return store


def test_what_its_policy_lets_go_is_listed_by_who_did_it(store: AuditStore) -> None:
    expire(JANUARY.of("predictions.scored"))

    said = verify(store)
    assert (said.answer, [count for _, count in said.withdrawals]) == ("held", [1])


def test_an_expiry_without_the_keys_leave_permits_nothing(store: AuditStore) -> None:
    """Whoever can write events has the sealer seal them: that alone is no permission."""
    expire(JANUARY.of("predictions.scored"), key=None)

    assert "who wrote it had no key" in only_fault(store)


def test_a_leave_by_another_key_is_none(store: AuditStore) -> None:
    expire(JANUARY.of("predictions.scored"), key=new_key("acme.example/mortgage"))

    assert "who wrote it had no key" in only_fault(store)


def test_a_leave_is_for_what_it_was_given_for(store: AuditStore) -> None:
    """Taken from one expiry and put on another."""
    facts = ExpiryFacts(**RIGHT, events=JANUARY.of("predictions.scored"))
    leave = orjson.loads(retention._permission(facts, demanded_key(settings())).body)["leave"]
    expire(RECENT.of("predictions.scored"), key=None, leave=leave)

    assert "who wrote it had no key" in only_fault(store)


def test_what_a_hold_names_may_not_go(store: AuditStore) -> None:
    hold(settings(), "case-1", "complaint", Scope(run=JANUARY.flow))
    expire(JANUARY.of("predictions.scored"))

    assert "the hold case-1 named it" in only_fault(store)


@pytest.mark.parametrize(
    ("scope", "named"),
    [
        (Scope(), True), (Scope(spec=SPEC), True), (Scope(spec="flights"), False),
        (Scope(since="2024-02-01"), False), (Scope(until="2024-02-01"), True), (Scope(spec=SPEC, since="2025"), False),
    ],
    ids=["everything", "its spec", "another spec", "later ones", "earlier ones", "its spec, later"],
)  # fmt: skip
def test_each_condition_of_a_hold_counts(store: AuditStore, scope: Scope, named: bool) -> None:
    hold(settings(), "case-1", "complaint", scope)
    expire(JANUARY.of("predictions.scored"))

    assert verify(store).answer == ("did not hold" if named else "held")


def test_a_hold_counts_while_it_is_in_force(store: AuditStore) -> None:
    hold(settings(), "case-1", "complaint", Scope())
    release(settings(), "case-1", "closed")
    expire(JANUARY.of("predictions.scored"))
    hold(settings(), "case-2", "too late", Scope())

    assert verify(store).answer == "held"


def test_what_is_too_young_may_not_go(store: AuditStore) -> None:
    expire(RECENT.of("predictions.scored"))

    assert "its time was not up" in only_fault(store)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"policy": "{run}"}, "names no policy that was on record"),
        ({"policy": "none"}, "names no policy that was on record"),
        ({"spec": "flights"}, "names no policy that was on record"),
        ({"kept": "6 months"}, "says 6 months, its policy 25 months"),
        ({"of": "runs", "kept": "6 months"}, "what is of type predictions.scored is not kept by the policy for runs"),
    ],
    ids=["an event that is none", "one that is not there", "of another spec", "a shorter time", "another class"],
)
def test_an_expiry_goes_by_the_policy_that_it_names(store: AuditStore, changed: dict[str, str], fault: str) -> None:
    expire(JANUARY.of("predictions.scored"), **{k: v.format(run=JANUARY.events[0].id) for k, v in changed.items()})

    assert fault in only_fault(store)


def test_a_policy_that_was_replaced_by_a_longer_one_counts_no_more(store: AuditStore) -> None:
    append(store, [policy(NOW, KEPT | {"decisions": "10 years"})])
    expire(JANUARY.of("predictions.scored"))

    assert "no longer in force: decisions were kept 10 years" in only_fault(store)


def test_an_expiry_that_is_dated_back_does_not_get_behind_a_policy(store: AuditStore) -> None:
    """The leaves' order counts: the longer policy stands before the expiry, whatever either says of the time."""
    append(store, [policy(datetime.now(UTC), KEPT | {"decisions": "10 years"})])
    expire(JANUARY.of("predictions.scored"), at=datetime.now(UTC) - timedelta(days=3))

    assert any("no longer in force: decisions were kept 10 years" in fault.what for fault in verify(store).faults)


def test_a_policy_below_the_law_that_it_names_lets_nothing_go(home: Path) -> None:
    """Our own reading of a spec refuses it; whoever can write events can put it on record."""
    short = policy(BEGAN, KEPT | {"decisions": "12 months", "regimes[0]": "reg-b"})
    store = aging.opened([short], JANUARY.events, RECENT.events)
    recorder.flow_ended()
    expire(JANUARY.of("predictions.scored"), policy=short.id, kept="12 months")

    assert "below the law it names: decisions kept 12 months, and 12 CFR 1002.12(b)(1)" in only_fault(store)


@on_a_server
def test_a_policy_that_comes_while_it_is_decided_what_goes_keeps_it(store: AuditStore) -> None:
    """Appending waits for nobody there. It would be sealed before the expiry, which did not know of it."""
    ids, key = JANUARY.of("predictions.scored"), demanded_key(settings())

    def withdraw(connection: Connection) -> Withdrawal:
        append(store, [policy(datetime.now(UTC), KEPT | {"decisions": "10 years"})])
        going = [one.seq for one in withdrawing.kept_by_ids(connection, ids)]
        return Withdrawal(retention._permission(ExpiryFacts(**RIGHT, events=ids), key), going)

    with pytest.raises(StoreBusy, match="put on record just now"):
        seal_withdrawing(settings(), key, withdraw, tell=lambda _: None)
    with store.reading() as connection:
        assert withdrawing.kept_by_ids(connection, ids)


@pytest.mark.parametrize(
    ("key", "held", "fault"),
    [
        (None, False, "who wrote it had no key"),
        ("the log's", True, "the hold case-1 named it"),
        ("the log's", False, ""),
    ],
    ids=["no leave", "a hold", "leave and no hold"],
)
def test_another_type_of_event_permits_no_more(store: AuditStore, key: str | None, held: bool, fault: str) -> None:
    """Its time need not be up, for no policy is behind it; leave and holds are asked for all the same."""
    if held:
        hold(settings(), "case-1", "complaint", Scope(spec=SPEC))
    ids = RECENT.of("flow_run.running")
    expire(ids, key=key, type="privacy.erased")

    said = verify(store)
    assert [one.what for one in said.faults if fault in one.what] if fault else said.answer == "held", said


@pytest.mark.parametrize(("key", "code"), [(None, 1), ("the log's", 0)], ids=["no leave", "leave"])
def test_a_bundle_says_whether_what_is_gone_had_leave(
    store: AuditStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None, code: int
) -> None:
    """By our verifier and by the one that the bundle brings along; we ourselves hand none out that does not hold."""
    expire(JANUARY.of("predictions.scored"), key=key, type="privacy.erased")
    made = tmp_path / "all.zip"
    if code:
        with pytest.raises(InconsistentTree, match="did not give its leave"):
            bundle.export(store, made, by="p:x", at=NOW)
    monkeypatch.setattr(bundle, "_demand_held", lambda made: None)
    bundle.export(store, made, by="p:x", at=NOW)

    assert verify_bundle(made).answer == ("did not hold" if code else "held")
    alone = subprocess.run([sys.executable, outside.__file__.replace("outside", "standalone"), made], **TEXT)
    assert ("did not give its leave" in alone.stdout + alone.stderr, alone.returncode) == (bool(code), code), alone


def test_an_event_of_another_spec_may_not_go(home: Path) -> None:
    other = scoring(BEGAN, 1, spec="flights")
    store = aging.opened([POLICY], other.events)
    recorder.flow_ended()
    expire(other.of("predictions.scored"))

    assert "it is of the spec flights, not of mortgage" in only_fault(store)


def test_what_the_record_says_of_itself_may_not_go(store: AuditStore) -> None:
    said = aging.event("store.dropped", StoreFacts(count=3), "store", BEGAN)
    append(store, [said])
    expire([said.id])

    assert "what is of type store.dropped is not kept by the policy for decisions" in only_fault(store)


def test_a_reading_that_was_gone_on_with_knows_of_holds_before(store: AuditStore) -> None:
    hold(settings(), "case-1", "complaint", Scope())
    recorder.flow_ended()
    size = verify(store).size
    expire(JANUARY.of("predictions.scored"))

    said = verify(store, since=size)
    assert [fault.what for fault in said.faults if "the hold case-1 named it" in fault.what], said


HOSTILE: list[dict[str, Any]] = [
    {}, {"what": "spec", "details": 4}, {"what": "spec", "details": [4, None]}, {"what": "spec", "spec": []},
    {"what": "spec", "spec": SPEC, "details": [{"name": "retention.decisions", "value": "0 years"}]},
    {"name": [], "runs": 4, "events": [[]], "since": 5, "until": {}}, {"held": []},
    {"of": [], "kept": {}, "policy": [], "events": [4]},
]  # fmt: skip


@pytest.mark.parametrize("type", ["pipeline.changed", "retention.held", "retention.released", "retention.expired"])
def test_what_somebody_else_made_of_these_events_is_read(store: AuditStore, type: str) -> None:
    """By whoever can write events and nothing more: it is sealed, and no reading ends over it."""
    append(store, [by_whoever(type, facts) for facts in HOSTILE])
    expire(JANUARY.of("predictions.scored"))

    assert verify(store).answer in ("held", "did not hold")
    with store.reading() as connection:
        retention.policies(connection)
        retention.holds_in_force(connection)


def expire(
    ids: Sequence[str],
    *,
    key: SigningKey | str | None = "the log's",
    at: datetime | None = None,
    type: str = "retention.expired",
    **changed: str,
) -> None:
    """What `audit retention run` does at the end, by somebody who skips what comes before; `at`: as he dates it."""
    facts = ExpiryFacts(**{**RIGHT, **changed}, events=list(ids))
    event = (
        retention._permission(facts, demanded_key(settings()) if isinstance(key, str) else key)
        if key is not None
        else by_whoever("retention.expired", facts.model_dump(exclude_none=True))
    )
    event = replace(event, type=type)
    event = recorded(event, at or datetime.fromisoformat(event.time))

    def withdraw(connection: Connection) -> Withdrawal:
        return Withdrawal(event, [one.seq for one in withdrawing.kept_by_ids(connection, ids)])

    seal_withdrawing(settings(), demanded_key(settings()), withdraw, tell=lambda _: None)


def by_whoever(type: str, facts: dict[str, Any]) -> Event:
    like = recorded(POLICY, datetime.now(UTC))
    body = canonical(facts)
    columns: dict[str, Any] = {key: getattr(like, key) for key in ENVELOPE_KEYS}
    columns |= {"id": uuid7(), "type": type, "payload_hash": payload_hash(like.salt, body)}
    return Event(**columns, envelope=canonical(columns).decode(), salt=like.salt, body=body.decode())


def only_fault(store: AuditStore) -> str:
    said = verify(store)
    assert (said.answer, len(said.faults)) == ("did not hold", 1), said
    return said.faults[0].what
