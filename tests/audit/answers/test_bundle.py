"""`audit export`: what a bundle holds, and when there is none."""

import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from audit.answers.bundle import export, verify_bundle
from audit.errors import AuditError, CouldNotTell, InconsistentTree, NotFound, UserError
from audit.settings import read_settings
from audit.store.append import append
from audit.store.engine import open_store
from audit.store.ledger import Part
from tests.anchoring import found_authority
from tests.attacks.forging import owner
from tests.attacks.victim import ACTOR, ERASER, work
from tests.handed_out import AT, SIZE, WITHDRAWN, Log, lines, members, stamp, unlined, verified, zipped


def leaves(bundle: Path) -> list[int]:
    return [line["index"] for line in lines(members(bundle)["events.jsonl"])]


def test_the_whole_log_is_in_it(log: Log, bundle: Path) -> None:
    verdict = verify_bundle(bundle, key=log.key, kept=log.notes, witnesses=[log.witness_key])
    assert (verdict.answer, verdict.events, verdict.size, verdict.checkpoints) == ("held", SIZE, SIZE, len(log.notes))
    assert (verdict.anchors, verdict.withdrawals) == (1, ((ERASER, 1),))
    assert leaves(bundle) == list(range(SIZE))
    assert WITHDRAWN not in [line["index"] for line in lines(members(bundle)["events.jsonl"]) if "payload" in line]


def test_the_same_log_makes_the_same_bytes(log: Log, bundle: Path, tmp_path: Path) -> None:
    assert log.bundle(tmp_path / "again.zip").read_bytes() == bundle.read_bytes()
    export(log.store, tmp_path / "later.zip", by=ACTOR, at=AT + timedelta(days=1))
    later, now = members(tmp_path / "later.zip"), members(bundle)
    assert {name for name in now if later[name] != now[name]} == {"manifest.json"}


def test_a_bundle_is_for_its_owner(bundle: Path) -> None:
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600


def test_payloads_can_stay_at_home(log: Log, tmp_path: Path) -> None:
    for path in (
        log.bundle(tmp_path / "bare.zip", payloads=False),
        log.part(tmp_path / "part.zip", payloads=False),
    ):
        assert not any(
            {"payload", "salt", "withdrawn_by"} & line.keys() for line in lines(members(path)["events.jsonl"])
        )
        assert verified(path, key=log.key).answer == "held"


def test_payloads_do_not_come_back_into_a_bundle_without_any(log: Log, bundle: Path, tmp_path: Path) -> None:
    content = members(log.bundle(tmp_path / "bare.zip", payloads=False))
    bent = zipped(tmp_path / "bent.zip", content | {"events.jsonl": members(bundle)["events.jsonl"]})
    assert verified(bent).answer == "did not hold"


PARTS: dict[str, dict[str, Any]] = {
    "an event": {"events": (7, 9)},
    "types": {"types": ("model.*", "key.created")},
    "a run": {"run": 3},
    "a time": {"since": 6, "until": 10},
}


@pytest.mark.parametrize("chosen", PARTS.values(), ids=PARTS)
def test_a_part_has_what_was_chosen(chosen: dict[str, Any], log: Log, bundle: Path, tmp_path: Path) -> None:
    said = [orjson.loads(line["envelope"]) for line in lines(members(bundle)["events.jsonl"])]
    if "events" in chosen:
        part, expected = Part(events=tuple(said[leaf]["id"] for leaf in chosen["events"])), list(chosen["events"])
    elif "types" in chosen:
        part = Part(types=chosen["types"])
        expected = [leaf for leaf, one in enumerate(said) if one["type"] in ("model.deployed", "key.created")]
    elif "run" in chosen:
        run = said[chosen["run"]]["flow_run_id"]
        part, expected = Part(run=run), [leaf for leaf, one in enumerate(said) if one["flow_run_id"] == run]
    else:
        since, until = said[chosen["since"]]["time"], said[chosen["until"]]["time"]
        part = Part(since=since, until=until)
        expected = [leaf for leaf, one in enumerate(said) if since <= one["time"] < until]
    permits = [12] if WITHDRAWN in expected else []
    path = log.bundle(tmp_path / "part.zip", part=part)
    assert leaves(path) == sorted({*expected, *permits})
    assert next(iter(chosen)) in lines(members(path)["manifest.json"])[0]["part"]
    assert verified(path, key=log.key).answer == "held"


def test_a_part_without_what_permits_a_withdrawal_does_not_hold(log: Log, tmp_path: Path) -> None:
    path = log.bundle(tmp_path / "part.zip", part=Part(events=(log.id(WITHDRAWN),)))
    assert verify_bundle(path).withdrawals == ((ERASER, 1),)
    content = members(path)
    found = lines(content["events.jsonl"])
    manifest = lines(content["manifest.json"])[0] | {"events": 1}
    bent = zipped(
        tmp_path / "bent.zip", content | {"events.jsonl": unlined(found[:1]), "manifest.json": unlined([manifest])}
    )
    assert verified(bent).answer == "did not hold"


def test_what_is_not_sealed_is_not_in_it(log: Log, tmp_path: Path) -> None:
    copy = log.copied(tmp_path / "var")
    (event, *_) = work(1)
    append(copy.store, [event])
    assert leaves(copy.bundle(tmp_path / "bundle.zip")) == list(range(SIZE))
    with pytest.raises(NotFound, match="audit seal"):
        copy.bundle(tmp_path / "part.zip", part=Part(events=(event.id,)))
    assert not (tmp_path / "part.zip").exists()


def test_where_nothing_is_sealed_there_is_nothing_to_hand_out(tmp_path: Path, home: Path) -> None:
    store = open_store(read_settings({"AUDIT_HOME": str(home)}, home))
    with pytest.raises(CouldNotTell, match="audit seal"):
        export(store, tmp_path / "bundle.zip", by=ACTOR, at=AT)


OF_KEYS = "event_seq IN (SELECT seq FROM event WHERE type GLOB 'key.*')"
CHANGES = {
    "envelope": "UPDATE event SET envelope = replace(envelope, 'info', 'warn') WHERE seq = 6",
    "event": "DELETE FROM event WHERE seq = 6",
    "payload": "UPDATE payload SET body = body || ' ' WHERE event_seq = 6",
    "salt": "UPDATE payload SET salt = zeroblob(32) WHERE event_seq = 6",
    "salt in the payload": "UPDATE payload SET salt = salt || CAST(substr(body, 1, 1) AS BLOB), body = substr(body, 2)",
    "payload gone": "DELETE FROM payload WHERE event_seq = 6",
    "leaf hash": "UPDATE leaf SET hash = zeroblob(32) WHERE idx = 5",
    "leaf gone": "DELETE FROM leaf WHERE idx = 5",
    "last leaf gone": f"DELETE FROM leaf WHERE idx = {SIZE - 1}",
    "first leaf gone": "DELETE FROM leaf WHERE idx = 0",
    "checkpoint": "UPDATE checkpoint SET note = replace(note, 'acme', 'evil') WHERE size = 11",
    "checkpoint is no note": "UPDATE checkpoint SET note = '' WHERE size = 11",
    "checkpoint is of another size": "UPDATE checkpoint SET size = 12 WHERE size = 11",
    "last checkpoint gone": f"DELETE FROM checkpoint WHERE size = {SIZE}",
    "keys": f"UPDATE payload SET body = '{{}}' WHERE {OF_KEYS}",
    "keys are no JSON": f"UPDATE payload SET body = '{{' WHERE {OF_KEYS}",
    "keys are a list": f"UPDATE payload SET body = '[]' WHERE {OF_KEYS}",
    "checkpoint is no text": "UPDATE checkpoint SET note = CAST(note AS BLOB) WHERE size = 11",
    "last checkpoint is no text": f"UPDATE checkpoint SET note = CAST(note AS BLOB) WHERE size = {SIZE}",
    "cosignature": "UPDATE anchor SET evidence = x'00'",
    "cosignature is no blob": "UPDATE anchor SET evidence = CAST(evidence AS TEXT)",
    "time stamp is no blob": "UPDATE anchor SET evidence = 'x', kind = 'timestamp'",
    "withdrawal": f"UPDATE withdrawal SET by_event_seq = 20 WHERE event_seq = {WITHDRAWN + 1}",
    "withdrawal gone": "DELETE FROM withdrawal",
}


@pytest.mark.parametrize("sql", CHANGES.values(), ids=CHANGES)
def test_a_store_that_was_changed_gives_no_bundle(sql: str, log: Log, tmp_path: Path) -> None:
    copy = log.copied(tmp_path / "var")
    with owner(copy.database) as database:
        assert database.execute(sql).rowcount
    with pytest.raises(InconsistentTree) as refused:
        copy.bundle(tmp_path / "bundle.zip")
    assert "\n" not in str(refused.value)
    assert [file.name for file in tmp_path.iterdir()] == ["var"]


def test_two_events_that_changed_places_give_no_bundle(log: Log, tmp_path: Path) -> None:
    copy = log.copied(tmp_path / "var")
    with owner(copy.database) as database:
        for was, now in ((5, -1), (6, 5), (-1, 6)):
            database.execute("UPDATE leaf SET event_seq = ? WHERE event_seq = ?", (now, was))
    with pytest.raises(InconsistentTree, match=r"leaf 4.*its envelope is not the one"):
        copy.bundle(tmp_path / "bundle.zip")


def test_a_file_that_exists_stays_unless_told(log: Log, tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    path.write_text("years of work")
    with pytest.raises(UserError, match="--force"):
        log.bundle(path)
    with pytest.raises(UserError, match="is no bundle: it stays"):
        log.bundle(path, force=True)
    assert path.read_text() == "years of work"
    path.unlink()
    log.part(path)
    assert verify_bundle(log.bundle(path, force=True)).events == SIZE
    with pytest.raises(AuditError):
        log.bundle(path, force=True, part=Part(types=("none.*",)))
    assert verify_bundle(path).answer == "held"
    assert [file.name for file in tmp_path.iterdir()] == ["bundle.zip"]


def test_where_nothing_can_be_written_nothing_is(log: Log, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        log.bundle(tmp_path / "file" / "bundle.zip")
    with pytest.raises(UserError, match="is no bundle: it stays"):
        log.bundle(tmp_path, force=True)


def test_time_stamps_come_along(log: Log, tmp_path: Path) -> None:
    copy = log.copied(tmp_path / "var")
    authority, other = (found_authority(tmp_path / name) for name in ("authority", "other"))
    for note in log.notes[1:]:
        stamp(copy.store, note, authority.stamp_over(note.encode()))
    whole, part = copy.bundle(tmp_path / "bundle.zip"), copy.part(tmp_path / "part.zip")
    names = [f"anchors/{note.splitlines()[1]}-1.tsr" for note in log.notes[1:]]
    assert [name for name in members(whole) if name.startswith("anchors/")] == names
    assert verify_bundle(whole, tsa_roots=authority.roots, witnesses=[log.witness_key]).anchors == 4
    assert verify_bundle(part, tsa_roots=authority.roots).anchors == 1
    elsewhere = verify_bundle(whole, tsa_roots=other.roots)
    assert (elsewhere.answer, elsewhere.anchors) == ("held", 0)
    assert any("3 time stamps" in note and "openssl ts -verify" in note for note in elsewhere.notes)
    assert verified(whole).answer == verified(part).answer == "held"
