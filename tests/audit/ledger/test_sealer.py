"""Sealing, by many at once and by those that die of it: no gap, no leaf twice, nothing half-done, no rewritten past."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest

from audit.errors import InconsistentTree, KeyUnavailable, StoreBusy, StoreUnavailable
from audit.events.event import Event, make_event
from audit.events.payloads import CheckpointFacts, PublishFacts, StoreFacts
from audit.ledger import tree
from audit.ledger.keys import current_key, keys_on_record, new_key, read_log_key
from audit.ledger.note import SigningKey, parse_checkpoint, parse_note, signed, verified
from audit.ledger.sealer import BATCH, KEPT, Sealed, demand_continued, reader, seal
from audit.recording import recorder, spool
from audit.recording.initialise import initialise
from audit.recording.sealing import key_event, rotate, seal_all, signing_key
from audit.settings import settings
from audit.store import ledger
from audit.store.append import append, insert_event
from audit.store.engine import BUSY_SECONDS, AuditStore, close_stores, make_store, open_store
from tests.stores import in_a_file, on_a_server, rewrite, rows

ORIGIN = "acme.example/fraud"
ACTOR = "p:7c1e0f" + "0" * 58
MADE = 3  # events of a new store
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Log:
    """A log, and what its owner does with it."""

    home: Path
    store: AuditStore
    key: SigningKey

    @property
    def kept(self) -> Path:
        return self.home / "keys" / KEPT

    def append(self, count: int) -> None:
        self.append_all([an_event() for _ in range(count)])

    def append_all(self, events: Sequence[Event]) -> None:
        append(self.store, events)

    def seal(self) -> Sealed | None:
        return seal(self.store, self.key, actor=ACTOR, kept=self.kept)


@pytest.fixture
def log(home: Path) -> Log:
    close_stores()
    initialise(ORIGIN)
    return Log(home, open_store(), read_log_key(home / "keys"))


def an_event(**given: object) -> Event:
    facts = StoreFacts(reason="something happened")
    return make_event("store.spooled", facts, source="test", subject="store", actor=ACTOR, **given)  # type: ignore[arg-type]


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962, 2.1, word by word."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def assert_whole(log: Log) -> None:
    """Every leaf has the next index and its own event, and every checkpoint is signed over the tree of its size."""
    leaves = rows("SELECT idx, event_seq, hash, envelope FROM leaf JOIN event ON seq = event_seq ORDER BY idx")
    assert [row[0] for row in leaves] == list(range(len(leaves)))
    assert all(hash == sha256(b"\x00" + envelope.encode()).digest() for _, _, hash, envelope in leaves)
    notes = rows("SELECT size, note FROM checkpoint ORDER BY size")
    assert notes[-1][0] == len(leaves)
    seqs = [row[1] for row in leaves]
    for old, new in pairwise([0, *(size for size, _ in notes)]):
        assert seqs[old:new] == sorted(seqs[old:new])
    assert log.store.is_postgres or seqs == list(range(1, len(seqs) + 1))
    with log.store.reading() as connection:
        keys, read = keys_on_record(ledger.key_events(connection)), reader(connection)
        for size, note in notes:
            head = parse_checkpoint(parse_note(note).text)
            assert verified(parse_note(note), keys)
            assert (head.origin, head.size, head.root) == (ORIGIN, size, tree.root(head.size, read))
        for (old, before), (new, after) in pairwise(notes):
            proof = tree.consistency_proof(old, new, read)
            tree.verify_consistency(old, root(before), new, root(after), proof)
    assert root(notes[-1][1]) == naive_root([row[2] for row in leaves])


def root(note: str) -> bytes:
    return parse_checkpoint(parse_note(note).text).root


def test_what_waits_becomes_leaves_under_a_signed_head(log: Log) -> None:
    log.append(300)

    done = log.seal()

    assert done is not None
    assert (done.size, done.events, done.event.type) == (MADE + 300, MADE + 300, "checkpoint.signed")
    assert log.kept.read_text() == done.note
    assert_whole(log)


def test_words_about_checkpoints_alone_never_cause_a_seal(log: Log) -> None:
    log.seal()
    facts = PublishFacts(size=MADE, to="s3://bucket", files=4)
    append(log.store, [make_event("checkpoint.published", facts, source="t", subject="checkpoint/3", actor=ACTOR)])

    assert log.seal() is None

    log.append(1)
    done = log.seal()
    assert done is not None
    assert done.events == 3  # with what was said of the first checkpoint


def test_words_about_checkpoints_do_not_hide_what_comes_after_a_batch_of_them(log: Log) -> None:
    log.seal()
    facts = PublishFacts(size=MADE, to="s3://bucket", files=4)
    said = [make_event("checkpoint.published", facts, source="t", subject="c", actor=ACTOR) for _ in range(BATCH)]
    log.append_all(said)
    log.append(1)

    while log.seal():
        pass

    assert rows("SELECT count(*) FROM leaf JOIN event ON seq = event_seq WHERE type = 'store.spooled'") == [(1,)]


def test_more_than_a_batch_is_several_checkpoints(log: Log) -> None:
    log.append(BATCH + 5 - MADE)

    done = list(seal_all(settings(), log.key, tell=lambda event: None))

    assert [one.size for one in done] == [BATCH, BATCH + 6]  # and the word about the first checkpoint
    assert [one.events for one in done] == [BATCH, 6]
    assert_whole(log)


def test_a_run_waits_for_no_more_than_a_batch_once_its_time_is_up(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append(BATCH + 5)
    monkeypatch.setattr(recorder, "SEALING_SECONDS", 0)

    recorder.flow_ended()

    assert rows("SELECT count(*) FROM leaf") == [(BATCH,)]


def test_exactly_a_batch_leaves_nothing_behind(log: Log) -> None:
    log.append(BATCH - MADE)

    assert [one.size for one in seal_all(settings(), log.key, tell=lambda event: None)] == [BATCH]


def test_an_older_event_that_comes_home_late_is_sealed_after_what_was_sealed_before(log: Log) -> None:
    long_ago = an_event(time=datetime(2020, 1, 1, tzinfo=UTC))
    append(spool.spool(settings().spool_path), [long_ago])
    log.append(2)
    log.seal()

    spool.replay(settings().spool_path, log.store)
    log.seal()

    assert rows(f"SELECT idx FROM leaf JOIN event ON seq = event_seq WHERE id = '{long_ago.id}'") == [(MADE + 3,)]
    assert_whole(log)


def test_another_key_seals_nothing(log: Log) -> None:
    log.append(1)

    with pytest.raises(KeyUnavailable, match=f"key on record is {ORIGIN}.* this process holds {ORIGIN}"):
        seal(log.store, new_key(ORIGIN), actor=ACTOR)

    assert rows("SELECT count(*) FROM leaf") == [(0,)]


def test_a_clock_that_went_back_still_seals_and_says_so(log: Log) -> None:
    facts = CheckpointFacts(size=1, root="", previous=0, keys=[], digest="")
    later = datetime.now(UTC) + timedelta(hours=1)
    append(log.store, [make_event("checkpoint.signed", facts, source="t", subject="c", actor=ACTOR, time=later)])

    done = log.seal()

    assert done is not None
    assert done.clock_went_back is not None
    assert timedelta(minutes=59) < done.clock_went_back <= timedelta(hours=1)


def test_a_clock_that_goes_on_is_no_news(log: Log) -> None:
    assert log.seal() is not None
    log.append(1)

    done = log.seal()

    assert done is not None
    assert (done.before is not None, done.clock_went_back) == (True, None)


# --- the past was changed: nothing is signed any more


def signed_by(key: SigningKey) -> str:
    (note,) = rows("SELECT note FROM checkpoint")[-1]
    return str(signed(parse_note(note).text, [key]))


def test_a_rewritten_leaf_gets_no_new_checkpoint(log: Log) -> None:
    log.append(40)
    log.seal()
    rewrite("UPDATE leaf SET hash = ? WHERE idx = 7", bytes(32))
    log.append(1)

    with pytest.raises(InconsistentTree, match=r"does not continue the checkpoint of size 43 \(the last"):
        log.seal()


def test_a_rewritten_node_gets_no_new_checkpoint(log: Log) -> None:
    log.append(600)
    log.seal()
    rewrite("UPDATE node SET hash = ? WHERE level = 8 AND idx = 1", bytes(32))
    log.append(1)

    with pytest.raises(InconsistentTree, match="does not continue the checkpoint of size 603"):
        log.seal()


def test_a_missing_leaf_gets_no_new_checkpoint(log: Log) -> None:
    log.append(40)
    log.seal()
    rewrite("DELETE FROM leaf WHERE idx = 7")
    log.append(1)

    with pytest.raises(InconsistentTree, match=r"The tree's leaves 0 to 42 are not all there"):
        log.seal()


def test_a_checkpoint_that_no_key_of_the_log_signed_is_not_continued(log: Log) -> None:
    log.seal()
    rewrite("UPDATE checkpoint SET note = ?", signed_by(new_key(ORIGIN)))
    log.append(1)

    with pytest.raises(InconsistentTree, match="the log's key has not signed it"):
        log.seal()


def test_a_checkpoint_of_another_root_is_not_continued(log: Log) -> None:
    log.seal()
    head = parse_note(log.kept.read_text()).text.split("\n")
    head[2] = "A" * 43 + "="
    rewrite("UPDATE checkpoint SET note = ?", str(signed("\n".join(head), [log.key])))
    log.append(1)

    with pytest.raises(InconsistentTree, match="does not continue the checkpoint of size 3"):
        log.seal()


def test_a_checkpoint_that_is_gone_is_missed(log: Log) -> None:
    log.seal()
    rewrite("DELETE FROM checkpoint")
    log.append(1)

    with pytest.raises(InconsistentTree, match="The tree has 3 leaves, its last checkpoint 0"):
        log.seal()


@in_a_file  # which is copied
def test_an_older_copy_of_the_store_is_not_continued(log: Log, home: Path) -> None:
    log.seal()
    log.store.close()
    older = (home / "audit.db").read_bytes()
    log.append(1)
    log.seal()
    log.store.close()
    for path in home.glob("audit.db-*"):
        path.unlink()
    (home / "audit.db").write_bytes(older)
    close_stores()
    restored = Log(home, open_store(), log.key)
    restored.append(5)

    with pytest.raises(InconsistentTree, match=r"checkpoint of size 5 was signed .*this is an older copy"):
        restored.seal()


def test_an_older_copy_is_noticed_though_nothing_waits(log: Log) -> None:
    log.seal()
    log.kept.write_text(str(signed(f"{ORIGIN}\n{MADE + 1}\n" + "A" * 43 + "=\n", [log.key])))

    with pytest.raises(InconsistentTree, match=r"has 3 sealed events, but a checkpoint of size 4 was signed"):
        log.seal()
    with log.store.reading() as connection, pytest.raises(InconsistentTree, match="this is an older copy"):
        demand_continued(connection, log.kept)

    log.kept.unlink()
    assert log.seal() is None


@in_a_file  # which is replaced
def test_a_rewritten_past_under_the_same_size_is_held_against_the_kept_checkpoint(log: Log, home: Path) -> None:
    log.seal()
    kept = log.kept.read_text()
    close_stores()
    for path in home.glob("audit.db*"):
        path.unlink()
    initialise(ORIGIN)  # a new log under the old name and key
    forged = Log(home, open_store(), read_log_key(home / "keys"))
    seal(forged.store, forged.key, actor=ACTOR)
    forged.append(1)

    assert log.kept.read_text() == kept
    with pytest.raises(InconsistentTree, match=rf"of size 3 \({log.kept}\): sealed events were changed"):
        forged.seal()


def test_a_kept_checkpoint_of_another_log_is_not_believed(log: Log) -> None:
    log.kept.write_text(str(signed("other.example/log\n1\n" + "A" * 43 + "=\n", [new_key("other.example/log")])))

    with pytest.raises(InconsistentTree, match=r"it is one of other\.example/log, this log is acme"):
        log.seal()


def test_a_kept_checkpoint_that_is_behind_or_gone_does_no_harm(log: Log) -> None:
    first = log.seal()
    log.append(1)
    log.seal()
    assert first is not None
    log.kept.write_text(first.note)
    log.append(1)
    assert log.seal() is not None

    log.kept.write_text("")  # where the power failed
    log.append(1)
    assert log.seal() is not None

    log.kept.unlink()
    log.append(1)
    assert log.seal() is not None
    assert_whole(log)


def test_a_kept_checkpoint_is_read_whatever_the_locale(log: Log) -> None:
    log.seal()
    again = "from audit.recording.recorder import flow_ended as f; import logging as l; l.basicConfig(); f()"

    log.append(1)
    done = subprocess.run(
        [sys.executable, "-c", again],
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert (done.stderr, rows("SELECT count(*) FROM leaf")) == ("", [(MADE + 2,)])


def test_a_checkpoint_that_cannot_be_kept_is_in_the_store_all_the_same(log: Log) -> None:
    nowhere = Path("/proc/keys-cannot-be-made-here") / KEPT

    done = seal(log.store, log.key, actor=ACTOR, kept=nowhere)

    assert done is not None
    assert done.not_kept.startswith(f"{nowhere} cannot be written")
    assert_whole(log)


# --- many at once


@contextmanager
def beside(*work: object) -> Iterator[list[object]]:
    """Run (function, arguments…) each in a process of its own; whatever is left of them afterwards is killed."""
    processes = [FORK.Process(target=fn, args=args) for fn, *args in work]  # type: ignore[misc]
    for process in processes:
        process.start()
    try:
        yield processes  # type: ignore[misc]
    finally:
        for process in processes:
            process.kill()
            process.join()


def append_one_by_one(count: int) -> None:
    for event in (an_event() for _ in range(count)):
        while not appended(event):
            pass


def appended(event: Event) -> bool:
    """Once others let us: SQLite hands its lock to whoever asks first, and a sealer in a loop asks often."""
    try:
        return append(open_store(), [event]) == 1
    except StoreBusy:
        return False


def seal_until(path: Path) -> None:
    """Until `path` is there."""
    key = signing_key(settings())
    assert key is not None
    while not path.exists():
        for _ in seal_all(settings(), key, tell=lambda event: None):
            pass


def test_many_writers_and_two_sealers_leave_no_gap_and_seal_nothing_twice(log: Log, tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    sealing = [(seal_until, ended)] * 2
    writing = [(append_one_by_one, 120)] * 3

    with beside(*sealing, *writing) as processes:
        for writer in processes[2:]:
            writer.join(120)  # type: ignore[attr-defined]
        ended.touch()
        for process in processes:
            process.join(60)  # type: ignore[attr-defined]
        assert [process.exitcode for process in processes] == [0] * 5  # type: ignore[attr-defined]
    log.seal()

    assert_whole(log)
    assert rows("SELECT count(*) FROM event WHERE type = 'store.spooled'") == [(360,)]
    assert rows("SELECT type FROM event WHERE seq NOT IN (SELECT event_seq FROM leaf)") == [("checkpoint.signed",)]


@pytest.mark.slow
def test_who_appends_while_much_is_sealed_gets_in_after_every_batch(log: Log) -> None:
    log.append(3 * BATCH)

    with beside((seal_until, log.home / "never")):
        longest, sealed = 0.0, 0
        while sealed < 3 * BATCH:
            began = time.monotonic()
            log.append(1)
            longest = max(longest, time.monotonic() - began)
            with log.store.reading() as connection:
                sealed = ledger.size(connection)

    signed_at = [row[0] for row in rows("SELECT seq FROM event WHERE type = 'checkpoint.signed' ORDER BY seq")]
    assert all(after - before > 1 for before, after in pairwise(signed_at))
    assert longest < BUSY_SECONDS / 2


def append_and_seal_for_ever() -> None:
    key = signing_key(settings())
    assert key is not None
    while True:
        append(open_store(), [an_event() for _ in range(400)])
        for _ in seal_all(settings(), key, tell=lambda event: None):
            pass


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_a_sealer_that_is_killed_leaves_nothing_half_done(log: Log, kills: int) -> None:
    log.append(BATCH)
    chance = random.Random(kills)

    for _ in range(kills):
        with beside((append_and_seal_for_ever,)) as (process,):
            time.sleep(chance.uniform(0.005, 0.15))
            os.kill(process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        sizes = rows("SELECT (SELECT count(*) FROM leaf), (SELECT coalesce(max(size), 0) FROM checkpoint)")
        assert sizes[0][0] == sizes[0][1], "leaves that no checkpoint covers"
        log.append(1)
        assert log.seal() is not None

    while log.seal():
        pass
    assert_whole(log)


@in_a_file  # which is moved away
def test_a_store_that_is_away_is_said_to_be(log: Log) -> None:
    log.store.engine.dispose()
    (log.home / "audit.db").rename(log.home / "elsewhere.db")
    (log.home / "audit.db").mkdir()

    with pytest.raises(StoreUnavailable, match=r"audit\.db cannot be used"):
        log.seal()


def test_a_store_without_a_key_on_record_is_not_sealed(home: Path) -> None:
    store = make_store()
    append(store, [an_event()])

    with pytest.raises(KeyUnavailable, match="key on record is none"):
        seal(store, new_key(ORIGIN), actor=ACTOR)

    assert current_key([]) is None


# --- PostgreSQL, where an event may come in behind those that are sealed


@on_a_server
def test_an_event_that_commits_late_is_sealed_by_the_next_sealing(log: Log) -> None:
    with log.store.writing() as slow:
        seq = insert_event(slow, late := an_event())
        log.append(2)
        done = log.seal()

    assert done is not None
    assert done.events == MADE + 2
    assert seq is not None
    assert seq < rows("SELECT max(event_seq) FROM leaf")[0][0]
    again = log.seal()
    assert again is not None
    assert again.events == 2  # with the word about the checkpoint before
    assert rows("SELECT idx FROM leaf WHERE event_seq = ?", seq) == [(done.size,)]
    assert rows("SELECT id FROM event WHERE seq = ?", seq) == [(late.id,)]
    assert_whole(log)


@on_a_server
def test_many_that_commit_late_and_out_of_order_are_all_sealed_once(log: Log) -> None:
    with ExitStack() as first, ExitStack() as second:
        for nth in range(8):
            slow = (first if nth % 2 else second).enter_context(log.store.writing())
            insert_event(slow, an_event())
            log.append(1)
        log.seal()
        first.close()
        log.seal()
    log.seal()

    assert rows("SELECT count(*) FROM leaf JOIN event ON seq = event_seq WHERE type = 'store.spooled'") == [(16,)]
    assert_whole(log)


@on_a_server
def test_one_that_comes_later_than_anybody_looks_back_is_found_where_all_is_looked_at(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "LOOK_BACK", 3)
    with log.store.writing() as slow:
        seq = insert_event(slow, an_event())
        log.append(10)
        log.seal()

    assert log.seal() is None
    assert ledger.not_sealed(log.store)[0] == 0
    assert ledger.not_sealed(log.store, whole=True)[0] == 1
    assert ledger.sealing(log.store).unsealed == 2  # with the word about the checkpoint

    assert seal(log.store, log.key, actor=ACTOR, kept=log.kept, whole=True) is not None
    assert len(rows("SELECT idx FROM leaf WHERE event_seq = ?", seq)) == 1
    assert_whole(log)


@on_a_server
def test_a_key_that_takes_over_seals_what_came_late_too(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "LOOK_BACK", 3)
    with log.store.writing() as slow:
        seq = insert_event(slow, an_event())
        log.append(10)
        log.seal()

    rotate(settings(), tell=lambda event: None)

    assert len(rows("SELECT idx FROM leaf WHERE event_seq = ?", seq)) == 1
    assert_whole(log)


@on_a_server
def test_what_commits_while_leaves_are_made_gets_none_of_another_event(log: Log) -> None:
    with log.store.writing() as slow:
        insert_event(slow, an_event())
        log.append(2)
        with log.store.deciding() as connection:
            found = ledger.unsealed(connection, BATCH)
            slow.commit()  # in front of those that were read
            log.append(1)
            hashes = tree.leaf_hashes(envelope for _, _, envelope in found)
            ledger.add_leaves(connection, 0, [seq for seq, _, _ in found], hashes)

    leaves = rows("SELECT event_seq, hash, envelope FROM leaf JOIN event ON seq = event_seq ORDER BY idx")
    assert [seq for seq, _, _ in leaves] == [seq for seq, _, _ in found]
    assert all(hash == sha256(b"\x00" + envelope.encode()).digest() for _, hash, envelope in leaves)


@on_a_server
def test_keys_are_told_in_the_order_of_the_leaves(log: Log) -> None:
    """A rotation whose event took its number before an older one's is the younger all the same."""
    log.seal()
    with log.store.writing() as slow:
        insert_event(slow, first := key_event("key.created", new_key(ORIGIN).verifier))
        append(log.store, [second := key_event("key.created", new_key(ORIGIN).verifier)])
        log.seal()
    log.seal()

    with log.store.reading() as connection:
        told = [event.id for event, _ in ledger.key_events(connection)]
    assert told[-2:] == [second.id, first.id]
