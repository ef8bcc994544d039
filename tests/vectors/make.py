"""Write inclusion.json, consistency.json and proofs.json: proofs that hold, and each bent in every way we know.

    python tests/vectors/make.py

It shares no code with audit/: the tree is the definition in RFC 6962 (2.1) word for word, notes and proofs are put
together from the words of c2sp.org/signed-note, tlog-checkpoint and tlog-proof. Kinds of bending: those of
transparency-dev/merkle's test data and of tlog-proof's grammar. A bent proof names a tree of twice or half the size
and never one of a size nearby: a proof alone does not fix the size (leaf 0 has the same way up in trees of 7 and 8),
the signed checkpoint does.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HERE = Path(__file__).parent
LEAVES = [
    bytes.fromhex(entry)
    for entry in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
GARBAGE = hashlib.sha256(b"garbage").digest()
ORIGIN = "acme.example/fraud"
SALT = bytes(range(32, 64))
PAYLOAD = '{"columns":[{"dtype":"int64","name":"age"}],"rows":1989}'

Proof = list[bytes]
Case = dict[str, Any]


def mth(entries: Sequence[bytes]) -> bytes:
    """RFC 6962, 2.1: Merkle Tree Hash."""
    if not entries:
        return hashlib.sha256().digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = _split(len(entries))
    return hashlib.sha256(b"\x01" + mth(entries[:k]) + mth(entries[k:])).digest()


def path(m: int, entries: Sequence[bytes]) -> Proof:
    """RFC 6962, 2.1.1: Merkle audit path of the entry `m`."""
    if len(entries) == 1:
        return []
    k = _split(len(entries))
    if m < k:
        return [*path(m, entries[:k]), mth(entries[k:])]
    return [*path(m - k, entries[k:]), mth(entries[:k])]


def proof(m: int, entries: Sequence[bytes]) -> Proof:
    """RFC 6962, 2.1.2: Merkle consistency proof from the first `m` entries, of which there is one at least."""
    return _subproof(m, entries, True)


def _subproof(m: int, entries: Sequence[bytes], known: bool) -> Proof:
    if m == len(entries):
        return [] if known else [mth(entries)]
    k = _split(len(entries))
    if m <= k:
        return [*_subproof(m, entries[:k], known), mth(entries[k:])]
    return [*_subproof(m - k, entries[k:], False), mth(entries[:k])]


def _split(n: int) -> int:
    """The largest power of two below `n`."""
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def inclusion() -> Iterator[Case]:
    """Inclusion proofs over LEAVES."""
    for index, size in ((0, 1), (0, 8), (5, 8), (7, 8), (2, 3), (1, 5), (6, 7)):
        leaf, root, good = mth([LEAVES[index]]), mth(LEAVES[:size]), path(index, LEAVES[:size])

        def case(
            name: str,
            *,
            held: bool = False,
            leaf: bytes = leaf,
            index: int = index,
            size: int = size,
            root: bytes = root,
            proof: Proof = good,
            of: str = f"leaf {index} of {size}",
        ) -> Case:
            hashes = {"leaf": leaf.hex(), "root": root.hex(), "proof": [step.hex() for step in proof]}
            return {"name": f"{of}: {name}", "held": held, "index": index, "size": size, **hashes}

        yield case("good", held=True)
        for other in (index - 1, index + 1, index ^ 2, size, index + 2**32, index + 2**63, -1 - index):
            yield case(f"index {other}", index=other)
        for other in (2 * size, size // 2, -size, size + 2**63):
            yield case(f"size {other}", size=other)
        yield case("index and size near 2^63", index=2**63 - 2, size=2**63 - 1)
        if size > 1 and index >= _split(size):  # the last hash is then surplus, and leads to the root all the same
            yield case("numbered from the middle", index=index - _split(size), size=size - _split(size))
        yield case("another leaf", leaf=GARBAGE)
        yield case("another root", root=GARBAGE)
        yield case("no leaf", leaf=b"")
        yield case("no root", root=b"")
        yield case("neither leaf nor root", leaf=b"", root=b"")
        yield case("leaf hash without its prefix", leaf=hashlib.sha256(LEAVES[index]).digest())
        yield case("leaf and root cut", leaf=leaf[:31], root=root[:31])
        yield case("root for a leaf", leaf=root) if good else case("root of the empty tree", root=mth([]))
        for name, bent in _bent(good, root, leaf):
            yield case(name, proof=bent)
        if good:
            pair = (leaf, good[0]) if index % 2 == 0 else (good[0], leaf)
            inner = hashlib.sha256(b"\x01" + pair[0] + pair[1]).digest()
            yield case("a node for a leaf", leaf=inner, proof=good[1:])
            yield case("a node for a leaf, numbered so", leaf=inner, proof=good[1:], index=index // 2)


def consistency() -> Iterator[Case]:
    """Consistency proofs over LEAVES."""
    for old, size in ((1, 1), (1, 8), (6, 8), (7, 8), (4, 8), (2, 5), (6, 7), (3, 7)):
        old_root, root, good = mth(LEAVES[:old]), mth(LEAVES[:size]), proof(old, LEAVES[:size])

        def case(
            name: str,
            *,
            held: bool = False,
            old: int = old,
            old_root: bytes = old_root,
            size: int = size,
            root: bytes = root,
            proof: Proof = good,
            of: str = f"{old} to {size}",
        ) -> Case:
            hashes = {"old_root": old_root.hex(), "root": root.hex(), "proof": [step.hex() for step in proof]}
            return {"name": f"{of}: {name}", "held": held, "old": old, "size": size, **hashes}

        yield case("good", held=True)
        for other in (old - 1, old + 1, old ^ 2, size + 1, old + 2**63, -old):
            if other != old:
                yield case(f"old size {other}", old=other)
        for other in (2 * size, size // 2, -size, size + 2**63):
            yield case(f"size {other}", size=other)
        yield case("sizes near 2^63", old=2**63 - 2, size=2**63 - 1)
        yield case("sizes swapped", old=size + 1, size=old)
        if size > 1 and old > _split(size):  # the last hash is then surplus, and leads to both roots all the same
            yield case("counted from the middle", old=old - _split(size), size=size - _split(size))
        yield case("another old root", old_root=GARBAGE)
        yield case("another root", root=GARBAGE)
        yield case("two other roots", old_root=GARBAGE, root=GARBAGE[::-1])
        yield case("no old root", old_root=b"")
        yield case("no roots", old_root=b"", root=b"")
        yield case("both roots cut", old_root=old_root[:31], root=root[:31])
        yield case("root of the empty tree", old_root=mth([]))
        if old_root != root:
            yield case("roots swapped", old_root=root, root=old_root)
            yield case("one root for both", old_root=root)
        for name, bent in _bent(good, root, old_root):
            yield case(name, proof=bent)
    empty = mth([])
    for name, held, old, old_root, size, root, steps in (
        ("the empty tree", True, 0, empty, 0, empty, []),
        ("from the empty tree", True, 0, empty, 8, mth(LEAVES), []),
        ("the empty tree with another root", False, 0, empty, 0, GARBAGE, []),
        ("from an empty tree with another root", False, 0, GARBAGE, 8, mth(LEAVES), []),
        ("from the empty tree, with hashes", False, 0, empty, 8, mth(LEAVES), [GARBAGE]),
        ("from the empty tree to no root", False, 0, empty, 8, b"", []),
        ("two empty trees with one other root", False, 0, GARBAGE, 0, GARBAGE, []),
        ("a tree of -1", False, -1, empty, -1, empty, []),
    ):
        hashes = {"old_root": old_root.hex(), "root": root.hex(), "proof": [step.hex() for step in steps]}
        yield {"name": name, "held": held, "old": old, "size": size, **hashes}


def _bent(good: Proof, root: bytes, first: bytes) -> Iterator[tuple[str, Proof]]:
    """`good` with hashes changed, missing, surplus or out of order."""
    for nth, step in enumerate(good):
        for bit in (0, 4, 255):
            flipped = (int.from_bytes(step, "big") ^ 1 << bit).to_bytes(32, "big")
            yield f"hash {nth} with bit {bit} flipped", [*good[:nth], flipped, *good[nth + 1 :]]
        yield f"hash {nth} missing", good[:nth] + good[nth + 1 :]
        yield f"hash {nth} twice", good[: nth + 1] + good[nth:]
        yield f"hash {nth} cut", [*good[:nth], step[:31], *good[nth + 1 :]]
        yield f"hash {nth} too long", [*good[:nth], step + b"\x00", *good[nth + 1 :]]
        yield f"hash {nth} empty", [*good[:nth], b"", *good[nth + 1 :]]
    for name, surplus in (("garbage", GARBAGE), ("nothing", b""), ("the root", root), ("what is proven", first)):
        yield f"{name} behind", [*good, surplus]
        yield f"{name} before", [surplus, *good]
    if good:
        yield "no hashes", []
        yield "the root alone", [root]
        yield "all hashes twice", good + good
    if len(good) > 1:
        yield "backwards", good[::-1]
        yield "two hashes as one", [good[0] + good[1], *good[2:]]
    yield "sixty-four hashes", [GARBAGE] * 64


class Key:
    """An Ed25519 key as the signed-note specification has it."""

    def __init__(self, seed: bytes, name: str = ORIGIN, kind: int = 1) -> None:
        self.private, self.name, self.kind = Ed25519PrivateKey.from_private_bytes(seed), name, bytes([kind])
        self.public = self.private.public_key().public_bytes_raw()
        self.id = hashlib.sha256(name.encode() + b"\n" + self.kind + self.public).digest()[:4]

    @property
    def vkey(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_b64(self.kind + self.public)}"

    def line(self, text: str) -> str:
        return f"— {self.name} {_b64(self.id + self.private.sign(text.encode()))}\n"

    def cosignature(self, text: str, at: int = 1_700_000_000) -> str:
        value = self.private.sign(f"cosignature/v1\ntime {at}\n{text}".encode())
        return f"— {self.name} {_b64(self.id + at.to_bytes(8, 'big') + value)}\n"


def entries() -> list[str]:
    """A small log's entries, envelopes in form; the one that is proven names the hash of SALT and PAYLOAD."""
    digest = f"sha256:{hashlib.sha256(SALT + PAYLOAD.encode()).hexdigest()}"
    return [
        json.dumps({"id": f"event-{nth}", "payload_hash": digest, "type": "dataset.ingested"}, sort_keys=True)
        for nth in range(11)
    ]


INDEX = 6
LOG = Key(bytes(range(32)))
OTHER = Key(bytes(range(1, 33)))  # of the same name
STRANGER = Key(bytes(range(2, 34)), "other.example/log")
WITNESS = Key(bytes(range(3, 35)), "witness.example", kind=4)
IMPOSTOR = Key(bytes(range(4, 36)), kind=4)  # cosigns, under the log's name


def proofs() -> Iterator[Case]:
    """Files in the format tlog-proof, with the entry that each claims to prove and the keys to be believed."""
    entry, sealed = entries()[INDEX], [entry.encode() for entry in entries()]
    steps = [_b64(step) for step in path(INDEX, sealed)]
    head = f"{ORIGIN}\n{len(sealed)}\n{_b64(mth(sealed))}\n"
    note = f"{head}\n{LOG.line(head)}"
    good = _proof(INDEX, steps, note)
    believed = [LOG.vkey, WITNESS.vkey]

    def case(name: str, proof: str, *, held: bool = False, entry: str = entry, keys: list[str] = believed) -> Case:
        return {"name": name, "held": held, "entry": entry, "keys": keys, "proof": proof}

    yield case("good", good, held=True)
    yield case("with extra data", _proof(INDEX, steps, note, extra="AQID"), held=True)
    yield case("with a signature of an unknown key", good + STRANGER.line("other"), held=True)
    yield case("with a signature of an unknown key of the log's name", good + OTHER.line("other"), held=True)
    yield case("with a witness", good + WITNESS.cosignature(head), held=True)
    extended = f"{head}extension one\nextension two\n"
    yield case("with extension lines", _proof(INDEX, steps, f"{extended}\n{LOG.line(extended)}"), held=True)
    one = f"{ORIGIN}\n1\n{_b64(mth(sealed[:1]))}\n"
    yield case("of one entry", _proof(0, [], f"{one}\n{LOG.line(one)}"), held=True, entry=entries()[0])

    yield case("another entry", good, entry=entries()[INDEX + 1])
    yield case("an entry with a byte changed", good, entry=entry.replace("event-6", "event-7"))
    yield case("an entry with a newline behind", good, entry=entry + "\n")
    yield case("no entry", good, entry="")
    yield case("another key of the log's name", good, keys=[OTHER.vkey])
    yield case("a stranger's key", good, keys=[STRANGER.vkey])
    yield case("a witness's key alone", good + WITNESS.cosignature(head), keys=[WITNESS.vkey])
    yield case("no key", good, keys=[])
    for other in (INDEX - 1, INDEX + 1, INDEX ^ 2, len(sealed), 0, 2**63 - 1, 2**63, 2**64, 10**30):
        yield case(f"index {other}", _proof(other, steps, note))
    for nth, step in enumerate(steps):
        flipped = bytearray(base64.b64decode(step))
        flipped[nth] ^= 1
        yield case(f"hash {nth} changed", _proof(INDEX, [*steps[:nth], _b64(flipped), *steps[nth + 1 :]], note))
        yield case(f"hash {nth} missing", _proof(INDEX, steps[:nth] + steps[nth + 1 :], note))
        yield case(f"hash {nth} twice", _proof(INDEX, steps[: nth + 1] + steps[nth:], note))
    yield case("surplus hash", _proof(INDEX, [*steps, _b64(GARBAGE)], note))
    yield case("no hashes", _proof(INDEX, [], note))
    yield case("sixty-four hashes", _proof(INDEX, [_b64(GARBAGE)] * 64, note))
    yield from _bent_checkpoints(case, steps, head, note, sealed)
    yield from _bent_lines(case, steps, note, good)


def _bent_checkpoints(
    case: Callable[..., Case], steps: list[str], head: str, note: str, sealed: list[bytes]
) -> Iterator[Case]:
    """What is wrong with the checkpoint under a proof, signed by the log where that makes it worse."""
    size, root = str(len(sealed)), _b64(mth(sealed))

    def under(name: str, text: str, signatures: str | None = None, *, held: bool = False) -> Case:
        return case(name, _proof(INDEX, steps, f"{text}\n{LOG.line(text) if signatures is None else signatures}"))

    yield under("size changed", head.replace(f"\n{size}\n", "\n12\n"), LOG.line(head))
    yield under("root changed", head.replace(root, _b64(GARBAGE)), LOG.line(head))
    yield under("root changed, signed", head.replace(root, _b64(GARBAGE)))
    yield under("origin changed", head.replace(ORIGIN, "acme.example/other"), LOG.line(head))
    yield under("another origin, signed", head.replace(ORIGIN, "acme.example/other"))
    yield under("size 22, signed", head.replace(f"\n{size}\n", "\n22\n"))
    yield under("size 5, signed", head.replace(f"\n{size}\n", "\n5\n"))
    for bent in ("011", "+11", "-11", " 11", "11 ", "1_1", "0x0b", "١١", "11.0", "", "9223372036854775808", "1" * 30):
        yield under(f"size {bent!r}, signed", head.replace(f"\n{size}\n", f"\n{bent}\n"))
    yield under("root cut, signed", head.replace(root, _b64(mth(sealed)[:31])))
    yield under("root too long, signed", head.replace(root, _b64(mth(sealed) + b"\x00")))
    yield under("root in other base64, signed", head.replace(root, _another_spelling(root)))
    yield under("root in hex, signed", head.replace(root, mth(sealed).hex()))
    yield under("no root, signed", f"{ORIGIN}\n{size}\n")
    yield under("no size, signed", f"{ORIGIN}\n{root}\n")
    yield under("no origin, signed", f"{size}\n{root}\n")
    yield under("empty origin, signed", f"\n{size}\n{root}\n")
    yield under("empty extension line, signed", f"{head}one\n\ntwo\n")
    yield under("signed by nobody", head, "")
    yield under("signed by a stranger", head, STRANGER.line(head))
    yield under("signed by another key of the log's name", head, OTHER.line(head))
    forged = bytearray(base64.b64decode(LOG.line(head).split(" ")[2]))
    forged[40] ^= 1
    yield under("signature changed", head, f"— {ORIGIN} {_b64(forged)}\n")
    yield under("signature cut", head, f"— {ORIGIN} {_b64(forged[:40])}\n")
    yield under("signature of the key's id alone", head, f"— {ORIGIN} {_b64(LOG.id)}\n")
    yield under("signature of another text", head, LOG.line("another text\n"))
    yield under("a known witness's wrong cosignature", head, LOG.line(head) + WITNESS.cosignature("another text\n"))
    yield under("a known witness's plain signature", head, LOG.line(head) + WITNESS.line(head))
    yield case(
        "cosigned under the log's name",
        _proof(INDEX, steps, f"{head}\n{IMPOSTOR.cosignature(head)}"),
        keys=[IMPOSTOR.vkey],
    )
    yield under("two signatures by one key", head, LOG.line(head) * 2)
    yield under("signature line without its dash", head, LOG.line(head).removeprefix("— "))
    yield under("signature line with a hyphen", head, LOG.line(head).replace("—", "-"))
    yield under("signature line with two spaces", head, LOG.line(head).replace(" ", "  "))
    yield under("signature in other base64", head, _another_spelling(LOG.line(head)))
    yield under("space behind the signature", head, LOG.line(head).replace("\n", " \n"))
    yield under("no newline at the end", head, LOG.line(head).rstrip("\n"))
    yield under("empty line at the end", head, LOG.line(head) + "\n")
    yield under("more behind the signature", head, LOG.line(head) + "more\n")
    yield under("a hundred and one signatures", head, LOG.line(head) + "".join(_strangers(100, head)))


def _bent_lines(case: Callable[..., Case], steps: list[str], note: str, good: str) -> Iterator[Case]:
    """What is wrong with a proof's lines."""
    lines = good.split("\n")
    for nth in range(len(lines)):
        yield case(f"cut before line {nth}", "\n".join(lines[:nth]))
    yield case("cut in the last line", good[:-20])
    yield case("of version 2", good.replace("@v1", "@v2", 1))
    yield case("byte order mark", "\ufeff" + good)
    yield case("space before", " " + good)
    yield case("empty line before", "\n" + good)
    yield case("ends of line as in MS-DOS", good.replace("\n", "\r\n"))
    yield case("first line ends as in MS-DOS", good.replace("\n", "\r\n", 1))
    yield case("line separator of Unicode", good.replace("\n", "\u2028", 1))
    yield case("NUL behind", good + "\x00")
    yield case("two proofs in one", good + good)
    for bent in ("06", "+6", "-6", "-0", " 6", "6 ", "6_", "0x6", "٦", "6.0", "", "six"):
        yield case(f"index {bent!r}", good.replace("index 6", f"index {bent}"))
    yield case("index without its word", good.replace("index 6", "6"))
    yield case("index twice", good.replace("index 6", "index 6\nindex 6"))
    yield case("index in capitals", good.replace("index 6", "Index 6"))
    yield case("index behind the hashes", _proof(None, [*steps, "index 6"], note))
    for bent in ("", "%%%", "AQI", "AQID ", "AQJ="):
        yield case(f"extra {bent!r}", _proof(INDEX, steps, note, extra=bent))
    yield case("extra behind the index", good.replace("index 6", "index 6\nextra AQID"))
    yield case("extra twice", _proof(INDEX, steps, note, extra="AQID\nextra AQID"))
    yield case("an unknown line", good.replace("index 6", "comment hello\nindex 6"))
    yield case("no empty line", good.replace("\n\n", "\n", 1))
    yield case("two empty lines", good.replace("\n\n", "\n\n\n", 1))
    yield case("empty line among the hashes", good.replace(steps[1], f"\n{steps[1]}"))
    yield case("space behind a hash", good.replace(steps[0], f"{steps[0]} "))
    yield case("a hash in hex", good.replace(steps[0], base64.b64decode(steps[0]).hex()))
    yield case("a hash in other base64", good.replace(steps[0], _another_spelling(steps[0])))
    yield case("a hash without padding", good.replace(steps[0], steps[0].rstrip("=")))
    yield case("a hash in base64 for addresses", _proof(INDEX, [_addressed(step) for step in steps], note))
    yield case("a hash cut", good.replace(steps[0], _b64(base64.b64decode(steps[0])[:30])))
    yield case("two hashes on a line", good.replace(f"{steps[0]}\n", steps[0]))
    yield case("a web page", "<!DOCTYPE html>\n<html><body>Not found</body></html>\n")


def _proof(index: int | None, steps: Sequence[str], note: str, extra: str | None = None) -> str:
    head = ["c2sp.org/tlog-proof@v1"]
    head += [] if extra is None else [f"extra {extra}"]
    head += [] if index is None else [f"index {index}"]
    return "\n".join([*head, *steps, "", note])


def _another_spelling(encoded: str) -> str:
    """The same bytes in base64 with a bit set that decodes to nothing."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    at = encoded.index("=") - 1
    return encoded[:at] + alphabet[alphabet.index(encoded[at]) + 1] + encoded[at + 1 :]


def _addressed(encoded: str) -> str:
    return encoded.replace("+", "-").replace("/", "_").replace("=", "")


def _strangers(many: int, text: str) -> Iterator[str]:
    for nth in range(many):
        yield Key(nth.to_bytes(32, "big"), f"stranger.example/{nth}").line(text)


def _b64(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode()


def made() -> dict[str, str]:
    """Content of each file, by name."""
    found = {"inclusion": inclusion(), "consistency": consistency(), "proofs": proofs()}
    return {f"{name}.json": "[\n" + ",\n".join(map(_line, cases)) + "\n]\n" for name, cases in found.items()}


def _line(case: Case) -> str:
    return json.dumps(case, ensure_ascii=True)


if __name__ == "__main__":
    for name, content in made().items():
        (HERE / name).write_text(content)
