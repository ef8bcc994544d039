"""Signed notes, checkpoints and cosignatures: published ones, round trips, and whatever is none."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import example, given, settings
from hypothesis import strategies as st

from audit.errors import ProofRejected, UserError
from audit.ledger.note import (
    COSIGNATURE,
    ED25519,
    Checkpoint,
    Note,
    Signature,
    SigningKey,
    VerifierKey,
    cosignature,
    cosigned_at,
    parse_checkpoint,
    parse_key,
    parse_note,
    parse_signing_key,
    signed,
    verified,
)

PUBLISHED = json.loads((Path(__file__).parents[2] / "vectors" / "notes.json").read_text())
KEY = SigningKey("acme.example/fraud", bytes(range(32)))
SUCCESSOR = SigningKey("acme.example/fraud", bytes(range(1, 33)))
STRANGER = SigningKey("other.example", bytes(range(2, 34)))
WITNESS = SigningKey("witness.example", bytes(range(3, 35)))
WITNESS_VERIFIER = VerifierKey(WITNESS.name, COSIGNATURE, WITNESS.verifier.public)
HEAD = Checkpoint("acme.example/fraud", 11, bytes(range(32)))
NOTE = str(signed(HEAD.text, [KEY]))
LINE = NOTE.rpartition("\n\n")[2]
UNICODE_SPACES = "\u0020\u0085\u00a0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000"


def test_the_published_note_is_verified_by_its_key() -> None:
    for published in (PUBLISHED["example"], PUBLISHED["go"]):
        key = parse_key(published["vkey"])
        note = parse_note(published["note"])

        assert verified(note, [key]) == [key]
        assert str(key) == published["vkey"]
        assert str(note) == published["note"]


def test_a_note_is_signed_as_go_signs_it() -> None:
    published = PUBLISHED["go"]
    key = parse_signing_key(published["skey"])

    assert key.encoded == published["skey"]
    assert str(key.verifier) == published["vkey"]
    assert str(signed(published["note"].rpartition("\n\n")[0] + "\n", [key])) == published["note"]


def test_the_text_ends_at_the_last_empty_line() -> None:
    note = parse_note(PUBLISHED["poem"]["note"])

    assert note.text.count("\n\n") == 1
    assert note.text.endswith("ed è subito sera.\n")
    assert [signature.name for signature in note.signatures] == ["quasimodo.example/salvatore"]
    assert str(note) == PUBLISHED["poem"]["note"]


def test_the_published_checkpoints() -> None:
    plain, cosigned = (parse_note(PUBLISHED[name]["note"]) for name in ("checkpoint", "cosigned"))
    head = parse_checkpoint(plain.text)

    assert (head.origin, head.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert head.text == plain.text == cosigned.text
    assert cosigned.signatures[0] == plain.signatures[0]
    assert cosigned.signatures[1].name == "witness.example.com/w1"
    assert cosigned_at(cosigned.signatures[1]) == PUBLISHED["cosigned"]["at"]


def test_a_cosignature_is_over_the_words_of_the_standard() -> None:
    line = cosignature(WITNESS, HEAD.text, at=1_679_315_147)

    said = f"cosignature/v1\ntime 1679315147\n{HEAD.text}".encode()
    Ed25519PublicKey.from_public_bytes(WITNESS.verifier.public).verify(line.value[8:], said)
    assert verified(Note(HEAD.text, (line,)), [WITNESS_VERIFIER]) == [WITNESS_VERIFIER]
    assert cosigned_at(line) == 1_679_315_147
    assert line.key_id == WITNESS_VERIFIER.key_id != WITNESS.verifier.key_id


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=[chr(c) for c in range(32) if c != 10]))
names = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="+"), min_size=1, max_size=60)


@settings(max_examples=200)
@given(texts, st.lists(names, min_size=1, max_size=5, unique=True))
@example("", ["a"])
@example("\n\n", ["a"])
@example("— a AAAAAA==\n\n", ["a"])
@example("one\u2028two\x85three\x7f", ["ü.example/—"])
def test_what_was_signed_is_read_back(text: str, signers: list[str]) -> None:
    keys = [SigningKey(name, bytes([nth]) * 32) for nth, name in enumerate(signers)]
    note = signed(f"{text}\n", keys)

    assert parse_note(str(note)) == note
    assert verified(note, [key.verifier for key in keys]) == [key.verifier for key in keys]
    for key in keys:
        assert parse_key(str(key.verifier)) == key.verifier
        assert parse_signing_key(key.encoded) == key


@given(names, st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_a_checkpoint_is_read_back(origin: str, size: int, root: bytes) -> None:
    head = Checkpoint(origin, size, root)

    assert parse_checkpoint(head.text) == head


def test_extension_lines_are_signed_and_not_read() -> None:
    note = signed(f"{HEAD.text}more\nand more\n", [KEY])

    assert parse_checkpoint(note.text) == HEAD
    assert verified(note, [KEY.verifier]) == [KEY.verifier]
    with pytest.raises(ProofRejected, match="does not fit"):
        verified(Note(HEAD.text, note.signatures), [KEY.verifier])


MALFORMED = {
    "nothing": "",
    "an empty line": "\n",
    "empty lines": "\n\n\n",
    "text alone": HEAD.text,
    "text and an empty line": f"{HEAD.text}\n",
    "a signature alone": LINE,
    "no empty line": NOTE.replace("\n\n", "\n"),
    "no newline at the end": NOTE.removesuffix("\n"),
    "an empty line at the end": f"{NOTE}\n",
    "an empty line among the signatures": f"{NOTE}\n{cosignature(WITNESS, HEAD.text, 1)}"[:-1],
    "ends of line as in MS-DOS": NOTE.replace("\n", "\r\n"),
    "an end of line as in MS-DOS": NOTE.replace("\n", "\r\n", 1),
    "NUL": NOTE.replace("11", "1\x001"),
    "tabulator": NOTE.replace("11", "1\t1"),
    "escape": NOTE.replace("11", "\x1b[31m11"),
    "unit separator": NOTE.replace("11", "1\x1f1"),
    "half a surrogate pair in the text": NOTE.replace("11", "1\ud8001"),
    "half a surrogate pair in a name": NOTE.replace("— acme", "— acme\udfff"),
    "line that is no signature": f"{NOTE}hello\n",
    "hyphen for a dash": NOTE.replace("—", "-"),
    "line that steers a terminal": f"{NOTE}\u202e\u009b31mhello\n",
    "name that steers a terminal": f"{HEAD.text}\n— \u202e\u009b31macme \n",
    "name of ten thousand letters": f"{HEAD.text}\n— {'a' * 10_000} \n",
    "en dash": NOTE.replace("—", "–"),
    "no space behind the dash": NOTE.replace("— ", "—"),
    "two spaces behind the dash": NOTE.replace("— ", "—  "),
    "space before the dash": NOTE.replace("— ", " — "),
    "two spaces behind the name": NOTE.replace("fraud V", "fraud  V"),
    "space at the end": NOTE.removesuffix("\n") + " \n",
    "no name": NOTE.replace("— acme.example/fraud ", "—  "),
    "no signature behind the name": f"{HEAD.text}\n— acme.example/fraud \n",
    "no space behind the name": f"{HEAD.text}\n— acme.example/fraud\n",
    "plus in a name": NOTE.replace("— acme", "— ac+me"),
    "base64 without padding": NOTE.removesuffix("=\n") + "\n",
    "base64 for addresses": NOTE.replace(LINE, LINE[:60] + "-" + LINE[61:]),
    "base64 in two parts": NOTE.replace(LINE, LINE[:60] + " " + LINE[60:]),
    "base64 with a letter of another alphabet": NOTE.replace(LINE, LINE[:60] + "é" + LINE[61:]),
    "an id alone": f"{HEAD.text}\n— acme.example/fraud {base64.b64encode(KEY.verifier.key_id).decode()}\n",
    "less than an id": f"{HEAD.text}\n— acme.example/fraud {base64.b64encode(b'abc').decode()}\n",
    "two signatures by one key": f"{NOTE}{LINE}",
    "two signatures by an unknown key": f"{NOTE}{'— x.example AAAAAAA=' + chr(10)}{'— x.example AAAAAAE=' + chr(10)}",
    "a hundred and one signatures": NOTE + "".join(f"— {nth}.example AAAAAAA=\n" for nth in range(100)),
    "more than a megabyte": "x" * 1_000_000 + NOTE,
}


@pytest.mark.parametrize("written", [pytest.param(text, id=name) for name, text in MALFORMED.items()])
def test_what_is_no_note_is_refused_in_one_line(written: str) -> None:
    with pytest.raises(ProofRejected) as refused:
        parse_note(written)

    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


def test_signatures_in_other_base64_are_refused() -> None:
    """The bits behind the last byte could be anything: another file would be the same note."""
    value = base64.b64encode(bytes(6)).decode() + "AB=="
    assert base64.b64decode(value) == base64.b64decode(value.replace("B==", "A=="))

    parse_note(f"{HEAD.text}\n— x.example {value.replace('B==', 'A==')}\n")
    with pytest.raises(ProofRejected, match="base64"):
        parse_note(f"{HEAD.text}\n— x.example {value}\n")


@pytest.mark.parametrize("space", UNICODE_SPACES, ids=ascii)
def test_a_name_has_no_spaces_of_unicode(space: str) -> None:
    with pytest.raises(ProofRejected):
        parse_note(NOTE.replace("— acme", f"— ac{space}me"))


@pytest.mark.parametrize("space", UNICODE_SPACES, ids=ascii)
def test_lines_end_at_newlines_and_at_nothing_else(space: str) -> None:
    """str.splitlines would see more lines than there are, and so another size or root than others do."""
    text = f"one{space}two\n7\n{base64.b64encode(bytes(32)).decode()}\n"
    note = signed(text, [KEY])

    assert parse_note(str(note)) == note
    assert parse_checkpoint(text).origin == f"one{space}two"
    with pytest.raises(ProofRejected):
        parse_checkpoint(HEAD.text.replace("\n", space))


@settings(max_examples=150)
@given(st.text(max_size=300) | st.text("\n— +=aA1\r\t \x00\ud800", max_size=100) | st.binary(max_size=300).map(str))
def test_garbage_is_a_note_or_refused(written: str) -> None:
    try:
        note = parse_note(written)
    except ProofRejected as refused:
        assert str(refused).isprintable()
    else:
        assert str(note) == written


@settings(max_examples=150)
@given(st.integers(0, len(NOTE) - 1), st.characters() | st.sampled_from("\n +=—1A"))
def test_a_note_with_a_character_changed_is_not_verified(at: int, character: str) -> None:
    bent = NOTE[:at] + character + NOTE[at + 1 :]

    assert bent == NOTE or signers_of(bent) == []


@given(st.integers(0, len(NOTE) - 1))
def test_a_note_cut_short_is_not_verified(at: int) -> None:
    assert signers_of(NOTE[:at]) == []


def signers_of(written: str) -> list[VerifierKey]:
    """Keys of ours that signed; none where it is no note."""
    try:
        return verified(parse_note(written), [KEY.verifier])
    except ProofRejected:
        return []


def test_unknown_keys_are_ignored_even_of_a_known_name_or_id() -> None:
    same_name = Signature(KEY.name, b"\x00\x00\x00\x01", b"any")
    same_id = Signature("other.example", KEY.verifier.key_id, b"any")
    known = signed(HEAD.text, [KEY]).signatures[0]

    assert verified(Note(HEAD.text, (same_name, same_id)), [KEY.verifier]) == []
    assert verified(Note(HEAD.text, (same_name, known, same_id)), [KEY.verifier]) == [KEY.verifier]
    assert verified(Note(HEAD.text, (known,)), []) == []


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(signed("another text\n", [KEY]).signatures[0].value, id="of another text"),
        pytest.param(signed(HEAD.text, [STRANGER]).signatures[0].value, id="by another key"),
        pytest.param(signed(HEAD.text, [KEY]).signatures[0].value[:-1], id="cut"),
        pytest.param(signed(HEAD.text, [KEY]).signatures[0].value + b"\x00", id="too long"),
        pytest.param(b"\x00", id="one byte"),
        pytest.param(bytes(64), id="zeros"),
        pytest.param(b"\xff" * 64, id="beyond the group's order"),
    ],
)
def test_a_known_key_s_wrong_signature_refuses_the_whole_note(wrong: bytes) -> None:
    good = signed(HEAD.text, [SUCCESSOR]).signatures[0]
    note = Note(HEAD.text, (good, Signature(KEY.name, KEY.verifier.key_id, wrong)))

    assert verified(note, [SUCCESSOR.verifier]) == [SUCCESSOR.verifier]
    with pytest.raises(ProofRejected, match="does not fit the note"):
        verified(note, [SUCCESSOR.verifier, KEY.verifier])


def test_two_keys_of_one_name_both_sign() -> None:
    note = signed(HEAD.text, [SUCCESSOR, KEY])

    assert verified(parse_note(str(note)), [KEY.verifier, SUCCESSOR.verifier]) == [SUCCESSOR.verifier, KEY.verifier]


BENT_COSIGNATURES: dict[str, Callable[[bytes], bytes]] = {
    "another time": lambda value: (1_700_000_001).to_bytes(8, "big") + value[8:],
    "no time": lambda value: value[8:],
    "a time alone": lambda value: value[:8],
    "less than a time": lambda value: value[:3],
    "cut": lambda value: value[:-1],
    "a plain signature behind a time": lambda value: value[:8] + WITNESS.signature(HEAD.text),
}


@pytest.mark.parametrize("bend", [pytest.param(bend, id=name) for name, bend in BENT_COSIGNATURES.items()])
def test_a_bent_cosignature_is_refused(bend: Callable[[bytes], bytes]) -> None:
    good = cosignature(WITNESS, HEAD.text, at=1_700_000_000)
    bent = Signature(good.name, good.key_id, bend(good.value))

    with pytest.raises(ProofRejected, match=r"witness\.example"):
        verified(Note(HEAD.text, (bent,)), [WITNESS_VERIFIER])


def test_a_cosignature_of_no_possible_time_is_refused() -> None:
    with pytest.raises(ProofRejected, match="no time"):
        verified(Note(HEAD.text, (cosignature(WITNESS, HEAD.text, at=2**63),)), [WITNESS_VERIFIER])
    assert verified(Note(HEAD.text, (cosignature(WITNESS, HEAD.text, at=2**63 - 1),)), [WITNESS_VERIFIER])


def test_a_checkpoint_s_signature_is_no_cosignature_and_the_reverse() -> None:
    """One key used as both: each says something else, and neither stands for the other."""
    plain = Signature(WITNESS.name, WITNESS_VERIFIER.key_id, WITNESS.signature(HEAD.text))
    stamped = cosignature(WITNESS, HEAD.text, at=1)
    as_plain = Signature(WITNESS.name, WITNESS.verifier.key_id, stamped.value[8:])

    for line in (plain, as_plain):
        with pytest.raises(ProofRejected):
            verified(Note(HEAD.text, (line,)), [WITNESS_VERIFIER, WITNESS.verifier])


ROOT = base64.b64encode(HEAD.root).decode()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, id=name)
        for name, text in {
            "nothing": "",
            "a line": "acme.example\n",
            "no root": "acme.example\n11\n",
            "no size": f"acme.example\n{ROOT}\n",
            "no origin": f"11\n{ROOT}\n",
            "empty origin": f"\n11\n{ROOT}\n",
            "empty size": f"acme.example\n\n{ROOT}\n",
            "empty root": "acme.example\n11\n\n",
            "no newline at the end": f"acme.example\n11\n{ROOT}",
            "no newline behind an extension line": f"acme.example\n11\n{ROOT}\nmore",
            "empty extension line": f"acme.example\n11\n{ROOT}\n\nmore\n",
            "leading zero": f"acme.example\n011\n{ROOT}\n",
            "two zeros": f"acme.example\n00\n{ROOT}\n",
            "negative": f"acme.example\n-11\n{ROOT}\n",
            "plus": f"acme.example\n+11\n{ROOT}\n",
            "space": f"acme.example\n11 \n{ROOT}\n",
            "fraction": f"acme.example\n11.0\n{ROOT}\n",
            "exponent": f"acme.example\n1e1\n{ROOT}\n",
            "underscore": f"acme.example\n1_1\n{ROOT}\n",
            "Arabic digits": f"acme.example\n١١\n{ROOT}\n",
            "2^63": f"acme.example\n{2**63}\n{ROOT}\n",
            "ten thousand digits": f"acme.example\n{'1' * 10_000}\n{ROOT}\n",
            "root cut": f"acme.example\n11\n{base64.b64encode(HEAD.root[:31]).decode()}\n",
            "root too long": f"acme.example\n11\n{base64.b64encode(HEAD.root * 2).decode()}\n",
            "root in hex": f"acme.example\n11\n{HEAD.root.hex()}\n",
            "root without padding": f"acme.example\n11\n{ROOT.rstrip('=')}\n",
            "root of half a surrogate pair": "acme.example\n11\n\ud800\n",
            "ends of line as in MS-DOS": f"acme.example\r\n11\r\n{ROOT}\r\n",
        }.items()
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ProofRejected) as refused:
        parse_checkpoint(text)

    assert str(refused.value).isprintable()


VKEY = str(KEY.verifier)
ID = KEY.verifier.key_id.hex()


def vkey(name: str, kind: int, public: bytes) -> str:
    """One whose id fits, whatever else is wrong with it."""
    return str(VerifierKey(name, kind, public))


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(text, id=name)
        for name, text in {
            "nothing": "",
            "a name": "acme.example/fraud",
            "no key": f"acme.example/fraud+{ID}+",
            "no id": VKEY.replace(f"+{ID}", ""),
            "another id": VKEY.replace(ID, "00000000"),
            "id in capitals": VKEY.replace(ID, ID.upper()),
            "id cut": VKEY.replace(ID, ID[:7]),
            "another name": VKEY.replace("fraud", "frauds"),
            "name with a space": vkey("acme example", ED25519, KEY.verifier.public),
            "name with a space of Unicode": vkey("acme\u2003example", ED25519, KEY.verifier.public),
            "name with an escape": vkey("acme\x1bexample", ED25519, KEY.verifier.public),
            "name that steers a terminal": vkey("acme\u009b31m", ED25519, KEY.verifier.public),
            "name from right to left": vkey("acme\u202eexample", ED25519, KEY.verifier.public),
            "name of half a surrogate pair": f"acme\ud800+{ID}+{VKEY.rpartition('+')[2]}",
            "no name": vkey("", ED25519, KEY.verifier.public),
            "kind ECDSA": vkey(KEY.name, 2, KEY.verifier.public),
            "kind ML-DSA": vkey(KEY.name, 6, bytes(1312)),
            "kind 0": vkey(KEY.name, 0, KEY.verifier.public),
            "key cut": vkey(KEY.name, ED25519, KEY.verifier.public[:31]),
            "key too long": vkey(KEY.name, ED25519, KEY.verifier.public + b"\x00"),
            "key empty": vkey(KEY.name, ED25519, b""),
            "base64 in another alphabet": VKEY[:-4] + "éé==",
            "two keys": f"{VKEY}\n{VKEY}",
            "a signer key": KEY.encoded,
            "a page": "<!DOCTYPE html>",
        }.items()
    ],
)
def test_what_is_no_verifier_key_is_refused(written: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_key(written)

    assert str(refused.value).isprintable()


def test_a_verifier_key_may_be_followed_by_a_newline() -> None:
    assert parse_key(f"{VKEY}\n") == KEY.verifier
    assert parse_key(str(WITNESS_VERIFIER)) == WITNESS_VERIFIER


SECRET = base64.b64encode(bytes([ED25519]) + KEY.seed).decode()


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(text, id=name)
        for name, text in {
            "nothing": "",
            "a verifier key": VKEY,
            "the seed alone": SECRET,
            "without its prefix": KEY.encoded.removeprefix("PRIVATE+KEY+"),
            "prefix twice": f"PRIVATE+KEY+{KEY.encoded}",
            "another id": KEY.encoded.replace(ID, "00000000"),
            "another name": KEY.encoded.replace("fraud", "frauds"),
            "cut": KEY.encoded[:-5],
            "too long": KEY.encoded + "A",
            "a byte order mark": "\ufeff" + KEY.encoded,
            "two lines": f"{KEY.encoded}\n{KEY.encoded}",
            "half a surrogate pair": KEY.encoded.replace("fraud", "\ud800"),
            "another kind": KEY.encoded.replace(SECRET, base64.b64encode(b"\x04" + KEY.seed).decode()),
        }.items()
    ],
)
def test_a_damaged_signer_key_is_refused_and_never_shown(written: str) -> None:
    for parse in (parse_signing_key, parse_key):
        if written != VKEY or parse is parse_signing_key:
            with pytest.raises(UserError) as refused:
                parse(written)
            assert not reveals(f"{refused.value!r} {refused.value}")


def test_a_signer_key_shows_its_name_and_no_more() -> None:
    assert KEY.name in repr(KEY)
    assert not reveals(f"{KEY!r} {KEY} {KEY.verifier!r} {KEY.verifier} {signed(HEAD.text, [KEY])!r}")


def reveals(shown: str) -> bool:
    """Whether eight bytes of the seed, or of its base64, can be read."""
    forms = (SECRET, KEY.seed.hex(), repr(KEY.seed)[2:-1])
    return any(form[at : at + 12] in shown for form in forms for at in range(0, len(form) - 11, 4))
