"""Payloads whose time is up are exported, checked and withdrawn; what must stay stays, whoever dies in the middle."""
# ruff: noqa: F811  # fixtures are arguments that are called as what was imported

import os
import re
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
import zipfile
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from audit import retention
from audit.answers import bundle
from audit.answers.keeping import class_of, time_is_up
from audit.answers.verdict import Verdict
from audit.answers.verify import verify
from audit.errors import InconsistentTree, KeyUnavailable, NotFound, NotPermitted, UserError
from audit.events import payloads as p
from audit.ledger.keys import FILE
from audit.recording import recorder
from audit.recording.recorder import record, record_many
from audit.retention import Scope, hold, release
from audit.settings import settings
from audit.store import read
from audit.store.append import append
from audit.store.engine import AuditStore, close_stores, open_store, store_path
from tests import aging
from tests.aging import KEPT, MARKER, SPEC, event, months, policy, retired, scoring, training
from tests.postgres import postgres_server, postgres_url  # noqa: F401
from tests.stores import as_superuser, home, in_a_file, on_a_server  # noqa: F401

NOW = datetime.now(UTC) - timedelta(hours=2)
JANUARY, FEBRUARY, MARCH = (scoring(begins, nth) for nth, begins in enumerate(months(2024, 1, 2, 3), 1))
RUNS = ("flow_run.running", "task_run.running", "task_run.completed", "flow_run.completed")


@pytest.fixture
def store(home: Path) -> AuditStore:
    """Three months of 2024, a model that is in use, and a month that goes on."""
    recent = scoring(NOW, 4)
    first = months(2024, 1)[0]
    return aging.opened([policy(first)], training(first, 1), *(m.events for m in (JANUARY, FEBRUARY, MARCH, recent)))


def test_payloads_whose_time_is_up_go_and_envelopes_stay(store: AuditStore) -> None:
    before = envelopes(store)

    done = list(retention.run(settings()))

    assert sum(one.withdrawn for one in done) == 18
    assert not payloads(store, *(id for month in (JANUARY, FEBRUARY, MARCH) for id in month.of()))
    assert envelopes(store)[: len(before)] == before
    assert held(store).withdrawals == ((actor_of(store), 18),)


def test_a_second_run_finds_nothing_to_do(store: AuditStore) -> None:
    list(retention.run(settings()))
    events = read.newest_seq(store)

    assert list(retention.run(settings())) == []
    assert read.newest_seq(store) - events <= 1  # the checkpoint that seals the last one


def test_what_is_withdrawn_lies_in_a_bundle_that_holds(store: AuditStore) -> None:
    done = list(retention.run(settings()))

    for one in done:
        said = bundle.verify_bundle(one.bundle, key=retention.demanded_key(settings()).verifier)
        assert said.answer == "held", said
    inside = set().union(*(retention._payloads_in(one.bundle) for one in done))
    assert inside == {id for month in (JANUARY, FEBRUARY, MARCH) for id in month.of()}


def test_each_class_has_its_own_time(home: Path) -> None:
    """Half a year for runs, and for ever for what was decided."""
    first = months(2024, 1)[0]
    store = aging.opened([policy(first, KEPT | {"decisions": "forever", "findings": "forever"})], JANUARY.events)

    list(retention.run(settings()))

    assert payloads(store, *JANUARY.of()) == JANUARY.of("predictions.scored", "drift.checked")


def test_where_nothing_is_said_nothing_goes(home: Path) -> None:
    aging.opened(JANUARY.events, training(months(2024, 1)[0], 1))

    assert list(retention.run(settings())) == []


def test_the_month_must_be_over_for_as_long_as_the_policy_says() -> None:
    assert not time_is_up("2026-01-01T00:00:00.000000Z", "6 months", "2026-07-31T23:59:59.999999Z")
    assert time_is_up("2026-01-31T23:59:59.999999Z", "6 months", "2026-08-01T00:00:00.000000Z")
    assert time_is_up("2023-12-31T00:00:00.000000Z", "1 year", "2025-01-01T00:00:00.000000Z")
    assert not time_is_up("1970-01-01T00:00:00.000000Z", "forever", "9999-01-01T00:00:00.000000Z")


def test_only_months_that_end_by_a_day_if_one_is_named(store: AuditStore) -> None:
    done = list(retention.run(settings(), until=date(2024, 3, 1)))

    assert {one.due.period for one in done} == {"2024-01", "2024-02"}
    assert payloads(store, *MARCH.of()) == MARCH.of()


def test_the_policy_that_was_said_last_counts(store: AuditStore) -> None:
    append(store, [policy(NOW, dict.fromkeys(KEPT, "forever"))])

    assert list(retention.run(settings())) == []


def test_runs_of_no_spec_go_by_the_setting(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = months(2024, 1)[0]
    own = [e for e in scoring(at, 1).events if e.type in RUNS]
    store = aging.opened(own)
    assert list(retention.run(settings())) == []

    monkeypatch.setenv("AUDIT_RETENTION", "6 months")
    settings.cache_clear()
    list(retention.run(settings()))

    assert not payloads(store, *(e.id for e in own))
    assert held(store).withdrawals
    stated = next(read.events(store, types=("pipeline.changed",)))
    assert (stated.payload["spec"], stated.payload["is_now"]) == ("*", "6 months")


def test_a_run_of_two_specs_is_kept_as_long_as_the_longer_one_says(home: Path) -> None:
    first = months(2024, 1)[0]
    other = event("alert.raised", an_alert("flights"), "spec/flights", first, flow_run_id=JANUARY.flow)
    store = aging.opened(
        [policy(first), policy(first, KEPT | {"runs": "10 years"}, "flights")], [*JANUARY.events, other]
    )

    list(retention.run(settings()))

    assert payloads(store, *JANUARY.of(*RUNS)) == JANUARY.of(*RUNS)


def test_what_a_model_in_use_rests_on_stays(home: Path) -> None:
    """And what a model that was replaced rests on goes, all of its steps at once."""
    first, second = months(2024, 1, 2)
    old, new = training(first, 1), training(second, 2)
    store = aging.opened([policy(first, KEPT | {"lineage": "6 months"})], old, new, [retired(1, second)])

    list(retention.run(settings()))

    assert payloads(store, *(e.id for e in new)) == [e.id for e in new]
    assert not payloads(store, *(e.id for e in old))
    assert [(one.version, one.champion) for one in read.models(store)] == [(2, True)]
    held(store)


def test_the_steps_of_a_model_go_together_or_not_at_all(home: Path) -> None:
    """It was replaced only now: how it was let in stays until that is old as well."""
    first, second = months(2024, 1, 2)
    old = training(first, 1)
    store = aging.opened([policy(first, KEPT | {"lineage": "6 months"})], old, training(second, 2), [retired(1, NOW)])

    list(retention.run(settings()))

    assert payloads(store, *(e.id for e in old)) == [e.id for e in old if e.subject == f"model/{SPEC}/v1"]
    assert {one.version for one in read.models(store)} == {1, 2}


def test_numbers_are_not_given_twice(home: Path) -> None:
    first, second = months(2024, 1, 2)
    old, new = training(first, 1), training(second, 2)
    store = aging.opened(
        [policy(first, dict.fromkeys(KEPT, "6 months"))], old, new, [retired(1, second), retired(2, second)],
        JANUARY.events, FEBRUARY.events,
    )  # fmt: skip

    list(retention.run(settings()))

    with store.reading() as connection:
        assert read.model_number(connection, SPEC) == 3
    assert read.dataset_number(store, f"{SPEC}/train", "sha256:new") == 3
    assert read.dataset_number(store, f"{SPEC}/decisions", "sha256:new") == 3


@pytest.mark.parametrize(
    "type",
    ["privacy.erased", "retention.expired", "retention.held", "key.created", "checkpoint.signed", "store.dropped",
     "completeness.stated", "pipeline.changed", "access.read", "of_a.later_release"],
)  # fmt: skip
def test_what_the_record_says_of_itself_has_no_time(type: str) -> None:
    assert class_of(type) is None


def test_what_a_hold_names_stays(store: AuditStore) -> None:
    hold(settings(), "case-1", "complaint", Scope(run=JANUARY.flow))
    hold(settings(), "case-2", "subpoena", Scope(events=(FEBRUARY.of("predictions.scored")[0],)))

    list(retention.run(settings()))

    assert payloads(store, *JANUARY.of()) == JANUARY.of()
    assert payloads(store, *FEBRUARY.of(), *MARCH.of()) == FEBRUARY.of("predictions.scored")
    held(store)


def test_a_hold_that_was_released_keeps_nothing(store: AuditStore) -> None:
    hold(settings(), "case-1", "complaint", Scope(spec=SPEC))
    assert list(retention.run(settings())) == []

    release(settings(), "case-1", "closed")

    assert sum(one.withdrawn for one in retention.run(settings())) == 18
    held(store)


def test_a_hold_on_a_model_keeps_what_it_decided_and_how_it_came_about(home: Path) -> None:
    first, second = months(2024, 1, 2)
    old, new = training(first, 1), training(second, 2)
    store = aging.opened(
        [policy(first, dict.fromkeys(KEPT, "6 months"))], old, new, [retired(1, second)], JANUARY.events
    )
    hold(settings(), "model", "asked for", Scope(model=f"{SPEC}/v1"))

    list(retention.run(settings()))

    assert payloads(store, *(e.id for e in old)) == [e.id for e in old]
    assert payloads(store, *JANUARY.of()) == JANUARY.of("predictions.scored", "drift.checked")


def test_a_hold_names_what_happened_within_its_time(store: AuditStore) -> None:
    hold(settings(), "spring", "review", Scope(spec=SPEC, since="2024-02-01", until="2024-03-01"))

    list(retention.run(settings()))

    assert payloads(store, *JANUARY.of(), *FEBRUARY.of(), *MARCH.of()) == FEBRUARY.of()


def test_a_hold_on_a_spec_keeps_what_belongs_to_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_RETENTION", "6 months")
    own = [e for e in JANUARY.events if e.type in RUNS]
    aging.opened(own, [policy(NOW)])
    hold(settings(), "case-1", "complaint", Scope(spec=SPEC))

    assert list(retention.run(settings())) == []


def test_two_holds_of_one_name_are_refused(store: AuditStore) -> None:
    hold(settings(), "case-1", "complaint", Scope(spec=SPEC))

    with pytest.raises(UserError, match="There is a hold case-1"):
        hold(settings(), "case-1", "another", Scope())
    with pytest.raises(NotFound, match="There is no hold case-2"):
        release(settings(), "case-2", "closed")


def test_a_hold_that_comes_while_a_run_goes_on_is_heeded(store: AuditStore) -> None:
    """It is placed between two bundles; what is left is asked about again under the lock."""
    going = retention.run(settings())
    first = next(going)
    assert first.due.period == "2024-01"

    hold(settings(), "case-1", "complaint", Scope(since="2024-03-01"))
    done = [first, *going]

    assert payloads(store, *MARCH.of()) == MARCH.of()
    assert not payloads(store, *JANUARY.of(), *FEBRUARY.of())
    assert sum(one.withdrawn for one in done) == 12
    held(store)


def test_without_the_logs_key_nothing_is_done(store: AuditStore) -> None:
    (settings().keys_path / FILE).rename(settings().home / "elsewhere")

    with pytest.raises(KeyUnavailable, match="is not here"):
        list(retention.run(settings()))

    assert not (settings().home / retention.FOLDER).exists()
    assert payloads(store, *JANUARY.of()) == JANUARY.of()


def test_a_bundle_that_does_not_hold_has_nothing_withdrawn(store: AuditStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier that it brings along says no, though ours was content."""
    refusing = b"import sys; sys.exit(1)"
    monkeypatch.setattr("audit.answers.outside.standalone", lambda: refusing)

    with pytest.raises(InconsistentTree, match="does not hold what was exported"):
        list(retention.run(settings()))

    assert payloads(store, *JANUARY.of()) == JANUARY.of()


def test_a_folder_that_cannot_be_made_has_nothing_withdrawn(store: AuditStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(UserError, match="cannot be made"):
        list(retention.run(settings(), folder=tmp_path / "file" / "bundles"))

    assert payloads(store, *JANUARY.of()) == JANUARY.of()


def test_what_was_exported_by_who_died_is_not_exported_again(store: AuditStore) -> None:
    """A run that ended between the bundle and the withdrawal, and one that ended between two batches of one."""
    going = retention.run(settings())
    first = next(going)
    going.close()
    with store.reading() as connection:
        planned = retention.plan(connection, retention.policies(connection), datetime.now(UTC))
    work = retention._Work(
        settings(), store, retention.demanded_key(settings()), first.bundle.parent, {}, lambda done, of: None
    )
    exported = retention._exported(work, planned.due[0], planned.due[0].events, first.bundle.with_name("x.zip"))
    named = exported.rename(exported.with_name(f"{planned.due[0].period}-{SPEC}-{planned.due[0].of}.zip"))

    done = list(retention.run(settings()))

    assert done[0].bundle == named
    assert len(list(named.parent.glob("*.zip"))) == 9
    held(store)


@pytest.mark.parametrize("harm", ["bytes", "encrypted", "method", "cut", "empty"])
def test_a_bundle_that_was_damaged_is_not_gone_on_from(store: AuditStore, harm: str) -> None:
    """Left by a run that died before it withdrew anything: what it was to hold is exported anew, under another name."""
    recorder.flow_ended()
    with store.reading() as connection:
        due = retention.plan(connection, retention.policies(connection), datetime.now(UTC)).due[0]
    folder = settings().home / retention.FOLDER
    folder.mkdir()
    work = retention._Work(settings(), store, retention.demanded_key(settings()), folder, {}, lambda done, of: None)
    left = retention._exported(work, due, due.events, folder / f"{due.period}-{SPEC}-{due.of}.zip")
    left.write_bytes(harmed(left, harm))

    done = list(retention.run(settings()))

    assert done[0].bundle.name == f"{due.period}-{SPEC}-{due.of}-2.zip"
    assert not payloads(store, *JANUARY.of())
    held(store)


def harmed(bundle: Path, how: str) -> bytes:
    """In a way each that `zipfile` says otherwise."""
    whole = bytearray(bundle.read_bytes())
    with zipfile.ZipFile(bundle) as archive:
        inside = archive.getinfo("events.jsonl").header_offset
    entries = [found.start() for found in re.finditer(rb"PK\x01\x02", bytes(whole))]
    if how == "bytes":
        whole[inside + 50 : inside + 90] = bytes(byte ^ 0xFF for byte in whole[inside + 50 : inside + 90])
    for entry in entries:
        if how == "encrypted":
            whole[entry + 8] |= 1
        elif how == "method":
            whole[entry + 10] = 99
    if how == "encrypted":
        whole[inside + 6] |= 1
    return bytes({"cut": whole[: inside + 20], "empty": b""}.get(how, whole))


@in_a_file
@pytest.mark.parametrize(
    "forgery",
    [
        f"UPDATE event SET flow_run_id = NULL, task_run_id = NULL WHERE flow_run_id = '{JANUARY.flow}'",
        "UPDATE event SET type = 'x.held' WHERE type = 'retention.held'",
        f"UPDATE event SET recorded_at = '2020-01-03T09:00:00.000000Z' WHERE flow_run_id = '{JANUARY.flow}'",
        "UPDATE payload SET body = replace(body, 'case-1', 'case-9')",
    ],
    ids=["whose it is", "that there is a hold", "when it was recorded", "what a hold says"],
)
def test_what_is_not_as_it_was_sealed_has_nothing_withdrawn(store: AuditStore, forgery: str) -> None:
    """Whoever owns the database moves columns for the moment of the run, and puts them back afterwards."""
    hold(settings(), "case-1", "complaint", Scope(run=JANUARY.flow))
    recorder.flow_ended()
    path = store_path(settings())
    assert path
    close_stores()
    with closing(sqlite3.connect(path, isolation_level=None)) as owner:
        guards = owner.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in guards:
            owner.execute(f"DROP TRIGGER {name}")
        owner.execute(forgery)
        for _, sql in guards:
            owner.execute(sql)

    with pytest.raises(InconsistentTree):
        list(retention.run(settings()))

    assert payloads(open_store(), *JANUARY.of()) == JANUARY.of()


def test_a_policy_below_the_law_that_it_names_is_refused(store: AuditStore) -> None:
    append(store, [policy(NOW, KEPT | {"runs": "3 months", "regimes[0]": "eu-ai-act"})])

    with pytest.raises(UserError, match=r"policy of mortgage .* is below the law that it names: runs kept 3 months"):
        list(retention.run(settings()))
    assert payloads(store, *JANUARY.of()) == JANUARY.of()


@pytest.mark.parametrize(
    ("type", "facts"),
    [
        ("retention.released", p.ReleaseFacts(name="case-1", reason="x", held="x")),
        ("retention.held", p.HoldFacts(name="case-1", reason="x")),
        ("pipeline.changed", p.ChangeFacts(spec=SPEC, what="spec", is_now="x", details=[])),
        ("privacy.erased", p.StoreFacts()),
    ],
    ids=["a release", "a hold", "a policy", "an erasure"],
)
def test_who_writes_a_flow_does_not_say_what_may_go(store: AuditStore, type: str, facts: p.Payload) -> None:
    with pytest.raises(UserError, match="is what the record says of itself"):
        record(type, facts, subject=f"spec/{SPEC}")
    with pytest.raises(UserError, match="is what the record says of itself"):
        record_many([(type, facts, f"spec/{SPEC}")])


def test_a_clock_that_is_far_ahead_of_the_record_is_not_believed(
    store: AuditStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = NOW + timedelta(days=400)
    monkeypatch.setattr(retention, "datetime", type("Ahead", (datetime,), {"now": classmethod(lambda *_: later)}))

    with pytest.raises(UserError, match=r"nothing was recorded for (399|400) days"):
        list(retention.run(settings()))
    assert payloads(store, *JANUARY.of()) == JANUARY.of()
    assert {one.due.period for one in retention.run(settings(), until=date(2024, 2, 1))} == {"2024-01"}


def test_of_two_that_withdraw_at_once_the_second_is_refused(store: AuditStore, tmp_path: Path) -> None:
    """Wherever their bundles go."""
    going = retention.run(settings(), folder=tmp_path / "one")
    next(going)

    with pytest.raises(UserError, match="Somebody withdraws payloads of this store just now"):
        list(retention.run(settings(), folder=tmp_path / "two"))
    list(going)
    assert list(retention.run(settings(), folder=tmp_path / "two")) == []


def test_what_went_meanwhile_is_not_exported(store: AuditStore, tmp_path: Path) -> None:
    """By another machine, of whose lock this one does not know."""
    recorder.flow_ended()
    with store.reading() as connection:
        due = retention.plan(connection, retention.policies(connection), datetime.now(UTC)).due
    list(retention.run(settings()))
    work = retention._Work(settings(), store, retention.demanded_key(settings()), tmp_path, {}, lambda done, of: None)

    assert [done for one in due for done in retention._expire(work, one)] == []


def test_a_year_of_three_digits_is_before_all_others(store: AuditStore) -> None:
    assert list(retention.run(settings(), until=date(999, 1, 1))) == []


@pytest.mark.slow
@pytest.mark.parametrize("nth", range(12))
def test_a_run_that_is_killed_is_finished_by_the_next(store: AuditStore, nth: int) -> None:
    """At any moment the record verifies, and no payload is gone that is in no bundle."""
    recorder.flow_ended()
    process = subprocess.Popen(
        [sys.executable, "-c", "from audit import retention as r; from audit.settings import settings;"
         "print('begun', flush=True); list(r.run(settings()))"],
        stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == b"begun\n"
    timer = threading.Timer(0.05 + nth * 0.25, process.send_signal, (signal.SIGKILL,))
    timer.start()
    process.wait()
    timer.cancel()

    close_stores()
    held(store)
    every = [id for month in (JANUARY, FEBRUARY, MARCH) for id in month.of()]
    folder = settings().home / retention.FOLDER
    saved = set().union(*(retention._payloads_in(path) for path in folder.glob("*.zip")))
    assert set(every) - set(payloads(store, *every)) <= saved
    list(retention.run(settings()))
    assert not payloads(store, *every)
    assert len(list(folder.glob("*.zip"))) == 9
    held(store)


@on_a_server
@pytest.mark.parametrize("roles", ["audit_auditor, audit_custodian, audit_sealer", "audit_auditor, audit_sealer"])
def test_it_takes_the_rights_of_custodian_sealer_and_auditor(
    store: AuditStore, monkeypatch: pytest.MonkeyPatch, roles: str
) -> None:
    recorder.flow_ended()
    login = f"login_{secrets.token_hex(4)}"
    with as_superuser() as database:
        database.execute(Path("deployments/postgres/roles.sql").read_text())  # type: ignore[arg-type]
        database.execute(f"CREATE ROLE {login} LOGIN; GRANT {roles} TO {login}")  # type: ignore[arg-type]
    monkeypatch.setenv("AUDIT_DATABASE_URL", str(store.engine.url.set(drivername="postgresql", username=login)))
    settings.cache_clear()
    close_stores()

    if "custodian" in roles:
        assert sum(one.withdrawn for one in retention.run(settings())) == 18
    else:
        with pytest.raises(NotPermitted):
            list(retention.run(settings()))
        assert payloads(store, *JANUARY.of()) == JANUARY.of()
    held(store)


@in_a_file
def test_the_bytes_are_gone_from_file_and_log(home: Path) -> None:
    store = aging.opened([policy(months(2024, 1)[0])], JANUARY.events)
    path = store_path(settings())
    assert path and MARKER.encode() in on_disk(path)

    list(retention.run(settings()))
    assert retention.written_over(settings())

    assert MARKER.encode() not in on_disk(path)
    held(store)


@in_a_file
def test_who_reads_meanwhile_keeps_the_log_and_it_is_said(home: Path) -> None:
    store = aging.opened([policy(months(2024, 1)[0])], JANUARY.events)
    with store.reading() as connection:
        connection.execute(text("SELECT count(*) FROM event")).scalar()
        list(retention.run(settings()))
        assert not retention.written_over(settings())
    assert retention.written_over(settings())


def test_it_is_known_cheaply_whether_something_is_due(store: AuditStore) -> None:
    recorder.flow_ended()
    with store.reading() as connection:
        assert retention.is_due(connection, datetime.now(UTC))
    list(retention.run(settings()))
    with store.reading() as connection:
        assert not retention.is_due(connection, datetime.now(UTC))


def test_a_large_month_goes_in_parts(store: AuditStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "IN_A_BUNDLE", 3)
    monkeypatch.setattr(retention, "AT_ONCE", 2)

    done = list(retention.run(settings(), until=date(2024, 2, 1)))

    names = [one.bundle.name for one in done if one.due.of == "runs"]
    assert names == [f"2024-01-{SPEC}-runs.zip", f"2024-01-{SPEC}-runs-2.zip"]
    expired = read.events(store, types=("retention.expired",), newest_first=False)
    assert [len(event.payload["events"]) for event in expired] == [1, 1, 2, 1, 1]
    held(store)


def envelopes(store: AuditStore) -> list[str]:
    with store.reading() as connection:
        return list(connection.execute(text("SELECT envelope FROM event ORDER BY seq")).scalars())


def payloads(store: AuditStore, *ids: str) -> list[str]:
    """Those of these events whose payload is there."""
    with store.reading() as connection:
        rows = connection.execute(text("SELECT e.id FROM payload p JOIN event e ON e.seq = p.event_seq")).scalars()
        there = set(rows)
    return [id for id in ids if id in there]


def held(store: AuditStore) -> Verdict:
    said = verify(store)
    assert said.answer == "held", (said.faults, said.unknown)
    return said


def actor_of(store: AuditStore) -> str:
    return next(read.events(store, types=("retention.expired",))).actor


def on_disk(path: Path) -> bytes:
    log = path.with_name(f"{path.name}-wal")
    return path.read_bytes() + (log.read_bytes() if log.exists() else b"")


def an_alert(spec: str) -> "aging.p.AlertFacts":
    return aging.p.AlertFacts(spec=spec, alert="a", kind="drift", severity="warning", title="drift", body="drift")
