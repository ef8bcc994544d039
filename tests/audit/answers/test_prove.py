"""`audit prove`: what the folder of one event holds, and when there is none."""

import shutil
import stat
import subprocess
from pathlib import Path

import orjson
import pytest

from audit.answers.prove import proof_of, verify_proof, write_proof
from audit.errors import CouldNotTell, InconsistentTree, UserError
from audit.events.event import payload_hash
from audit.ledger.proof import check_proof, parse_proof
from audit.store.append import append
from tests.anchoring import found_authority
from tests.attacks.forging import owner
from tests.attacks.victim import work
from tests.handed_out import SIZE, WITHDRAWN, Log, stamp, verified

LEAF = 5


def test_the_files_are_what_was_sealed(log: Log, proof: Path) -> None:
    entry, bound = (proof / "entry.json").read_bytes(), orjson.loads((proof / "payload.json").read_bytes())
    said = orjson.loads(entry)
    read = parse_proof((proof / "entry.tlog-proof").read_text())
    assert said["id"] == log.id(LEAF)
    assert said["payload_hash"] == payload_hash(bytes.fromhex(bound["salt"]), bound["payload"].encode())
    assert check_proof(entry, read, [log.key, log.witness_key]).size == SIZE
    assert (read.index, [one.name for one in read.checkpoint.signatures]) == (LEAF, [log.key.name, log.witness.name])
    assert (proof / "log.vkey").read_text() == "".join(f"{key.verifier}\n" for key in log.keys)


def test_only_the_payload_is_kept_from_others(proof: Path) -> None:
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in proof.iterdir()}
    assert modes.pop("payload.json") == 0o600
    assert set(modes.values()) == {0o644}


@pytest.mark.parametrize("leaf", range(SIZE))
def test_every_sealed_event_has_a_proof(leaf: int, log: Log, tmp_path: Path) -> None:
    verdict = verify_proof(log.proof(tmp_path / "evidence", leaf), key=log.key, witnesses=[log.witness_key])
    assert (verdict.answer, verdict.size, verdict.anchors) == ("held", SIZE, 1)


def test_a_payload_that_was_withdrawn_is_not_in_it(log: Log, tmp_path: Path) -> None:
    folder = log.proof(tmp_path / "evidence", WITHDRAWN)
    assert not (folder / "payload.json").exists()
    assert verified(folder).answer == "held"


def test_a_withdrawn_payload_that_is_still_there_is_not_handed_out(log: Log, tmp_path: Path) -> None:
    copy = log.copied(tmp_path / "var")
    with owner(copy.database) as database:
        database.execute("INSERT INTO payload VALUES (?, ?, '{}')", (WITHDRAWN + 1, bytes(32)))
    assert not (copy.proof(tmp_path / "evidence", WITHDRAWN) / "payload.json").exists()


def test_an_event_that_is_not_sealed_has_none_yet(log: Log, tmp_path: Path) -> None:
    copy = log.copied(tmp_path / "var")
    (event, *_) = work(1)
    append(copy.store, [event])
    with pytest.raises(CouldNotTell, match=r"not sealed yet.*audit seal"):
        proof_of(copy.store, event.id)


CHANGES = {
    "envelope": ("UPDATE event SET envelope = replace(envelope, 'info', 'warn') WHERE seq = 6", "its envelope is not"),
    "envelope is no text": ("UPDATE event SET envelope = CAST(envelope AS BLOB) WHERE seq = 6", "no such event"),
    "payload": ("UPDATE payload SET body = body || ' ' WHERE event_seq = 6", "its payload"),
    "salt": ("UPDATE payload SET salt = zeroblob(32) WHERE event_seq = 6", "its payload"),
    "salt is no blob": ("UPDATE payload SET salt = 'x' WHERE event_seq = 6", "its payload is missing"),
    "payload is gone": ("DELETE FROM payload WHERE event_seq = 6", "its payload is missing, and nobody withdrew it"),
    "leaf hash": ("UPDATE leaf SET hash = zeroblob(32) WHERE idx = 5", "its envelope is not the one that was sealed"),
    "neighbour": ("UPDATE leaf SET hash = zeroblob(32) WHERE idx = 4", "is not in the tree"),
    "neighbour is no blob": ("UPDATE leaf SET hash = 'x' WHERE idx = 4", "are not all there"),
    "neighbour is gone": ("DELETE FROM leaf WHERE idx = 4", "are not all there"),
    "checkpoint": ("UPDATE checkpoint SET note = replace(note, 'acme', 'evil')", "signature|signed"),
    "checkpoint is no note": ("UPDATE checkpoint SET note = ''", "no signed note"),
    "key": (
        "UPDATE payload SET body = '{}' WHERE event_seq IN (SELECT seq FROM event WHERE type GLOB 'key.*')",
        "log.vkey",
    ),
    "checkpoint is no text": ("UPDATE checkpoint SET note = CAST(note AS BLOB)", "not kept as it was"),
    "cosignature": ("UPDATE anchor SET evidence = x'00'", "no signed note"),
    "cosignature is no blob": ("UPDATE anchor SET evidence = CAST(evidence AS TEXT)", "not kept as it was"),
    "time stamp is no blob": ("UPDATE anchor SET evidence = 'x', kind = 'timestamp'", "not kept as it was"),
}


@pytest.mark.parametrize(("sql", "why"), CHANGES.values(), ids=CHANGES)
def test_a_store_that_was_changed_gives_no_proof(sql: str, why: str, log: Log, tmp_path: Path) -> None:
    copy = log.copied(tmp_path / "var")
    id = copy.id(LEAF)
    with owner(copy.database) as database:
        assert database.execute(sql).rowcount
    with pytest.raises(InconsistentTree, match=why):
        proof_of(copy.store, id)


def test_a_folder_that_exists_stays(log: Log, proof: Path, tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    evidence = proof_of(log.store, log.id(LEAF))
    for force in (False, True):
        with pytest.raises(UserError, match="-o"):
            write_proof(evidence, folder, force=force)
    assert [file.name for file in folder.iterdir()] == ["thesis.txt"]
    assert [file.name for file in tmp_path.iterdir()] == ["evidence"]


def test_a_former_proof_gives_way_when_told(log: Log, tmp_path: Path) -> None:
    folder = log.proof(tmp_path / "evidence", 6)
    evidence = proof_of(log.store, log.id(LEAF))
    with pytest.raises(UserError, match="--force"):
        write_proof(evidence, folder)
    write_proof(evidence, folder, force=True)
    assert orjson.loads((folder / "entry.json").read_bytes())["id"] == log.id(LEAF)
    assert [file.name for file in tmp_path.iterdir()] == ["evidence"]


def test_where_nothing_can_be_written_nothing_is(log: Log, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_proof(proof_of(log.store, log.id(LEAF)), tmp_path / "file" / "evidence")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_time_stamps_come_along_with_how_to_check_them(log: Log, tmp_path: Path) -> None:
    copy = log.copied(tmp_path / "var")
    authority = found_authority(tmp_path / "authority")
    stamp(copy.store, log.notes[-1], authority.stamp_over(log.notes[-1].encode()))
    folder = copy.proof(tmp_path / "evidence")
    assert verify_proof(folder, tsa_roots=authority.roots).anchors == 1
    (said,) = (line for line in verified(folder).theirs[0].stdout.splitlines() if "openssl" in line)
    command = said.partition("roots: ")[2].replace("ROOTS.pem", str(authority.roots)).split()
    checked = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, "Verification: OK\n")


def test_a_time_stamp_over_something_else_does_not_hold(log: Log, proof: Path, tmp_path: Path) -> None:
    authority = found_authority(tmp_path / "authority")
    folder = tmp_path / "evidence"
    shutil.copytree(proof, folder)
    (folder / "checkpoint.tsr").write_bytes(authority.stamp_over(b"something else"))
    assert verify_proof(folder).answer == "held"
    assert verify_proof(folder, tsa_roots=authority.roots).answer == "did not hold"
