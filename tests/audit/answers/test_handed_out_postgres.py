"""What is handed out of PostgreSQL is what is handed out of a file: both verifiers hold it, nothing else goes out."""

import sys
from pathlib import Path

import pytest

from audit.answers.bundle import verify_bundle
from audit.answers.prove import proof_of, verify_proof
from audit.answers.published import verify_published
from audit.cli.app import main
from audit.errors import CouldNotTell, InconsistentTree
from audit.ledger.publisher import publish
from audit.ledger.sealer import KEPT, seal
from audit.settings import settings
from audit.store.append import append, insert_event
from tests.attacks.forging import owner
from tests.attacks.victim import ACTOR, ERASER, work
from tests.handed_out import SIZE, WITHDRAWN, Log, build, lines, members, verified
from tests.postgres import postgres_server, postgres_store, postgres_url  # noqa: F401


@pytest.fixture(scope="module")
def log(postgres_store: str, tmp_path_factory: pytest.TempPathFactory) -> Log:  # noqa: F811
    """Nothing writes to it."""
    return build(tmp_path_factory.mktemp("log") / "var", postgres_store)


@pytest.fixture
def own_log(postgres_url: str, tmp_path: Path) -> Log:  # noqa: F811
    """To be changed."""
    return build(tmp_path / "var", postgres_url)


def test_the_whole_log_of_a_database_is_in_it_in_the_order_of_leaves(log: Log, tmp_path: Path) -> None:
    bundle = log.bundle(tmp_path / "bundle.zip")

    said = verify_bundle(bundle, key=log.key, kept=log.notes, witnesses=[log.witness_key])
    assert (said.answer, said.events, said.checkpoints, said.anchors) == ("held", SIZE, len(log.notes), 1)
    assert said.withdrawals == ((ERASER, 1),)
    assert [line["index"] for line in lines(members(bundle)["events.jsonl"])] == list(range(SIZE))
    assert verified(bundle, key=log.key, kept=log.notes).answer == "held"
    assert log.bundle(tmp_path / "again.zip").read_bytes() == bundle.read_bytes()


def test_a_part_of_a_database_is_held_by_both(log: Log, tmp_path: Path) -> None:
    part = log.part(tmp_path / "part.zip")

    assert {line["envelope"].count('"type":"key.') for line in lines(members(part)["events.jsonl"])} == {0, 1}
    assert verified(part, key=log.key).answer == "held"


@pytest.mark.parametrize("leaf", [0, WITHDRAWN, SIZE - 1])
def test_an_event_of_a_database_is_proven_to_both(log: Log, leaf: int, tmp_path: Path) -> None:
    folder = log.proof(tmp_path / "evidence", leaf)

    assert verify_proof(folder, key=log.key, witnesses=[log.witness_key]).answer == "held"
    assert verified(folder, key=log.key).answer == "held"
    assert (folder / "payload.json").exists() is (leaf != WITHDRAWN)


def test_a_database_is_published_as_a_file_is(own_log: Log, tmp_path: Path) -> None:
    place = (tmp_path / "published").as_uri()
    publish(own_log.store, place, actor=ACTOR)

    assert verify_published(place, [own_log.key]).answer == "held"


def test_an_event_whose_number_came_late_is_proven_by_its_leaf(own_log: Log, tmp_path: Path) -> None:
    """Its leaf is behind those of higher numbers."""
    late, store = work(1)[0], own_log.store
    with store.writing() as connection:
        insert_event(connection, late)
        append(store, work(1))
    sealed = seal(store, own_log.keys[1], actor=ACTOR)

    found = proof_of(own_log.store, late.id)
    assert sealed is not None and sealed.size == found.size
    assert verified(own_log.proof(tmp_path / "evidence", found.index), key=own_log.key).answer == "held"


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE event SET envelope = replace(envelope, 'info', 'warn') WHERE seq = 6", "its envelope is not"),
        ("UPDATE payload SET body = body || ' ' WHERE event_seq = 6", "its payload"),
        ("DELETE FROM payload WHERE event_seq = 6", "its payload is missing, and nobody withdrew it"),
        ("DELETE FROM leaf WHERE idx = 4", "are not all there|not of as many"),
        ("UPDATE leaf SET event_seq = 1000 WHERE idx = 5", "no such event|not sealed"),
    ],
    ids=["envelope", "payload", "payload gone", "leaf gone", "event gone"],
)
def test_nothing_is_handed_out_of_a_database_that_is_not_what_was_sealed(
    own_log: Log, statement: str, what: str, tmp_path: Path
) -> None:
    id = own_log.id(5)
    own_log.store.close()
    with owner(own_log.database) as database:
        database.execute(statement)

    with pytest.raises((InconsistentTree, CouldNotTell), match=what):
        proof_of(own_log.store, id)
    with pytest.raises(InconsistentTree):
        own_log.bundle(tmp_path / "bundle.zip")
    assert not (tmp_path / "bundle.zip").exists()


def test_the_commands_prove_export_and_verify_a_database(
    log: Log, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (log.home / "keys" / KEPT).write_text(log.notes[-1])

    def audit(*words: str) -> str:
        monkeypatch.setenv("AUDIT_HOME", str(log.home))
        monkeypatch.setenv("AUDIT_DATABASE_URL", str(log.database))
        monkeypatch.setattr(sys, "argv", ["audit", *words])
        settings.cache_clear()
        with pytest.raises(SystemExit) as ended:
            main()
        settings.cache_clear()
        assert not ended.value.code
        return capfd.readouterr().out

    audit("prove", log.id(5)[-12:], "-o", str(tmp_path / "evidence"))
    audit("export", "-o", str(tmp_path / "bundle.zip"))
    assert verified(tmp_path / "evidence", key=log.key).answer == "held"
    assert verified(tmp_path / "bundle.zip", key=log.key).answer == "held"
    checkpoint = tmp_path / "kept"
    checkpoint.write_text(log.notes[1])
    shown = audit("verify", "--since-checkpoint", str(checkpoint), "--key", str(log.keys[0].verifier))
    assert "that you kept" in shown and "that this machine signed last" in shown
