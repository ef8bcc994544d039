"""Our verifier and the one that is handed out agree over what is right and what is bent."""

import io
import os
import secrets
import shutil
import stat
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.answers import standalone
from audit.answers.bundle import verify_bundle
from audit.answers.verify import verify
from audit.events.canonical import canonical
from audit.events.event import ENVELOPE_KEYS, Event, payload_hash
from audit.events.payloads import KeyFacts, StoreFacts
from audit.ledger.note import (
    COSIGNATURE,
    Checkpoint,
    Note,
    SigningKey,
    VerifierKey,
    parse_checkpoint,
    parse_note,
    signed,
)
from audit.ledger.sealer import seal
from tests.attacks.victim import ACTOR, rotated, told
from tests.handed_out import (
    ORIGIN,
    WITHDRAWN,
    Log,
    forged,
    interpreters,
    lines,
    members,
    unlined,
    verified,
    zipped,
)

Members = dict[str, bytes]
Bend = Callable[[Path], None]
Lines = list[dict[str, Any]]
STRANGER = SigningKey(ORIGIN, secrets.token_bytes(32))


def test_what_was_handed_out_holds(log: Log, bundle: Path, part: Path, proof: Path) -> None:
    for handed in (bundle, part, proof):
        assert verified(handed).answer == "held"
        assert verified(handed, key=log.key, witnesses=[log.witness_key]).answer == "held"


def test_the_whole_log_holds_to_any_checkpoint_that_was_kept(log: Log, bundle: Path) -> None:
    found = verified(bundle, key=log.key, kept=log.notes)
    assert found.answer == "held"
    assert len(found.ours.held_to) == len(log.notes)


def test_a_part_and_a_proof_hold_to_their_own_checkpoint_alone(log: Log, part: Path, proof: Path) -> None:
    for handed in (part, proof):
        assert verified(handed, kept=[log.notes[-1]]).answer == "held"
        assert verified(handed, kept=[log.notes[0]]).answer == "could not tell"


def test_a_key_that_handed_over_is_believed_where_the_handing_over_is_shown(
    log: Log, bundle: Path, part: Path, tmp_path: Path
) -> None:
    first = log.keys[0].verifier
    assert verified(bundle, key=first).answer == "held"
    for handed in (part, log.bundle(tmp_path / "envelopes.zip", payloads=False)):
        found = verified(handed, key=first)
        assert found.answer == "could not tell"
        assert "get the new key in another way" in found.theirs[0].stdout
        assert "Get the new key in another way" in found.ours.unknown[0]


def test_a_kept_checkpoint_does_not_vouch_for_a_key_that_nothing_shows_it_led_to(log: Log, tmp_path: Path) -> None:
    """Whoever has the log up to there could go on from it with a key of their own, and name both."""
    envelopes = log.bundle(tmp_path / "envelopes.zip", payloads=False)
    assert verified(envelopes, kept=log.notes[:1]).answer == "could not tell"
    assert verified(envelopes, kept=log.notes[-1:]).answer == "held"
    assert verified(envelopes, kept=log.notes[:1], key=log.key).answer == "held"


def test_after_a_loss_all_three_verifiers_say_the_same(log: Log, tmp_path: Path) -> None:
    copy, new = log.copied(tmp_path / "var"), SigningKey(ORIGIN, secrets.token_bytes(32))
    seal(copy.store, new, actor=ACTOR, announce=lambda _: [lost(log.key), made(new.verifier)])
    bundle, part, proof = copy.bundle(tmp_path / "b"), copy.part(tmp_path / "p"), copy.proof(tmp_path / "e")

    for key in (log.keys[0].verifier, log.key):
        assert verify(copy.store, key=key).answer == "could not tell"
        for handed in (bundle, part, proof):
            assert verified(handed, key=key).answer == "could not tell"
    for key in (None, new.verifier):
        assert verify(copy.store, key=key).answer == "held"
        found = verified(bundle, key=key, kept=log.notes)
        assert found.answer == "held"
        assert any("declared lost" in note for note in found.ours.notes)
        assert "declared lost" in found.theirs[0].stdout
        for handed in (part, proof):
            assert verified(handed, key=key).answer == "held"
    for handed in (bundle, part, proof):
        assert verified(handed, key=STRANGER.verifier).answer == "did not hold"


@pytest.mark.parametrize(
    ("declared", "without", "with_first"), [(True, "held", "could not tell"), (False, "did not hold", "did not hold")]
)
def test_a_key_in_anothers_place_needs_a_loss(declared: bool, without: str, with_first: str, tmp_path: Path) -> None:
    first, forger = (SigningKey(ORIGIN, secrets.token_bytes(32)) for _ in range(2))
    told = [made(first.verifier), *([lost(first.verifier)] if declared else []), made(forger.verifier)]
    bundle = forged(
        tmp_path / "b.zip", forger, [event.envelope.encode() for event in told], [(e.salt, e.body) for e in told]
    )
    assert verified(bundle).answer == without
    assert verified(bundle, key=first.verifier).answer == with_first
    assert verified(bundle, key=forger.verifier).answer == without


@pytest.mark.parametrize(("consented", "answer"), [(True, "held"), (False, "did not hold")])
def test_a_key_takes_over_only_with_the_consent_of_the_one_before(consented: bool, answer: str, tmp_path: Path) -> None:
    """The old key signed a checkpoint over an event that names the new one, as it signs everything; the new one's
    signature was added to the note."""
    old, new = (SigningKey(ORIGIN, secrets.token_bytes(32)) for _ in range(2))
    handing = rotated(old, new, consent=None if consented else new.consent(new.verifier))
    events = [made(old.verifier), handing, told("store.opened", StoreFacts(), "store")]
    entries = [event.envelope.encode() for event in events]
    content = members(forged(tmp_path / "one.zip", new, entries, [(event.salt, event.body) for event in events]))
    root = standalone.node_hash(*map(standalone.leaf_hash, entries[:2]))
    content |= {
        "checkpoints.jsonl": unlined([{"note": str(signed(Checkpoint(ORIGIN, 2, root).text, [new, old]))}]),
        "log.vkey": f"{old.verifier}\n{new.verifier}\n".encode(),
        "manifest.json": content["manifest.json"].replace(b'"checkpoints":1', b'"checkpoints":2'),
    }
    bundle = zipped(tmp_path / "two.zip", content)
    assert verified(bundle, key=old.verifier).answer == answer
    assert verified(bundle).answer == answer


def made(key: VerifierKey) -> Event:
    return told("key.created", KeyFacts(purpose="log", fingerprint=key.shown, vkey=str(key)), "key/log")


def lost(key: VerifierKey) -> Event:
    return told("key.lost", KeyFacts(purpose="log", fingerprint=key.shown), "key/log")


def test_another_key_is_not_believed(bundle: Path, part: Path, proof: Path) -> None:
    for handed in (bundle, part, proof):
        assert verified(handed, key=STRANGER.verifier).answer == "did not hold"


def test_a_witness_who_is_demanded_must_have_cosigned(bundle: Path, part: Path, proof: Path) -> None:
    other = VerifierKey("witness.example/other", 4, STRANGER.verifier.public)
    for handed in (bundle, part, proof):
        assert verified(handed, witnesses=[other]).answer == "could not tell"


def test_another_log_under_the_same_name_is_not_what_was_kept(log: Log, bundle: Path, part: Path, proof: Path) -> None:
    head = parse_checkpoint(parse_note(log.notes[-1]).text)
    fork = str(signed(Checkpoint(ORIGIN, head.size, bytes(32)).text, [log.keys[1]]))
    foreign = str(signed(Checkpoint("other.example/log", head.size, head.root).text, [log.keys[1]]))
    anew = str(signed(head.text, [STRANGER]))
    for handed in (bundle, part, proof):
        for kept in (fork, foreign, anew):
            assert verified(handed, kept=[kept]).answer == "did not hold"
        for damaged in (log.notes[-1].replace(str(head.size), "1"), "", "no note", log.notes[-1][:-1]):
            assert verified(handed, kept=[damaged]).answer == "could not tell"
    later = str(signed(Checkpoint(ORIGIN, head.size + 1, head.root).text, [log.keys[1]]))
    assert verified(bundle, kept=[later]).answer == "could not tell"


def test_keys_can_be_named_by_file_and_several_are_none(log: Log, proof: Path, tmp_path: Path) -> None:
    def asked(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-I", str(proof / "verify.py"), str(proof), *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.stderr == ""
        return done.returncode, done.stdout

    (tmp_path / "key").write_text(f"{log.key}\n")
    (tmp_path / "damaged").write_text("key")
    assert asked("--key", "key")[0] == 0
    for words in (("--key", str(proof / "log.vkey")), ("--key", "damaged"), ("--key", str(log.witness_key))):
        assert asked(*words)[0] == 2
    for words in (("--witness", str(log.key)), ("--checkpoint", "none"), ("--key", "none")):
        assert asked(*words)[0] == 2


def test_the_file_runs_nothing_that_lies_beside_it(proof: Path, tmp_path: Path) -> None:
    shutil.copytree(proof, tmp_path / "evidence")
    for name in ("__future__", "argparse", "hashlib", "cryptography"):
        (tmp_path / "evidence" / f"{name}.py").write_text("print('held')\nraise SystemExit(0)\n")
    (tmp_path / "evidence" / "entry.json").write_bytes(b"{}")
    for python in interpreters():
        command = [python, str(tmp_path / "evidence" / "verify.py"), str(tmp_path / "evidence")]
        assert subprocess.run(command, capture_output=True, timeout=60).returncode == 1


CASES_OF_PROOFS = orjson.loads((Path(__file__).parents[2] / "vectors" / "proofs.json").read_bytes())


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES_OF_PROOFS])
def test_the_file_agrees_over_the_vectors(case: dict[str, Any]) -> None:
    def held() -> bool:
        index, hashes, note = standalone.parse_proof(case["proof"])
        standalone.demand_believed(note, [standalone.parse_key(key) for key in case["keys"]])
        leaf = standalone.leaf_hash(case["entry"].encode())
        return standalone.root_from(leaf, index, note.size, hashes) == note.root

    if case["held"]:
        assert held()
    else:
        with suppress(standalone.DoesNotHold):
            assert not held()


# A bundle, bent.


def other(text: str) -> str:
    """Something else of the same kind and length."""
    last = "1" if text[-1] != "1" else "2"
    return text[:-1] + last


def changed(leaf: int, field: str) -> Callable[[Lines], None]:
    def change(found: Lines) -> None:
        value = found[leaf][field]
        found[leaf][field] = value + 1 if isinstance(value, int) else other(value)

    return change


def envelope_changed(field: str) -> Callable[[Lines], None]:
    def change(found: Lines) -> None:
        said = orjson.loads(found[2]["envelope"])
        said[field] = said[field] + 1 if isinstance(said[field], int) else other(said[field] or "x")
        found[2]["envelope"] = canonical(said).decode()

    return change


def swapped(found: Lines) -> None:
    found[2], found[3] = found[3], found[2]


def renumbered(found: Lines) -> None:
    """Swapped, and each with the other's index."""
    swapped(found)
    found[2]["index"], found[3]["index"] = found[3]["index"], found[2]["index"]


def removed(found: Lines) -> None:
    del found[2]


def repeated(found: Lines) -> None:
    found.insert(3, found[2])


def payloads_exchanged(found: Lines) -> None:
    for name in ("payload", "salt"):
        found[2][name], found[3][name] = found[3][name], found[2][name]


def salt_longer(found: Lines) -> None:
    """The hash is the same: the payload's first byte is passed off as the salt's last."""
    line = found[2]
    line["salt"] += line["payload"][:1].encode().hex()
    line["payload"] = line["payload"][1:]


def salt_spaced(found: Lines) -> None:
    found[2]["salt"] = found[2]["salt"][:2] + " " + found[2]["salt"][2:]


def payload_gone(found: Lines) -> None:
    del found[2]["payload"], found[2]["salt"]


def payload_withdrawn_by(leaf: int) -> Callable[[Lines], None]:
    def change(found: Lines) -> None:
        payload_gone(found)
        found[2]["withdrawn_by"] = leaf

    return change


def withdrawal_by_another(found: Lines) -> None:
    found[WITHDRAWN]["withdrawn_by"] += 1


def payload_back(found: Lines) -> None:
    found[WITHDRAWN] |= {"payload": found[2]["payload"], "salt": found[2]["salt"]}
    del found[WITHDRAWN]["withdrawn_by"]


def permission_withdrawn(found: Lines) -> None:
    by = found[found[WITHDRAWN]["withdrawn_by"]]
    del by["payload"], by["salt"]
    by["withdrawn_by"] = by["index"] + 1


def another_field(found: Lines) -> None:
    found[2]["note"] = "harmless"


def another_type(field: str, value: object) -> Callable[[Lines], None]:
    def change(found: Lines) -> None:
        found[2][field] = value

    return change


def cut_off(found: Lines) -> None:
    del found[-3:]


EVERYWHERE: dict[str, Callable[[Lines], None]] = {
    **{f"another {field}": changed(2, field) for field in ("index", "salt", "payload")},
    **{f"another {field} in the envelope": envelope_changed(field) for field in ENVELOPE_KEYS},
    "lines swapped": swapped,
    "lines swapped and renumbered": renumbered,
    "a line removed": removed,
    "a line twice": repeated,
    "payloads exchanged": payloads_exchanged,
    "a payload's beginning as the salt's end": salt_longer,
    "a salt with a space": salt_spaced,
    "a payload gone": payload_gone,
    "a payload gone by a later event": payload_withdrawn_by(20),
    "a payload gone by an earlier event": payload_withdrawn_by(1),
    "a payload gone by an event that is not there": payload_withdrawn_by(10_000),
    "a field more": another_field,
    "an index that is true": another_type("index", True),
    "an index below zero": another_type("index", -1),
    "an index beyond all bounds": another_type("index", 2**63),
    "a payload that is no text": another_type("payload", {"a": 1}),
    "a salt that is null": another_type("salt", None),
    "the end cut off": cut_off,
    "nothing": list.clear,
}
WHOLE: dict[str, Callable[[Lines], None]] = {
    "a withdrawal by another event": withdrawal_by_another,
    "another payload in a withdrawn one's place": payload_back,
    "what permits a withdrawal withdrawn": permission_withdrawn,
}
CASES = [("bundle", change) for change in (*EVERYWHERE, *WHOLE)] + [("part", change) for change in EVERYWHERE]


@pytest.mark.parametrize(("of", "change"), CASES, ids=[f"{of}: {change}" for of, change in CASES])
def test_bent_lines_do_not_hold(of: str, change: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    content = members(request.getfixturevalue(of))
    found = lines(content["events.jsonl"])
    (EVERYWHERE | WHOLE)[change](found)
    bent = zipped(tmp_path / "bent.zip", content | {"events.jsonl": unlined(found)})
    assert verified(bent).answer == "did not hold"


@pytest.mark.parametrize("bend", [list.clear, list.pop, list.reverse, lambda proof: proof.append(proof[0])])
def test_bent_inclusion_proofs_do_not_hold(bend: Callable[[list[str]], None], part: Path, tmp_path: Path) -> None:
    content = members(part)
    found = lines(content["events.jsonl"])
    bend(found[1]["proof"])
    bent = zipped(tmp_path / "bent.zip", content | {"events.jsonl": unlined(found)})
    assert verified(bent).answer == "did not hold"


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new, 1)

    return change


def signed_twice(content: bytes) -> bytes:
    return content + content.splitlines(keepends=True)[4]


def flipped_signature(line: int) -> Callable[[bytes], bytes]:
    """One bit of a signature line's base64."""

    def change(content: bytes) -> bytes:
        found = content.splitlines(keepends=True)
        found[line] = found[line][:-10] + (b"A" if found[line][-10:-9] != b"A" else b"B") + found[line][-9:]
        return b"".join(found)

    return change


def one_line(which: slice) -> Callable[[bytes], bytes]:
    return lambda content: b"".join(content.splitlines(keepends=True)[which])


FILES: list[tuple[str, str, Callable[[bytes], bytes]]] = [
    ("manifest.json", "another format", replaced(b"bundle@1", b"bundle@2")),
    ("manifest.json", "another origin", replaced(b"acme.example", b"evil.example")),
    ("manifest.json", "another size", replaced(b'"size":', b'"size":1')),
    ("manifest.json", "a part", replaced(b'"complete":true', b'"complete":false')),
    ("manifest.json", "a part of the whole", replaced(b'"payloads"', b'"part":"","payloads"')),
    ("manifest.json", "no payloads", replaced(b'"payloads":true', b'"payloads":false')),
    ("manifest.json", "more events", replaced(b'"events":', b'"events":1')),
    ("manifest.json", "more checkpoints", replaced(b'"checkpoints":', b'"checkpoints":1')),
    ("manifest.json", "a key twice", replaced(b'"events":', b'"events":1,"events":')),
    ("manifest.json", "no number", replaced(b'"events":', b'"events":NaN,"x":')),
    ("manifest.json", "a huge number", replaced(b'"events":', b'"events":' + b"9" * 5_000)),
    ("manifest.json", "nested deeply", replaced(b'"events":', b'"a":' + b"[" * 100_000)),
    ("manifest.json", "no JSON", lambda content: b"{"),
    ("manifest.json", "a list", lambda content: b"[]"),
    ("manifest.json", "a space", replaced(b",", b", ")),
    ("manifest.json", "a mark of its byte order", lambda content: b"\xef\xbb\xbf" + content),
    ("manifest.json", "no UTF-8", replaced(b"acme", b"\xff\xfe")),
    ("checkpoint", "another origin", replaced(b"acme", b"evil")),
    ("checkpoint", "another size", replaced(b"\n", b"\n1")),
    ("checkpoint", "a leading zero", replaced(b"fraud\n", b"fraud\n0")),
    ("checkpoint", "an extension", replaced(b"\n\n", b"\nmore\n\n")),
    ("checkpoint", "another signature", flipped_signature(4)),
    ("checkpoint", "two signatures by one key", signed_twice),
    ("checkpoint", "no signature", one_line(slice(4))),
    ("checkpoint", "a witness alone", lambda content: one_line(slice(4))(content) + one_line(slice(5, 6))(content)),
    ("checkpoint", "a control character", replaced(b"\n\n", b"\n\x07\n\n")),
    ("checkpoint", "a carriage return", lambda content: content.replace(b"\n", b"\r\n")),
    ("checkpoint", "nothing", lambda content: b""),
    ("checkpoints.jsonl", "one removed", one_line(slice(1, None))),
    ("checkpoints.jsonl", "in another order", one_line(slice(None, None, -1))),
    ("checkpoints.jsonl", "one twice", lambda content: one_line(slice(1))(content) + content),
    ("checkpoints.jsonl", "another signature", replaced(b"fraud ", b"fraud B")),
    ("checkpoints.jsonl", "an empty line", lambda content: b"\n" + content),
    ("checkpoints.jsonl", "cut short", lambda content: content[:-1]),
    ("log.vkey", "another key", lambda content: f"{STRANGER.verifier}\n".encode()),
    ("log.vkey", "the second one alone", one_line(slice(1, 2))),
    ("log.vkey", "no key", lambda content: b"key\n"),
    ("log.vkey", "nothing", lambda content: b""),
    ("log.vkey", "another id", replaced(b"+", b"+0")),
    ("log.vkey", "a space", replaced(b"\n", b" \n")),
    ("log.vkey", "an empty line", lambda content: content + b"\n"),
    ("log.vkey", "cut short", lambda content: content[:-1]),
    ("events.jsonl", "a key twice in a line", replaced(b'"index":0', b'"index":1,"index":0')),
    ("events.jsonl", "a key twice in an envelope", replaced(b'{\\"actor', b'{\\"actor\\":\\"x\\",\\"actor')),
    ("events.jsonl", "an escape", replaced(b"acme", b"\\u0061cme")),
    ("events.jsonl", "half a character", replaced(b"acme", b"\\ud800")),
    ("events.jsonl", "no number", replaced(b'"index":0', b'"index":NaN')),
    ("events.jsonl", "a float", replaced(b'"index":0', b'"index":0.0')),
    ("events.jsonl", "an empty line", lambda content: b"\n" + content),
    ("events.jsonl", "carriage returns", lambda content: content.replace(b"\n", b"\r\n")),
    ("events.jsonl", "cut short", lambda content: content[:-1]),
    ("events.jsonl", "half of it", lambda content: content[: len(content) // 2]),
    ("events.jsonl", "something after it", lambda content: content + b"x"),
    ("events.jsonl", "no UTF-8", replaced(b"acme", b"\xff\xfe")),
]


@pytest.mark.parametrize(("name", "how", "change"), FILES, ids=[f"{name}: {how}" for name, how, _ in FILES])
def test_bent_members_do_not_hold(
    name: str, how: str, change: Callable[[bytes], bytes], bundle: Path, tmp_path: Path
) -> None:
    content = members(bundle)
    bent = zipped(tmp_path / "bent.zip", content | {name: change(content[name])})
    assert verified(bent).answer == "did not hold"


@pytest.mark.parametrize("name", ["manifest.json", "checkpoint", "checkpoints.jsonl", "log.vkey", "events.jsonl"])
def test_a_bundle_without_a_member_does_not_hold(name: str, bundle: Path, tmp_path: Path) -> None:
    content = members(bundle)
    del content[name]
    assert verified(zipped(tmp_path / "bent.zip", content)).answer == "did not hold"


@pytest.mark.parametrize("name", ["README.txt", "verify.py"])
def test_what_is_for_people_bears_on_nothing(name: str, bundle: Path, tmp_path: Path) -> None:
    content = members(bundle)
    assert verified(zipped(tmp_path / "other.zip", content | {name: b"other"})).answer == "held"
    del content[name]
    assert verified(zipped(tmp_path / "less.zip", content)).answer == "held"


def test_a_cosignature_counts_for_those_who_know_the_witness(log: Log, bundle: Path, tmp_path: Path) -> None:
    content = members(bundle)
    bent = zipped(tmp_path / "bent.zip", content | {"checkpoint": flipped_signature(5)(content["checkpoint"])})
    assert verified(bent).answer == "held"
    assert verified(bent, witnesses=[log.witness_key]).answer == "did not hold"


def test_a_key_takes_over_only_by_a_checkpoint_that_the_old_one_signed(log: Log, bundle: Path, tmp_path: Path) -> None:
    content = members(bundle)
    found = lines(content["checkpoints.jsonl"])
    note = parse_note(found[2]["note"])
    found[2]["note"] = str(Note(note.text, tuple(one for one in note.signatures if one.key_id == log.key.key_id)))
    bent = zipped(tmp_path / "bent.zip", content | {"checkpoints.jsonl": unlined(found)})
    assert verified(bent, key=log.key).answer == "held"
    assert verified(bent, key=log.keys[0].verifier).answer == "did not hold"


def entry(**other: Any) -> tuple[bytes, tuple[bytes, str]]:
    """An entry with its salt and payload, as its maker likes."""
    event = told("store.opened", StoreFacts(), "store")
    return canonical(orjson.loads(event.envelope) | other), (event.salt, event.body)


TYPE = b',"type":"store.opened"}'
ENTRIES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "as it should be": ("held", lambda entry: entry),
    "a key twice": ("did not hold", replaced(b'"subject":"store"', b'"subject":"other","subject":"store"')),
    "a space": ("did not hold", replaced(b",", b", ")),
    "another order": ("did not hold", lambda entry: b'{"type":"store.opened",' + replaced(TYPE, b"}")(entry)[1:]),
    "a key more": ("did not hold", replaced(b'{"actor"', b'{"a":1,"actor"')),
    "a key less": ("did not hold", replaced(b'"deployment":null,', b"")),
    "null": ("did not hold", replaced(b'"subject":"store"', b'"subject":null')),
    "a number for a text": ("did not hold", replaced(b'"subject":"store"', b'"subject":1')),
    "true for a number": ("did not hold", replaced(b'"schema_version":1', b'"schema_version":true')),
    "a float for a number": ("did not hold", replaced(b'"schema_version":1', b'"schema_version":1.0')),
    "version 0": ("did not hold", replaced(b'"schema_version":1', b'"schema_version":0')),
    "a later version": ("could not tell", replaced(b'"schema_version":1', b'"schema_version":2')),
    "a huge number": ("did not hold", replaced(b'"schema_version":1', b'"schema_version":' + b"1" * 400)),
    "too large": ("did not hold", replaced(b'"subject":"store"', b'"subject":"' + b"x" * 8_192 + b'"')),
    "no object": ("did not hold", lambda entry: b"[]"),
    "nothing": ("did not hold", lambda entry: b""),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "change"), ENTRIES.values(), ids=ENTRIES)
def test_an_entry_has_one_reading_whoever_signed_for_it(
    answer: str, change: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    written, bound = entry()
    made = forged(tmp_path / "forged.zip", STRANGER, [change(written)], [bound])
    assert verified(made, key=STRANGER.verifier).answer == answer


# A zip, bent.


def with_member(name: str, content: bytes = b"x", *, mode: int = stat.S_IFREG | 0o644, packed: int = 8) -> Bend:
    def bend(path: Path) -> None:
        member = zipfile.ZipInfo(name)
        member.external_attr, member.compress_type = mode << 16, packed
        with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
            warnings.simplefilter("ignore")  # zipfile says that it wrote a name twice
            archive.writestr(member, content)

    return bend


def with_instead(name: str, content: bytes, **how: int) -> Bend:
    def bend(path: Path) -> None:
        kept = members(path)
        del kept[name]
        with_member(name, content, **how)(zipped(path, kept))

    return bend


def with_bytes(change: Callable[[bytes], bytes]) -> Bend:
    def bend(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return bend


def header_changed(name: str, offset: int, value: bytes, *, central: bool = True) -> Bend:
    """A field of a member's header: PKZIP APPNOTE, 4.3.12 (central) and 4.3.7 (local)."""

    def change(content: bytes) -> bytes:
        begin, length = (b"PK\x01\x02", 46) if central else (b"PK\x03\x04", 30)
        at = content.index(begin)
        while content[at + length :].find(name.encode()) != 0:
            at = content.index(begin, at + 1)
        return content[: at + offset] + value + content[at + offset + len(value) :]

    return with_bytes(change)


ZIPS: dict[str, Bend] = {
    "a path outside": with_member("../../evil"),
    "an absolute path": with_member("/etc/cron.d/evil"),
    "a path of another system": with_member("..\\evil"),
    "a path outside by way of a folder": with_member("anchors/../1-1.tsr"),
    "a folder": with_member("anchors/", b"", mode=stat.S_IFDIR | 0o755),
    "an unknown name": with_member("more.json"),
    "a name of other letters": with_member("EVENTS.jsonl"),
    "a name that ends early": with_member("README.txt\0.exe"),
    "a member twice": with_member("checkpoint"),
    "a link": with_instead("README.txt", b"/etc/passwd", mode=stat.S_IFLNK | 0o777),
    "a time stamp over nothing here": with_member("anchors/3-1.tsr"),
    "packed in another way": with_instead("README.txt", b"x", packed=zipfile.ZIP_LZMA),
    "encrypted": header_changed("events.jsonl", 8, b"\x01"),
    "a bomb that nobody reads": with_instead("README.txt", b" " * (5 << 20)),
    "a bomb that everybody reads": with_instead("events.jsonl", b" " * (100 << 20)),
    "a line without end": with_instead("events.jsonl", b"x" * (65 << 20)),
    "a size that is another": header_changed("events.jsonl", 24, b"\x10\x00\x00\x00"),
    "a checksum that is another": header_changed("events.jsonl", 16, b"\x00\x00\x00\x00"),
    "another name in the local header": header_changed("events.jsonl", 30, b"E", central=False),
    "something before it": with_bytes(lambda content: b"#!/bin/sh\n" + content),
    "something after it": with_bytes(lambda content: content + b"x"),
    "a comment": with_bytes(lambda content: content[:-2] + b"\x01\x00x"),
    "cut in the middle": with_bytes(lambda content: content[: len(content) // 2]),
    "cut at the end": with_bytes(lambda content: content[:-1]),
    "empty": with_bytes(lambda content: b""),
    "no zip": with_bytes(lambda content: b"PK\x03\x04" + bytes(1_000)),
    "an empty zip": with_bytes(lambda content: b"PK\x05\x06" + bytes(18)),
    "a zip in a zip": with_bytes(lambda content: _alone("bundle.zip", content)),
}


def _alone(name: str, content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(name, content)
    return made.getvalue()


@pytest.mark.parametrize("bend", ZIPS.values(), ids=ZIPS)
def test_a_zip_that_is_no_plain_bundle_is_refused(bend: Bend, bundle: Path, tmp_path: Path) -> None:
    bent = tmp_path / "bent.zip"
    shutil.copyfile(bundle, bent)
    bend(bent)
    assert verified(bent).answer == "did not hold"
    assert list(tmp_path.iterdir()) == [bent]


@pytest.mark.parametrize("sizes", [(65,), (45, 45)], ids=["a line", "all of it"])
def test_what_unpacks_to_too_much_is_refused_though_it_would_hold(sizes: tuple[int, ...], tmp_path: Path) -> None:
    made = []
    for megabytes in sizes:
        written, (salt, _) = entry()
        payload = f'"{"x" * (megabytes << 20)}"'
        said = orjson.loads(written) | {"payload_hash": payload_hash(salt, payload.encode())}
        made.append((canonical(said), (salt, payload)))
    bomb = forged(tmp_path / "bomb.zip", STRANGER, [entry for entry, _ in made], [bound for _, bound in made])
    assert verified(bomb).answer == "did not hold"


def test_a_bundle_that_is_not_there_cannot_be_told_of(tmp_path: Path) -> None:
    assert verified(tmp_path / "none.zip").answer == "could not tell"
    assert verify_bundle(tmp_path).answer == "could not tell"


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_bit_flips_both_say_the_same(data: st.DataObject, bundle: Path, part: Path, tmp_path: Path) -> None:
    content = bytearray(data.draw(st.sampled_from([bundle, part])).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    bent = tmp_path / "bent.zip"
    bent.write_bytes(content)
    assert verified(bent).answer in ("held", "did not hold")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_byte_of_a_member_changes_it_does_not_hold(
    data: st.DataObject, bundle: Path, part: Path, tmp_path: Path
) -> None:
    content = members(data.draw(st.sampled_from([bundle, part])))
    name = data.draw(st.sampled_from(["checkpoint", "log.vkey", "events.jsonl"]))
    written = bytearray(content[name])
    own = len(written) if name != "checkpoint" else written.index(b"\xe2\x80\x94 witness")  # whom nobody knows here
    written[data.draw(st.integers(0, own - 1))] ^= data.draw(st.integers(1, 255))
    assert verified(zipped(tmp_path / "bent.zip", content | {name: bytes(written)})).answer == "did not hold"


# A proof, bent.

PROOFS: list[tuple[str, str, Callable[[bytes], bytes]]] = [
    ("entry.json", "another field", replaced(b"info", b"warn")),
    ("entry.json", "a line's end", lambda content: content + b"\n"),
    ("entry.json", "nothing", lambda content: b""),
    ("entry.json", "too large", lambda content: content + b" " * 70_000),
    ("entry.json", "no UTF-8", lambda content: b"\xff" + content),
    ("entry.tlog-proof", "another header", replaced(b"@v1", b"@v2")),
    ("entry.tlog-proof", "another index", replaced(b"index ", b"index 1")),
    ("entry.tlog-proof", "an index below zero", replaced(b"index ", b"index -")),
    ("entry.tlog-proof", "no index", one_line(slice(0, None, 2))),
    ("entry.tlog-proof", "a hash less", lambda content: _without_line(content, 2)),
    ("entry.tlog-proof", "a hash twice", lambda content: _line_twice(content, 2)),
    ("entry.tlog-proof", "hashes in another order", lambda content: _lines_swapped(content, 2, 3)),
    ("entry.tlog-proof", "another size", replaced(b"fraud\n", b"fraud\n1")),
    ("entry.tlog-proof", "another origin", replaced(b"acme", b"evil")),
    ("entry.tlog-proof", "two signatures by one key", lambda content: content + content.splitlines(True)[-2]),
    ("entry.tlog-proof", "half of it", lambda content: content[: len(content) // 2]),
    ("entry.tlog-proof", "an end more", lambda content: content + b"\n"),
    ("entry.tlog-proof", "nothing", lambda content: b""),
    ("payload.json", "another payload", replaced(b"fraud", b"frond")),
    ("payload.json", "another salt", replaced(b'"salt":"', b'"salt":"00')),
    ("payload.json", "a key twice", replaced(b'"salt"', b'"salt":"","salt"')),
    ("payload.json", "a field more", replaced(b"}\n", b',"x":1}\n')),
    ("payload.json", "null for a salt", lambda content: b'{"payload":"{}","salt":null}\n'),
    ("payload.json", "a list", lambda content: b"[]\n"),
    ("payload.json", "nothing", lambda content: b""),
    ("log.vkey", "another key", lambda content: f"{STRANGER.verifier}\n".encode()),
    ("log.vkey", "a witness's", lambda content: _as_witness().encode()),
    ("log.vkey", "nothing", lambda content: b""),
]


def _without_line(content: bytes, nth: int) -> bytes:
    found = content.splitlines(keepends=True)
    return b"".join(found[:nth] + found[nth + 1 :])


def _line_twice(content: bytes, nth: int) -> bytes:
    found = content.splitlines(keepends=True)
    return b"".join(found[: nth + 1] + found[nth:])


def _lines_swapped(content: bytes, one: int, two: int) -> bytes:
    found = content.splitlines(keepends=True)
    found[one], found[two] = found[two], found[one]
    return b"".join(found)


def _as_witness() -> str:
    return f"{VerifierKey(ORIGIN, COSIGNATURE, STRANGER.verifier.public)}\n"


@pytest.mark.parametrize(("name", "how", "change"), PROOFS, ids=[f"{name}: {how}" for name, how, _ in PROOFS])
def test_a_bent_proof_does_not_hold(
    name: str, how: str, change: Callable[[bytes], bytes], proof: Path, tmp_path: Path
) -> None:
    bent = tmp_path / "evidence"
    shutil.copytree(proof, bent)
    (bent / name).write_bytes(change((proof / name).read_bytes()))
    assert verified(bent).answer == "did not hold"


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("entry.json", "could not tell"),
        ("entry.tlog-proof", "could not tell"),
        ("log.vkey", "could not tell"),
        ("payload.json", "held"),  # both say that it is not there
        ("verify.py", "held"),
    ],
)
def test_a_proof_without_a_file(name: str, answer: str, proof: Path, tmp_path: Path) -> None:
    shutil.copytree(proof, tmp_path / "evidence")
    (tmp_path / "evidence" / name).unlink()
    assert verified(tmp_path / "evidence").answer == answer


@pytest.mark.parametrize("name", ["entry.json", "entry.tlog-proof", "log.vkey", "payload.json"])
def test_a_file_of_a_proof_that_never_ends_is_not_read(name: str, proof: Path, tmp_path: Path) -> None:
    shutil.copytree(proof, tmp_path / "evidence")
    (tmp_path / "evidence" / name).unlink()
    os.mkfifo(tmp_path / "evidence" / name)
    assert verified(tmp_path / "evidence").answer == "could not tell"
    assert verified(tmp_path / "evidence" / name).answer == "could not tell"


def test_no_command_is_shown_that_a_files_name_was_made_for(proof: Path, tmp_path: Path) -> None:
    shutil.copytree(proof, tmp_path / "evidence")
    (tmp_path / "evidence" / "checkpoint;reboot;.tsr").write_bytes(b"x")
    found = verified(tmp_path / "evidence")
    assert found.answer == "held"
    assert "reboot" not in found.theirs[0].stdout + str(found.ours)


def test_a_proof_of_another_event_does_not_hold(log: Log, proof: Path, tmp_path: Path) -> None:
    mixed = log.proof(tmp_path / "evidence", leaf=6)
    shutil.copyfile(proof / "entry.tlog-proof", mixed / "entry.tlog-proof")
    assert verified(mixed).answer == "did not hold"


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_byte_of_a_proof_changes_both_say_the_same(data: st.DataObject, proof: Path, tmp_path: Path) -> None:
    bent = tmp_path / "evidence"
    shutil.copytree(proof, bent, dirs_exist_ok=True)
    name = data.draw(st.sampled_from(["entry.json", "entry.tlog-proof", "payload.json", "log.vkey"]))
    written = bytearray((proof / name).read_bytes())
    at = data.draw(st.integers(0, len(written) - 1))
    written[at] ^= data.draw(st.integers(1, 255))
    (bent / name).write_bytes(written)
    answer = verified(bent).answer
    if name != "entry.tlog-proof" or at < len(written) - 200:  # what witnesses add, whom nobody knows here
        assert answer == "did not hold"
