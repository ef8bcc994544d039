"""Events removed, swapped, put in; payloads exchanged, brought back, taken away. The forger has no key."""

from pathlib import Path

import pytest

from audit.events.event import ENVELOPE_KEYS, uuid7
from audit.ledger.note import SigningKey
from audit.store.append import append
from tests.attacks.forging import exchange, insert, owner, past, put, write_anew
from tests.attacks.victim import ERASER, EVENTS, PERMITS, SIZES, WITHDRAWN, Victim, faults, permission, verdict

SIZE = SIZES[-1]
FIRST, MIDDLE, LAST_SEALED = 1, 250, SIZE  # seqs; a leaf's index is one less
FIRST_UNSEALED, LAST = SIZE + 1, EVENTS


def test_an_honest_log_holds(victim: Victim) -> None:
    said = verdict(victim)

    assert (said.answer, said.faults, said.unknown) == ("held", (), ())
    assert (said.events, said.size, said.unsealed, said.checkpoints) == (EVENTS, SIZE, 5, 5)
    assert said.withdrawals == ((ERASER, 2),)


def test_a_log_that_is_written_anew_as_it_was_holds(victim: Victim) -> None:
    """Else forgeries would be caught for how they were made, not for what they say."""
    before = verdict(victim)
    with owner(victim.database) as db:
        write_anew(db, past(db), victim.signers)

    assert verdict(victim) == before


@pytest.mark.parametrize("seq", [FIRST, MIDDLE, LAST_SEALED, FIRST_UNSEALED, LAST - 1])
def test_a_removed_event_leaves_a_gap(victim: Victim, seq: int) -> None:
    """In PostgreSQL numbers have gaps of their own: of what waits to be sealed, none is missed by its number."""
    with owner(victim.database) as db:
        for table, column in (("event", "seq"), ("payload", "event_seq"), ("leaf", "event_seq")):
            db.execute(f"DELETE FROM {table} WHERE {column} = ?", (seq,))

    if victim.url is None or seq < LAST_SEALED:
        assert f"event at {victim.numbers} {seq}: is missing, and so is its leaf" in faults(victim)
    elif seq in (LAST_SEALED, FIRST_UNSEALED):  # which told of the last checkpoint
        assert {LAST_SEALED: "tree: has 556 leaves", FIRST_UNSEALED: "no checkpoint.signed event"}[seq] in faults(
            victim
        )
    else:
        assert (verdict(victim).answer, verdict(victim).unsealed) == ("held", 4)


@pytest.mark.parametrize("seq", [FIRST, MIDDLE, LAST_SEALED])
def test_a_removed_event_is_missed_in_the_tree_where_the_gap_is_closed(victim: Victim, seq: int) -> None:
    with owner(victim.database) as db:
        told = past(db)
        del told.events[seq - 1]
        write_anew(db, told, signers=None)

    assert "its root is not that of the tree" in faults(victim)


@pytest.mark.parametrize("at", [0, MIDDLE, LAST_SEALED - 1])
def test_an_event_put_into_the_past_moves_the_tree(victim: Victim, at: int) -> None:
    with owner(victim.database) as db:
        told = past(db)
        told.events.insert(at, told.events[100].with_(id=uuid7()))
        write_anew(db, told, signers=None)

    assert "its root is not that of the tree" in faults(victim)


@pytest.mark.parametrize("seq", [0, -1, LAST + 2, 2**62])
def test_an_event_put_in_under_an_odd_number_is_seen(victim: Victim, seq: int) -> None:
    """In PostgreSQL an event may have any number above nought: it waits to be sealed as if it had come in."""
    with owner(victim.database) as db:
        put(db, seq, past(db).events[100].with_(id=uuid7()))

    if victim.url and seq > LAST:
        assert (verdict(victim).answer, verdict(victim).unsealed) == ("held", 6)
        return
    assert ("stands where it does not belong" if seq < 1 else "is missing, and so is its leaf") in faults(victim)


@pytest.mark.parametrize("seq", [0, LAST + 1])
def test_a_payload_is_put_in_that_belongs_to_no_event(victim: Victim, seq: int) -> None:
    with owner(victim.database) as db:
        db.execute("INSERT INTO payload SELECT ?, salt, body FROM payload WHERE event_seq = 100", (seq,))

    assert faults(victim) == f"payload at event_seq {seq}: belongs to no event"


@pytest.mark.parametrize("idx", [-1, LAST_SEALED + 1])
def test_a_leaf_is_put_in_out_of_order(victim: Victim, idx: int) -> None:
    with owner(victim.database) as db:
        db.execute("INSERT INTO leaf SELECT ?, ?, hash FROM leaf WHERE idx = 0", (idx, LAST))

    assert f"leaf {idx}" in faults(victim)


PLACES = {"event": "seq", "payload": "event_seq", "leaf": "event_seq"}


@pytest.mark.parametrize(
    "tables",
    [("event",), ("payload",), ("leaf",), ("event", "payload"), ("event", "leaf"), ("event", "payload", "leaf")],
    ids="+".join,
)
def test_two_sealed_events_change_places(victim: Victim, tables: tuple[str, ...]) -> None:
    """With all three the tree is as it was, leaf by leaf; only the order that people read is another."""
    with owner(victim.database) as db:
        for table in tables:
            exchange(db, table, [PLACES[table]], {PLACES[table]: 100}, {PLACES[table]: 201})

    assert verdict(victim).answer == "did not hold"


@pytest.mark.parametrize("columns", [["salt"], ["body"], ["salt", "body"]], ids="+".join)
def test_two_payloads_are_exchanged(victim: Victim, columns: list[str]) -> None:
    with owner(victim.database) as db:
        exchange(db, "payload", columns, {"event_seq": 100}, {"event_seq": 201})

    faults = {fault.about: fault.what for fault in verdict(victim).faults}
    assert len(faults) == 2
    assert all("payload" in what for what in faults.values())


# What a forged payload takes along with it, one more each time, and what is seen then: in the end the root alone.
FOLLOWING = (
    ("payload", "body", "event_seq = 100", "its payload (body or salt) is not the one"),
    ("event", "payload_hash", "seq = 100", "column payload_hash says"),
    ("event", "envelope", "seq = 100", "the envelope is not the one that was sealed"),
    ("leaf", "hash", "event_seq = 100", "node 0 of level 8: its hash is not the one"),
    ("node", "hash", "idx = 0", f"checkpoint of size {SIZES[1]}: its root is not that of the tree"),
)


@pytest.mark.parametrize("steps", range(1, len(FOLLOWING) + 1))
def test_a_payload_is_forged_and_more_and_more_follows_it(victim: Victim, tmp_path: Path, steps: int) -> None:
    forged = victim.copied(tmp_path / "forged")
    with owner(forged.database) as db:
        told = past(db)
        told.events[99] = told.events[99].saying(reason="nobody asked for it")
        write_anew(db, told, signers=None)
        cells = [db.execute(f"SELECT {name} FROM {table} WHERE {row}").fetchone() for table, name, row, _ in FOLLOWING]

    with owner(victim.database) as db:
        for (table, name, row, _), cell in zip(FOLLOWING[:steps], cells, strict=False):
            db.execute(f"UPDATE {table} SET {name} = ? WHERE {row}", cell)

    assert FOLLOWING[steps - 1][-1] in faults(victim)


def test_a_payload_is_taken_away(victim: Victim) -> None:
    with owner(victim.database) as db:
        db.execute("DELETE FROM payload WHERE event_seq = 100")

    assert [fault.about for fault in verdict(victim).faults] == [victim.about(100)]


def test_a_withdrawn_payload_is_brought_back(victim: Victim) -> None:
    with owner(victim.database) as db:
        insert(db, "payload", victim.withdrawn)

    assert faults(victim).startswith(f"{victim.about(WITHDRAWN[0])}: its payload was withdrawn and is there")


def test_a_withdrawn_payload_is_brought_back_as_if_it_had_never_gone(victim: Victim) -> None:
    """The sealed event still says that it was taken away."""
    with owner(victim.database) as db:
        db.execute("DELETE FROM withdrawal WHERE event_seq = ?", (victim.withdrawn["event_seq"],))
        insert(db, "payload", victim.withdrawn)

    assert [fault.about for fault in verdict(victim).faults] == [victim.about(WITHDRAWN[0])]


def test_a_forged_payload_takes_the_place_of_a_withdrawn_one(victim: Victim) -> None:
    with owner(victim.database) as db:
        insert(db, "payload", victim.withdrawn | {"body": "{}"})
        db.execute("DELETE FROM withdrawal WHERE event_seq = ?", (victim.withdrawn["event_seq"],))

    assert f"{victim.about(WITHDRAWN[0])}: its payload (body or salt) is not the one" in faults(victim)


@pytest.mark.parametrize(
    ("target", "by"),
    [(100, PERMITS), (100, 101), (100, 100), (100, 10_000), (100, -1), (400, PERMITS), (PERMITS, PERMITS)],
    ids=["not listed", "no permission", "itself", "no event", "negative", "permitted before", "the permission"],
)
def test_a_payload_is_taken_away_with_a_forged_withdrawal(victim: Victim, target: int, by: int) -> None:
    with owner(victim.database) as db:
        db.execute("DELETE FROM payload WHERE event_seq = ?", (target,))
        db.execute("INSERT INTO withdrawal VALUES (?, ?)", (target, by))

    assert victim.about(target) in [fault.about for fault in verdict(victim).faults]


@pytest.mark.parametrize("seq", [0, 10_000])
def test_a_withdrawal_is_put_in_for_an_event_that_is_not_there(victim: Victim, seq: int) -> None:
    with owner(victim.database) as db:
        db.execute("INSERT INTO withdrawal VALUES (?, ?)", (seq, PERMITS))

    assert f"event at seq {seq} " in faults(victim)


@pytest.mark.parametrize("type", ["privacy.erased", "retention.expired"])
def test_a_permission_forged_by_who_has_no_key_waits_to_be_sealed(victim: Victim, type: str) -> None:
    permit(victim, type, [100])

    assert victim.about(100) in [fault.about for fault in verdict(victim).faults]


def test_a_permission_with_the_keys_leave_is_listed_by_its_actor(victim: Victim) -> None:
    permit(victim, "privacy.erased", [100], victim.keys[-1])
    victim.seal()

    said = verdict(victim)
    assert (said.answer, said.withdrawals) == ("held", ((ERASER, 3),))


@pytest.mark.parametrize("key", [None, 0], ids=["nobody's", "the key before"])
@pytest.mark.parametrize("type", ["privacy.erased", "retention.expired"])
def test_a_permission_without_the_keys_leave_permits_nothing(victim: Victim, type: str, key: int | None) -> None:
    """Whoever can append has the sealer seal it. That alone is no permission, whatever it calls itself."""
    permit(victim, type, [100], None if key is None else victim.keys[key])
    victim.seal()

    assert f"{victim.about(100)}: the withdrawal of its payload is not permitted" in faults(victim)
    assert "the log's key did not give its leave" in faults(victim)


@pytest.mark.parametrize("type", ["privacy.masked", "store.opened", "privacy.erased2", "Privacy.erased"])
def test_an_event_of_another_type_permits_nothing(victim: Victim, type: str) -> None:
    permit(victim, type, [100], victim.keys[-1])
    victim.seal()

    assert victim.about(100) in [fault.about for fault in verdict(victim).faults]


def test_a_permission_cannot_itself_be_withdrawn(victim: Victim) -> None:
    permit(victim, "privacy.erased", [PERMITS], victim.keys[-1])
    victim.seal()

    assert victim.about(PERMITS) in [fault.about for fault in verdict(victim).faults]


def test_a_permission_without_its_payload_permits_nothing(victim: Victim) -> None:
    with owner(victim.database) as db:
        db.execute("DELETE FROM payload WHERE event_seq = ?", (PERMITS,))

    assert {victim.about(seq) for seq in (PERMITS, *WITHDRAWN)} <= {fault.about for fault in verdict(victim).faults}


def test_what_is_not_sealed_can_be_changed_unseen(victim: Victim) -> None:
    """Nothing fixes it yet: so `verify` always says how much waits, and sealing should not wait long."""
    with owner(victim.database) as db:
        told = past(db)
        told.events[-1] = told.events[-1].saying(message="all is well").with_(severity="info")
        del told.events[-2]
        told.events[-2:] = told.events[-2:][::-1]
        write_anew(db, told, signers=None)

    said = verdict(victim)
    assert (said.answer, said.unsealed) == ("held", 4)


def permit(victim: Victim, type: str, seqs: list[int], key: SigningKey | None = None) -> None:
    """Take payloads away with an event of `type` that lists them, which is on record but not sealed."""
    with victim.store() as store:
        append(store, [permission(type, [victim.id(seq) for seq in seqs], key)])
    with owner(victim.database) as db:
        (by,) = db.execute("SELECT max(seq) FROM event").fetchone()
        for seq in seqs:
            db.execute("DELETE FROM payload WHERE event_seq = ?", (seq,))
            db.execute("INSERT INTO withdrawal VALUES (?, ?)", (seq, by))


def test_a_permission_made_up_in_what_is_not_read_again(victim: Victim) -> None:
    """Going on from a checkpoint, the payloads before it are not looked at; who is said to have withdrawn one is."""
    made_up = permission("privacy.erased", [victim.id(50)])
    columns = {key: getattr(made_up, key) for key in (*ENVELOPE_KEYS, "envelope")}
    with owner(victim.database) as db:
        names = ", ".join(f"{name} = :{name}" for name in columns)
        db.execute(f"UPDATE event SET {names} WHERE seq = 60", columns)
        db.execute("UPDATE payload SET salt = ?, body = ? WHERE event_seq = 60", (made_up.salt, made_up.body))
        db.execute("DELETE FROM payload WHERE event_seq = 50")
        db.execute("INSERT INTO withdrawal VALUES (50, 60)")

    assert f"{victim.about(50)}: the withdrawal of its payload is not permitted" in faults(victim, since=SIZES[3])
    assert verdict(victim, since=SIZES[3]).withdrawals == ((ERASER, 2),)
