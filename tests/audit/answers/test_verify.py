"""What verification answers, held against what, and in which words, of a file and of a database. tests/attacks has what
it catches."""

import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from audit.answers.verdict import MOST_FAULTS, Verdict
from audit.answers.verify import verify
from audit.artifacts import blobs
from audit.cli.app import main
from audit.events import payloads as p
from audit.events.canonical import canonical, timestamp
from audit.events.event import ENVELOPE_KEYS, Event
from audit.ledger.note import Checkpoint, SigningKey, parse_checkpoint, parse_note, signed
from audit.ledger.sealer import KEPT
from audit.settings import settings
from audit.store.engine import opened
from tests.attacks import superuser
from tests.attacks.forging import owner
from tests.attacks.victim import IN_A_FILE, permission, rotated, told, work
from tests.postgres import postgres_server, postgres_store  # noqa: F401
from tests.sealed_log import ORIGIN, Log, a_log, copied, faults, verified

SIZES = (43, 300, 533)  # of the checkpoints
EVENTS = 538
LAST = SIZES[-1] + 1  # the event that tells of the last checkpoint, which nothing seals
WAITING = ("checkpoint.signed", "flow_run.running", "model.deployed", "task_run.failed", "task_run.running")


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def untouched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Log:
    url = request.getfixturevalue("postgres_store") if request.param == "postgresql" else None
    log = a_log(tmp_path_factory.mktemp("untouched") / "var", url)
    notes = []
    for runs in (10, 64, 58):
        log.append(*work(runs))
        notes.append(log.seal())
    log.append(*work(1))
    assert tuple(parse_checkpoint(parse_note(note).text).size for note in notes) == SIZES
    return replace(log, notes=tuple(notes))


@pytest.fixture
def log(untouched: Log, tmp_path: Path) -> Iterator[Log]:
    made = copied(untouched, tmp_path / "var")
    yield made
    if made.url:
        superuser.dropped(made.url)


def test_what_was_sealed_holds_and_what_waits_is_counted(log: Log) -> None:
    said = verified(log)

    assert (said.answer, said.faults, said.unknown) == ("held", (), ())
    assert (said.events, said.size, said.unsealed, said.unsealed_types) == (EVENTS, SIZES[-1], 5, WAITING)
    assert (said.checkpoints, said.held_to, said.since) == (3, (), 0)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=4))
@hypothesis(max_examples=8)
def test_a_log_sealed_in_any_portions_holds(portions: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = a_log(Path(folder) / "var")
        for count in portions:
            log.append(*work(count)[:count])
            log.seal()

        assert verified(log).answer == "held"


def test_a_fault_is_named_by_event_leaf_and_field(log: Log) -> None:
    log.change("UPDATE event SET severity = 'debug' WHERE seq = 42")

    assert faults(verified(log)) == {log.about(42): "column severity says 'debug', the sealed bytes say 'info'"}


@IN_A_FILE
@given(seq=st.integers(1, EVENTS), column=st.sampled_from(ENVELOPE_KEYS), value=st.text(max_size=12))
@hypothesis(max_examples=40)
def test_any_column_of_any_event_is_held_against_its_envelope(
    untouched: Log, seq: int, column: str, value: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = copied(untouched, Path(folder) / "var")
        value = value.encode("utf-8", "replace").decode() + "."  # never what it was
        with owner(log.database) as db:
            db.execute(f"UPDATE event SET {column} = ? WHERE seq = ?", (value, seq))

        (fault,) = verified(log).faults
        assert fault.what.startswith(f"column {column} says ")
        assert fault.about == untouched.about(seq)


@IN_A_FILE
def test_a_column_is_also_held_against_its_type(log: Log) -> None:
    log.change("UPDATE event SET actor = CAST(actor AS BLOB) WHERE seq = 42")
    log.change("UPDATE event SET deployment = NULL, trace_id = '' WHERE seq = 5")

    found = {(fault.about, fault.what.partition(" says ")[0]) for fault in verified(log).faults}
    assert found == {
        (log.about(42), "column actor"), (log.about(5), "column deployment"), (log.about(5), "column trace_id")
    }  # fmt: skip


def test_an_envelope_that_was_changed_with_its_columns_is_not_the_sealed_one(log: Log) -> None:
    log.change(
        "UPDATE event SET severity = 'debug', envelope = replace(envelope, '\"info\"', '\"debug\"') WHERE seq = 42"
    )

    assert list(faults(verified(log))) == [log.about(42)]
    assert "not the one that was sealed" in faults(verified(log))[log.about(42)]


@IN_A_FILE
@pytest.mark.parametrize(
    ("statement", "about", "what"),
    [
        ("DELETE FROM leaf WHERE idx = 41", "event", "has no leaf"),
        ("UPDATE leaf SET hash = CAST(hash AS TEXT) WHERE idx = 41", "leaf 41", "not kept as 32 bytes"),
        ("UPDATE leaf SET hash = zeroblob(32) WHERE idx = 41", "event", "not the one that was sealed"),
        ("UPDATE leaf SET event_seq = 1000 WHERE idx = 41", "leaf 41", "event_seq is 1000, not 42"),
        ("DELETE FROM event WHERE seq = 42", "leaf 41", "its event is missing"),
        ("UPDATE event SET seq = 1000 WHERE seq = 42", "event at seq 539 to 999", "is missing"),
        ("DELETE FROM event WHERE seq >= 500", "leaf 499", "its event is missing"),
        ("DELETE FROM event WHERE seq >= 500", "leaf 532", "its event is missing"),
        ("DELETE FROM payload WHERE event_seq = 42", "event", "its payload is missing"),
        (
            "UPDATE payload SET event_seq = 1000 WHERE event_seq = 42",
            "payload at event_seq 1000",
            "belongs to no event",
        ),
        ("UPDATE payload SET salt = CAST(salt AS TEXT) WHERE event_seq = 42", "event", "not kept as it was"),
        ("UPDATE payload SET salt = x'00' WHERE event_seq = 42", "event", "salt has 1 bytes"),
        ("UPDATE node SET hash = zeroblob(32) WHERE idx = 1", "node 1 of level 8", "not the one that the leaves imply"),
        ("UPDATE node SET hash = CAST(hash AS TEXT) WHERE idx = 1", "node 1 of level 8", "not the one"),
        ("DELETE FROM node WHERE idx = 1", "node 1 of level 8", "is missing"),
        ("INSERT INTO node VALUES (16, 0, zeroblob(32))", "node 0 of level 16", "put in"),
        ("DELETE FROM checkpoint WHERE size = 533", "checkpoint of size 533", "it was removed"),
        (
            "UPDATE checkpoint SET note = CAST(note AS BLOB) WHERE size = 300",
            "checkpoint of size 300",
            "not kept as TEXT",
        ),
        ("UPDATE checkpoint SET size = 299 WHERE size = 300", "checkpoint of size 299", "its note is of size 300"),
        ("DELETE FROM leaf WHERE idx = 532", "tree", "has 532 leaves, its last checkpoint is of size 533"),
        ("INSERT INTO anchor VALUES (42, 300, 'timestamp', x'00')", "anchor at event_seq 42", "put in"),
        ("INSERT INTO withdrawal VALUES (42, 43)", "event", "not permitted"),
    ],
)
def test_each_row_that_is_not_as_it_was_is_named(log: Log, statement: str, about: str, what: str) -> None:
    named = log.about(42) if about == "event" else about
    log.change(statement)

    assert what in " ".join(fault.what for fault in verified(log).faults if fault.about == named)


def test_a_checkpoint_is_as_the_event_says_that_tells_of_it(log: Log) -> None:
    """That of the last one nothing seals yet: it can be another one."""
    head = parse_checkpoint(parse_note(log.notes[-1]).text)
    facts = p.CheckpointFacts(
        size=head.size, root=b64encode(head.root).decode(), previous=43, keys=[], digest="sha256:00"
    )  # fmt: skip
    other = told("checkpoint.signed", facts, "checkpoint/533")
    columns = ", ".join(f"{key} = ?" for key in ENVELOPE_KEYS)
    values = [getattr(other, key) for key in ENVELOPE_KEYS]
    log.change(f"UPDATE event SET {columns}, envelope = ? WHERE seq = {LAST}", *values, other.envelope)
    log.change(f"UPDATE payload SET salt = ?, body = ? WHERE event_seq = {LAST}", other.salt, other.body)

    said = [fault.what for fault in verified(log).faults if fault.about == "checkpoint of size 533"]
    assert [what.split()[1] for what in said] == ["previous", "keys", "digest"]


def test_a_withdrawal_is_permitted_by_a_later_event_only(log: Log) -> None:
    later = told("store.opened", p.StoreFacts(), "later")
    log.append(permission("privacy.erased", [later.id], log.key), later)
    log.seal()
    with owner(log.database) as db:
        db.execute(f"INSERT INTO withdrawal VALUES ({EVENTS + 2}, {EVENTS + 1})")
        db.execute(f"DELETE FROM payload WHERE event_seq = {EVENTS + 2}")

    (fault,) = verified(log).faults
    assert fault.what.endswith("is not later")


def test_no_more_faults_are_listed_than_people_read_and_the_others_are_counted(log: Log) -> None:
    log.change("UPDATE event SET severity = 'debug' WHERE seq <= 250")

    said = verified(log)
    assert (len(said.faults), said.more_faults) == (MOST_FAULTS, 250 - MOST_FAULTS)


HONEST = 'größe/“quoted” \\ "x" \t\x7f 🛫\u2028'


def test_what_json_writes_in_two_ways_is_no_fault(log: Log) -> None:
    """SQLite escapes other characters than we do: then the columns are compared one by one."""
    log.append(told("store.opened", p.StoreFacts(), HONEST))
    log.seal()

    said = verified(log)
    assert (said.answer, said.unsealed) == ("held", 1)


@pytest.mark.parametrize(
    ("envelope", "what"),
    [
        ("replace(envelope, '{', '{\"id\":\"x\",')", "not in canonical form"),
        ("replace(envelope, ':', ': ')", "not in canonical form"),
        ("replace(envelope, '\"info\"', '\"\\u0069nfo\"')", "not in canonical form"),
        (
            "replace(envelope, '\"schema_version\":1', '\"schema_version\":1.0')",
            "not in canonical form|schema_version is",
        ),
        ("replace(envelope, '\"schema_version\":1', '\"schema_version\":NaN')", "no JSON"),
        ("replace(envelope, '\"schema_version\":1', '\"schema_version\":true')", "schema_version is True"),
        ("replace(envelope, '\"schema_version\":1', '\"schema_version\":0')", "schema_version is 0"),
        ("replace(envelope, '\"severity\"', '\"sev\"')", "surplus or missing keys: 'sev', 'severity'"),
        ("replace(envelope, '\"info\"', 'null')", "the envelope's severity is None"),
        ("'[' || envelope || ']'", "no JSON object"),
        ("replace(envelope, '\"info\"', '\"' || replace('         ', ' ', envelope || envelope) || '\"')", "no JSON"),
        ("''", "no JSON"),
    ],
)
def test_an_envelope_has_one_reading_also_where_nothing_seals_it(log: Log, envelope: str, what: str) -> None:
    log.change(f"UPDATE event SET envelope = {envelope} WHERE seq = {EVENTS - 4} + 1")

    demand_unsealed(verified(log), what)


@IN_A_FILE
@pytest.mark.parametrize(
    ("envelope", "what"),
    [
        ("CAST(x'ff' || envelope AS TEXT)", "no JSON"),
        ("CAST(envelope AS BLOB)", "kept as blob"),
        ("replace(envelope, '\"info\"', '\"' || hex(zeroblob(5000)) || '\"')", "bytes, more than 8192"),
    ],
)
def test_an_envelope_of_a_file_has_one_reading(log: Log, envelope: str, what: str) -> None:
    log.change(f"UPDATE event SET envelope = {envelope} WHERE seq = {EVENTS - 4} + 1")

    demand_unsealed(verified(log), what)


def demand_unsealed(said: Verdict, what: str) -> None:
    assert any(
        fault.about.endswith("(not sealed)") and any(part in fault.what for part in what.split("|"))
        for fault in said.faults
    ), said.faults


@pytest.mark.parametrize(
    ("subject", "bend", "what"),
    [
        ("two\nlines", lambda envelope: envelope.replace("\\n", "\\u000a"), "not in canonical form"),
        ("größe", lambda envelope: envelope.replace("ö", "\\u00f6"), "not in canonical form"),
        ("long" * 2_500, lambda envelope: envelope, "more than 8192"),
    ],
    ids=["escaped otherwise", "escaped needlessly", "too long"],
)
def test_an_envelope_out_of_shape_is_told_of_though_it_was_sealed(log: Log, subject: str, bend: Any, what: str) -> None:
    event = told("store.opened", p.StoreFacts(), "short")
    said = canonical(orjson.loads(event.envelope) | {"subject": subject}).decode()
    log.append(replace(event, subject=subject, envelope=bend(said)))
    log.seal()

    (fault,) = verified(log).faults
    assert what in fault.what


@IN_A_FILE
def test_a_number_where_text_belongs_is_told_of_though_the_envelope_has_one_too(log: Log) -> None:
    retyped(log, "flow_run_id TEXT", "flow_run_id")
    number = "replace(envelope, '\"' || flow_run_id || '\"', 5)"
    log.change(f"UPDATE event SET flow_run_id = 5, envelope = {number} WHERE seq = 536")
    retyped(log, "flow_run_id,", "flow_run_id TEXT,")

    (fault,) = verified(log).faults
    assert fault.what == "the envelope's flow_run_id is 5"


@IN_A_FILE
def test_a_column_that_compares_without_case_is_read_all_the_same(log: Log) -> None:
    log.change("UPDATE event SET severity = 'INFO' WHERE seq = 42")
    retyped(log, "envelope TEXT", "envelope TEXT COLLATE NOCASE")

    assert set(faults(verified(log))) == {"table event", log.about(42)}


def retyped(log: Log, was: str, to: str) -> None:
    with closing(sqlite3.connect(log.file)) as db, db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name = 'event'", (was, to))


def test_an_envelope_of_a_later_schema_may_mean_something_else(log: Log) -> None:
    event = told("store.opened", p.StoreFacts(), "store")
    later = canonical(orjson.loads(event.envelope) | {"schema_version": 2}).decode()
    log.append(replace(event, schema_version=2, envelope=later))
    log.seal()

    said = verified(log)
    assert (said.answer, said.faults) == ("could not tell", ())
    assert "later release" in said.unknown[0]


@IN_A_FILE
def test_what_a_later_release_wrote_is_not_judged(log: Log) -> None:
    later = '\'{"id":\' || json_quote(id) || \',"new":1.5,"schema_version":2}\''
    log.change(f"UPDATE event SET schema_version = 2, envelope = {later} WHERE seq = {EVENTS}")

    said = verified(log)
    assert any("later release" in what for what in said.unknown)
    assert said.answer != "held"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("time", "9999-12-31T23:59:59.999999Z"),
        ("time", "0001-01-01T00:00:00.000000Z"),
        ("time", "soon"),
        ("recorded_at", "9999-12-31T23:59:59.999999Z"),
        ("subject", "checkpoint/" + "9" * 5_000),
        ("subject", "checkpoint/-1"),
        ("subject", ""),
    ],
)
def test_what_nothing_seals_may_say_anything_and_gets_an_answer(log: Log, column: str, value: str) -> None:
    log.change(
        f"UPDATE event SET {column} = ?, envelope = replace(envelope, {column}, ?) WHERE seq = ?", value, value, LAST
    )

    assert verified(log).answer in ("held", "did not hold")


@IN_A_FILE
@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE event SET envelope = '{{\"id\":' || ? || '}}' WHERE seq = {LAST}",
        "UPDATE payload SET salt = 5 WHERE event_seq = 42 AND ? <> ''",
        "UPDATE payload SET body = NULL WHERE event_seq = 42 AND ? <> ''",
        "UPDATE checkpoint SET note = NULL WHERE size = 300 AND ? <> ''",
        "UPDATE checkpoint SET note = 7 WHERE size = 300 AND ? <> ''",
        "UPDATE leaf SET event_seq = ? WHERE idx = 41",
        "INSERT INTO withdrawal VALUES (42, ?)",
        "INSERT INTO anchor VALUES (42, ?, NULL, NULL)",
    ],
)
def test_rows_that_make_no_sense_get_an_answer(log: Log, statement: str) -> None:
    log.change(statement, "[" * 400 + "]" * 400)

    assert verified(log).answer == "did not hold"
    verified(log, since=300)


@IN_A_FILE
def test_triggers_that_are_gone_are_worth_a_word(log: Log) -> None:
    with closing(sqlite3.connect(log.file)) as db:
        db.execute("DROP TRIGGER leaf_no_update")

    said = verified(log)
    assert said.answer == "held"
    assert any("leaf_no_update" in note for note in said.notes)


# Held to what was kept


def test_a_checkpoint_that_was_kept_is_continued(log: Log) -> None:
    log.append(*work(70))
    log.seal()

    said = verified(log, kept=[log.notes[1]], elsewhere=[("published at x", log.notes[2])])
    assert said.answer == "held"
    assert [what.partition(", signed")[0] for what in said.held_to] == [
        "checkpoint of size 300 that you kept", "checkpoint of size 533 published at x"
    ]  # fmt: skip


def test_a_checkpoint_whose_row_went_is_still_held_against_the_tree(log: Log) -> None:
    log.change("DELETE FROM checkpoint WHERE size = 300")
    bent = signed(parse_note(log.notes[1]).text.replace("300", "299"), [log.key])

    assert "another root" in faults(verified(log, kept=[str(bent)]))["checkpoint of size 299 that you kept"]


def test_a_log_that_was_cut_back_is_not_the_one_of_the_checkpoint(log: Log, untouched: Log, tmp_path: Path) -> None:
    newer = copied(untouched, tmp_path / "newer")
    newer.append(*work(1))
    kept = newer.seal()
    size = parse_checkpoint(parse_note(kept).text).size

    said = verified(log, kept=[kept])
    assert faults(said) == {
        f"checkpoint of size {size} that you kept": "the log was cut back: the store has 533 leaves"
    }


def test_a_checkpoint_of_the_same_log_by_a_key_that_it_does_not_know(log: Log) -> None:
    other = str(signed(parse_note(log.notes[0]).text, [SigningKey(ORIGIN, secrets.token_bytes(32))]))

    assert "signed by no key of this log" in faults(verified(log, kept=[other]))["checkpoint of size 43 that you kept"]


def test_a_checkpoint_of_another_log(log: Log, tmp_path: Path) -> None:
    head = parse_note(log.notes[0]).text.replace(ORIGIN, "acme.example/other")
    other = str(signed(head, [SigningKey("acme.example/other", secrets.token_bytes(32))]))

    assert "of the log acme.example/other" in faults(verified(log, kept=[other]))["checkpoint of size 43 that you kept"]


@pytest.mark.parametrize(
    "bend", [lambda note: note[:50], lambda note: note.replace("\n43\n", "\n44\n"), lambda note: ""]
)
def test_a_checkpoint_that_is_damaged_itself_judges_nothing(log: Log, bend: Any) -> None:
    said = verified(log, kept=[bend(log.notes[0])])

    assert (said.answer, said.faults) == ("could not tell", ())
    assert "that you kept" in said.unknown[0]


def test_the_key_that_was_kept_is_the_logs(log: Log) -> None:
    assert verified(log, key=log.key.verifier).held_to == (f"key {log.key.verifier.shown} that you kept",)


def test_a_key_that_was_kept_is_not_the_logs(log: Log) -> None:
    other = SigningKey(ORIGIN, secrets.token_bytes(32)).verifier

    assert other.shown in faults(verified(log, key=other))["log key"]


def test_a_key_that_handed_over_still_vouches(log: Log) -> None:
    new = SigningKey(ORIGIN, secrets.token_bytes(32))
    log.seal(new, rotated(log.key, new), takes_over_from=log.key)

    for key in (log.key, new):
        assert verified(log, key=key.verifier).answer == "held"


def test_a_key_that_was_lost_vouches_for_nothing_since(log: Log) -> None:
    new = SigningKey(ORIGIN, secrets.token_bytes(32))
    lost = p.KeyFacts(purpose="log", fingerprint=log.key.verifier.shown)
    made = p.KeyFacts(purpose="log", fingerprint=new.verifier.shown, vkey=str(new.verifier))
    log.seal(new, told("key.lost", lost, "key/log"), told("key.created", made, "key/log"))

    said = verified(log, key=log.key.verifier)
    assert (said.answer, said.faults) == ("could not tell", ())
    assert "lost" in said.unknown[0]
    assert not any("lost" in note for note in said.notes), "told once"
    assert verified(log, key=new.verifier).answer == "held"
    assert any("declared lost" in note for note in verified(log).notes)


# Going on from a checkpoint


def test_what_a_checkpoint_sealed_is_not_read_again(log: Log) -> None:
    log.change("UPDATE event SET severity = 'debug' WHERE seq = 42")

    said = verified(log, since=300)
    assert (said.answer, said.events, said.since, said.size) == ("held", EVENTS - 300, 300, SIZES[-1])
    assert any("not read again" in note and "in the store" in note for note in said.notes)


@pytest.mark.parametrize("since", SIZES)
def test_what_came_after_is(log: Log, since: int) -> None:
    assert verified(log, since=since, key=log.key.verifier, kept=log.notes).answer == "held"
    log.change("UPDATE event SET severity = 'debug' WHERE seq = ?", since + 1)

    assert list(faults(verified(log, since=since))) == [log.about(since + 1)]


def test_it_goes_on_from_a_checkpoint_that_was_kept_though_its_row_went(log: Log) -> None:
    log.change("DELETE FROM checkpoint WHERE size = 300")

    said = verified(log, since=300, kept=[log.notes[1]])
    assert "checkpoint of size 300" in faults(said)
    assert any("that you kept" in note for note in said.notes)


@pytest.mark.parametrize("since", [1, 299, 10_000])
def test_there_is_no_going_on_from_what_is_no_checkpoint(log: Log, since: int) -> None:
    said = verified(log, since=since)

    assert (said.answer, len(said.unknown)) == ("could not tell", 1)
    assert f"no checkpoint of size {since}" in said.unknown[0]


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("UPDATE leaf SET hash = ? WHERE idx = 298", [bytes(32)]),
        ("UPDATE node SET hash = ? WHERE idx = 0", [bytes(32)]),
        ("DELETE FROM node WHERE idx = 0", []),
        ("DELETE FROM leaf WHERE idx = 260", []),
        ("UPDATE leaf SET hash = 'text' WHERE idx = 298", []),
    ],
)
def test_it_does_not_go_on_from_a_stored_tree_that_does_not_fit(log: Log, statement: str, values: list[bytes]) -> None:
    log.change(statement, *values)

    assert "does not lead to its root" in faults(verified(log, since=300))["checkpoint of size 300"]


def test_a_checkpoint_from_before_is_proven_to_be_continued(log: Log) -> None:
    head = parse_checkpoint(parse_note(log.notes[0]).text)
    other = str(signed(Checkpoint(ORIGIN, 43, head.root[::-1]).text, [log.key]))

    assert list(faults(verified(log, since=300, kept=[other]))) == ["checkpoint of size 43 that you kept"]


def test_the_key_is_proven_where_its_event_is_not_read_again(log: Log) -> None:
    """Whoever owns the file names another key in the past, and signs with it."""
    forger = SigningKey(ORIGIN, secrets.token_bytes(32))
    made = told("key.created", p.KeyFacts(purpose="log", fingerprint="x", vkey=str(forger.verifier)), "key/log")
    with owner(log.database) as db:
        (seq,) = db.execute("SELECT seq FROM event WHERE type = 'key.created' AND subject = 'key/log'").fetchone()
        db.execute(
            "UPDATE event SET payload_hash = ?, envelope = ?, id = ? WHERE seq = ?",
            (made.payload_hash, made.envelope, made.id, seq),
        )
        db.execute("UPDATE payload SET salt = ?, body = ? WHERE event_seq = ?", (made.salt, made.body, seq))

    assert f"event {made.id} (leaf {seq - 1})" in faults(verified(log, since=300))


# Whatever lies there


def test_a_store_that_was_never_sealed(tmp_path: Path) -> None:
    log = a_log(tmp_path / "var")

    said = verified(log)
    assert (said.answer, said.unsealed) == ("could not tell", 3)
    assert "audit seal" in said.unknown[0]


@IN_A_FILE
def test_a_copy_is_verified_without_a_change_to_it(log: Log, tmp_path: Path) -> None:
    """Also with what a process that was killed has left in the -wal file."""
    with closing(sqlite3.connect(log.file)) as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("PRAGMA user_version = 7")
        db.commit()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        for name in ("audit.db", "audit.db-wal"):
            shutil.copy(log.home / name, elsewhere / name)
    before = [(elsewhere / name).read_bytes() for name in ("audit.db", "audit.db-wal")]

    assert verify(opened(elsewhere / "audit.db")).answer == "held"
    assert [(elsewhere / name).read_bytes() for name in ("audit.db", "audit.db-wal")] == before


@IN_A_FILE
def test_a_copy_in_a_folder_that_cannot_be_written(log: Log, tmp_path: Path) -> None:
    """As somebody else than root, who may write everywhere."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(log.file, Path(folder) / "audit.db")
        (Path(folder) / "audit.db").chmod(0o444)
        Path(folder).chmod(0o555)
        command = [sys.executable, "-m", "audit", "verify", "--json", "--store", f"{folder}/audit.db"]
        other = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, **other)
        assert [path.name for path in Path(folder).iterdir()] == ["audit.db"]
        Path(folder).chmod(0o755)

    assert (json.loads(done.stdout)["answer"], done.stderr) == ("held", "")


def test_others_write_meanwhile_and_it_sees_one_moment(log: Log) -> None:
    def write(_done: int, _of: int) -> None:
        if not written:
            written.append(log.append(*work(1)))

    written: list[None] = []
    said = verified(log, progress=write)
    assert (said.answer, said.events, len(written)) == ("held", EVENTS, 1)
    assert verified(log).events == EVENTS + 4


def test_progress_is_told_up_to_the_last_event(log: Log) -> None:
    told: list[tuple[int, int]] = []
    verified(log, progress=lambda done, of: told.append((done, of)))

    assert told[-1] == (EVENTS, EVENTS)
    assert told == sorted(told)


def another_application(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute("DROP TABLE IF EXISTS alembic_version")
        db.execute("CREATE TABLE accounts (id INTEGER)")


def schema(version: str) -> Any:
    def change(file: Path) -> None:
        with closing(sqlite3.connect(file)) as db, db:
            db.execute("UPDATE alembic_version SET version_num = ?", (version,))

    return change


@IN_A_FILE
@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda file: file.unlink(), "There is no audit store"),
        (lambda file: file.write_bytes(b""), "is empty"),
        (lambda file: file.write_text("this is no database " * 99), "is no audit store"),
        (another_application, "of another application"),
        (schema("0001"), "audit init"),
        (schema("9999"), "Update prefect-audit"),
        (lambda file: file.write_bytes(file.read_bytes()[:5_000]), "malformed"),
    ],
    ids=["missing", "empty", "no database", "another application", "older", "newer", "truncated"],
)
def test_what_is_no_store_gets_no_verdict(log: Log, spoil: Any, what: str) -> None:
    spoil(log.file)

    said = verified(log)
    assert (said.answer, said.faults) == ("could not tell", ())
    assert len(said.unknown) >= 1 and any(what in line and "\n" not in line for line in said.unknown)


@IN_A_FILE
def test_a_store_that_is_locked(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.store.evidence_sqlite.BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(log.file, isolation_level=None)) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")

        said = verified(log)
    assert said.answer == "could not tell" and "locked" in said.unknown[0]


@IN_A_FILE
@pytest.mark.parametrize("page", range(12, 60, 8))
def test_a_page_that_is_damaged_is_no_half_answer(log: Log, page: int) -> None:
    """What was found before it is told all the same."""
    log.change("UPDATE event SET severity = 'debug' WHERE seq = 1")
    with closing(sqlite3.connect(log.file)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,) = db.execute("PRAGMA page_size").fetchone()
    with log.file.open("r+b") as file:
        file.seek(page * size)
        file.write(secrets.token_bytes(size))

    said = verified(log)
    assert said.answer != "held"
    assert said.unknown or said.faults


# Artifacts


@pytest.fixture
def referring(home: Path) -> tuple[Log, list[str]]:
    """A log, and the addresses of two artifacts that it refers to."""
    log = a_log(home)
    addresses = [blobs.put(data) for data in (b"a page", b"a model")]
    for address in (*addresses, addresses[0]):
        digest = address.replace("artifact://sha256/", "sha256:")
        used = p.Used(name="return", kind="report", of="card", address=address, digest=digest)
        log.append(told("task_run.completed", p.RunState(run_name="card", of="card", outputs=[used]), "task-run/card"))
    log.seal()
    return log, addresses


def test_artifacts_are_counted_and_hashed_again_if_asked_for(referring: tuple[Log, list[str]]) -> None:
    log, _ = referring

    for again in (False, True):
        said = verified(log, artifacts=again)
        told = ("2 of 2 artifacts were hashed again and are what was recorded.",) if again else ()
        assert (said.answer, said.artifacts, said.notes) == ("held", 2, told)


def test_an_artifact_that_differs_is_a_fault_once_it_is_hashed(referring: tuple[Log, list[str]]) -> None:
    log, (_, address) = referring
    path = blobs.local_path(address)
    assert path is not None
    path.write_bytes(b"another")

    assert verified(log).answer == "held"
    assert list(faults(verified(log, artifacts=True))) == [address]


def test_an_artifact_that_is_missing_is_told(referring: tuple[Log, list[str]]) -> None:
    log, (address, _) = referring
    path = blobs.local_path(address)
    assert path is not None
    path.unlink()

    noted, asked = verified(log), verified(log, artifacts=True)
    assert (noted.answer, asked.answer) == ("held", "could not tell")
    assert address in noted.notes[0] and address in asked.unknown[0]


def test_without_the_folder_nothing_is_made_up(referring: tuple[Log, list[str]], home: Path) -> None:
    log, _ = referring
    shutil.rmtree(home / "artifacts")

    noted, asked = verified(log), verified(log, artifacts=True)
    assert (noted.answer, asked.answer) == ("held", "could not tell")
    assert not (home / "artifacts").exists()


# The command


@dataclass(frozen=True)
class Shown:
    """What the command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def audit(log: Log, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """The command where the log lives, its output in no terminal."""

    def run(*words: str) -> Shown:
        for name, value in log.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["audit", *words])
        settings.cache_clear()
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        settings.cache_clear()
        return Shown(int(ended.value.code or 0), *capfd.readouterr())

    return run


def kept(log: Log, note: str, name: str = "kept") -> str:
    file = log.home.parent / name
    file.write_text(note)
    return str(file)


def test_the_command_says_what_held_to_what_it_was_held_and_what_that_does_not_show(log: Log, audit: Any) -> None:
    shown = audit("verify", "--checkpoint", kept(log, log.notes[1]), "--key", str(log.key.verifier))

    assert (shown.code, shown.err) == (0, "")
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert lines[0].startswith(
        "538 events · 533 sealed, 5 waiting (checkpoint.signed, flow_run.running, model.deployed, task_run.failed, "
        "task_run.running) · tree of 533 · 3 checkpoints, each consistent with the last · 0 anchors"
    )
    assert lines[1] == "held nothing changed, removed, inserted or reordered since it was sealed"
    assert lines[2].startswith("held to checkpoint of size 300 that you kept, signed 20")
    assert lines[3] == f"held to key {log.key.verifier.shown} that you kept"
    assert lines[-1].startswith("not shown that what was recorded was true")
    assert "\x1b" not in shown.out


def test_the_command_says_that_nothing_outside_held_it(audit: Any) -> None:
    assert "nothing outside of the store" in audit("verify").out


def test_the_checkpoint_that_this_machine_signed_last_is_held_against_the_store(log: Log, audit: Any) -> None:
    (log.home / "keys" / KEPT).write_text(log.notes[-1])
    assert "held to         checkpoint of size 533 that this machine signed last" in audit("verify").out

    (log.home / "keys" / KEPT).write_text(log.notes[-1].replace("\n533\n", "\n534\n"))
    assert audit("verify").code == 2
    (log.home / "keys" / KEPT).write_text(str(signed(f"{ORIGIN}\n600\n{'A' * 43}=\n", [log.key])))
    shown = audit("verify")
    assert shown.code == 1 and "the log was cut back" in shown.out


def test_the_command_names_faults_and_what_to_do(log: Log, audit: Any) -> None:
    log.change("UPDATE event SET severity = 'debug' WHERE seq = 42")

    shown = audit("verify")
    lines = shown.out.splitlines()
    assert shown.code == 1
    assert lines[1].split() == ["did", "not", "hold", "1", "fault"]
    assert lines[2] == f"  {log.about(42)}: column severity says 'debug', the sealed bytes say 'info'"
    assert lines[3].startswith("  The store was changed behind its triggers. Keep it as it is")


def test_the_command_speaks_json(log: Log, audit: Any) -> None:
    log.change("UPDATE event SET severity = 'debug' WHERE seq = 42")

    shown = audit("verify", "--json", "--since-checkpoint", "43")
    assert (json.loads(shown.out)["answer"], shown.code) == ("held", 0)
    said = json.loads(audit("verify", "--json").out)
    assert (said["answer"], said["faults"][0]["about"]) == ("did not hold", log.about(42))


@pytest.mark.parametrize(
    "words",
    [
        ("--checkpoint", "missing"),
        ("--since-checkpoint", "missing"),
        ("--since-checkpoint", "44"),
        ("--key", "acme.example/flights+00000000+AAAA"),
        ("--key", "missing"),
        ("--witness", "missing"),
        ("--tsa-roots", "missing"),
        ("--published", "missing"),
        ("--store", "missing"),
        ("--store", "."),
        ("--proof", "missing", "--artifacts"),
    ],
    ids=" ".join,
)
def test_what_the_command_is_given_and_cannot_use_is_no_fault_of_the_log(audit: Any, words: tuple[str, ...]) -> None:
    shown = audit("verify", *words)

    assert shown.code == 2
    assert len(shown.err.splitlines()) == 1 or "could not tell" in shown.out
    assert "Traceback" not in shown.err


def test_the_command_goes_on_from_a_file(log: Log, audit: Any) -> None:
    shown = audit("verify", "--since-checkpoint", kept(log, log.notes[1]))

    assert shown.code == 0
    assert (
        "Leaves before 300 were not read again: that rests on the checkpoint of this size that you kept." in shown.out
    )


def test_the_command_reads_a_key_from_the_file_that_log_key_writes(log: Log, audit: Any) -> None:
    assert audit("log-key", "-o", str(log.home.parent / "handed")).code == 0
    shown = audit("verify", "--key", str(log.home.parent / "handed" / "log.vkey"))
    assert shown.code == 0 and "that you kept" in shown.out


@IN_A_FILE
def test_the_command_verifies_a_copy_without_a_home(log: Log, tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AUDIT_")}
    command = [sys.executable, "-m", "audit", "verify", "--store", str(log.file)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=environ | {"PYTHONPATH": str(Path.cwd())},
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "held   " in done.stdout


def test_events_that_come_long_after_later_ones_are_worth_a_word(tmp_path: Path) -> None:
    log = a_log(tmp_path / "var")
    early = datetime.now(UTC) - timedelta(hours=2)
    log.seal()
    log.append(recorded_at(told("store.opened", p.StoreFacts(), "spooled"), early))
    log.seal()

    said = verified(log)
    assert said.answer == "held"
    assert any(note.startswith("1 event was sealed more than an hour") for note in said.notes)


def recorded_at(event: Event, at: datetime) -> Event:
    """As if it had waited in the spool."""
    said = orjson.loads(event.envelope) | {"recorded_at": timestamp(at)}
    return replace(event, recorded_at=timestamp(at), envelope=canonical(said).decode())
