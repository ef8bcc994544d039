"""What we write is accepted by Go's note and tlog packages, which share nothing with us, and what is bent is not."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit.events.event import Event, make_event
from audit.events.payloads import StoreFacts
from audit.ledger import tree
from audit.ledger.note import Checkpoint, Note, SigningKey, signed
from audit.ledger.proof import TlogProof
from audit.ledger.tree import TILE_WIDTH, Node
from audit.recording.initialise import initialise
from audit.store.append import append
from audit.store.engine import close_stores, open_store

GO_PATH = Path("/usr/share/gocode")  # where Debian puts Go libraries
NEEDED = GO_PATH / "src" / "golang.org" / "x" / "mod" / "sumdb" / "tlog"
SOURCE = Path(__file__).parents[2] / "interop" / "tlogproof.go"
CASES = json.loads((Path(__file__).parents[2] / "vectors" / "proofs.json").read_text())
KEY = SigningKey("acme.example/fraud", bytes(range(32)))
OTHER = SigningKey("acme.example/fraud", bytes(range(1, 33)))
INDEX, SIZE = 77, 300

# Go's package knows no keys of witnesses, passes over a second signature by one key, and reads base64 less strictly.
NOT_SEEN_BY_GO = {
    "a known witness's wrong cosignature",
    "a known witness's plain signature",
    "two signatures by one key",
    "signature in other base64",
}

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="session")
def go(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the verifier in Go: exit code, and the line that it said."""
    compiler = shutil.which("go")
    if compiler is None or not NEEDED.is_dir():
        lacking = "`go` on the PATH" if compiler is None else f"golang.org/x/mod in {GO_PATH}"
        if os.environ.get("PREFECT_AUDIT_GO") == "required":
            pytest.fail(f"PREFECT_AUDIT_GO says that there is Go, and there is no {lacking}.")
        pytest.skip(f"no {lacking}: install Debian's golang-go and golang-golang-x-mod-dev")
    folder = tmp_path_factory.mktemp("go")
    built = folder / "tlogproof"
    environ = os.environ | {"GO111MODULE": "off", "GOPATH": str(GO_PATH), "GOCACHE": str(folder / "cache")}
    subprocess.run([compiler, "build", "-o", built, SOURCE], env=environ, check=True)

    def run(*words: object) -> tuple[int, str]:
        done = subprocess.run([built, *map(str, words)], capture_output=True, text=True)
        assert done.stderr == ""
        assert done.stdout.count("\n") == 1, done.stdout
        return done.returncode, done.stdout.strip()

    return run


@pytest.fixture(scope="module")
def events() -> list[Event]:
    """More than a tile of them."""
    return [
        make_event(
            "store.opened",
            StoreFacts(origin=KEY.name, store_schema=str(nth), principal="Zoë"),
            source="test",
            subject="store",
            actor="p:00",
        )
        for nth in range(SIZE)
    ]


@pytest.fixture(scope="module")
def rows(events: list[Event]) -> dict[Node, bytes]:
    """The tree over them, as the store keeps it."""
    leaves = [tree.leaf_hash(event.envelope.encode()) for event in events]
    kept = {Node(0, nth): leaf for nth, leaf in enumerate(leaves)}
    return kept | dict(tree.appended(0, leaves, lambda nodes: []))


@pytest.fixture(scope="module")
def read(rows: dict[Node, bytes]) -> tree.Read:
    return tree.through_tiles(
        lambda spans: [[rows[Node(span.level, nth)] for nth in range(span.first, span.end)] for span in spans]
    )


@pytest.fixture(scope="module")
def note(read: tree.Read) -> Note:
    return signed(Checkpoint(KEY.name, SIZE, tree.root(SIZE, read)).text, [KEY])


@pytest.fixture
def proof(tmp_path: Path, events: list[Event], read: tree.Read, note: Note) -> Path:
    """One event's proof in the files that `audit prove` writes."""
    event = events[INDEX]
    found = TlogProof(INDEX, tuple(tree.inclusion_proof(INDEX, SIZE, read)), note)
    (tmp_path / "entry.json").write_text(event.envelope)
    (tmp_path / "entry.tlog-proof").write_text(str(found))
    (tmp_path / "log.vkey").write_text(f"{KEY.verifier}\n")
    (tmp_path / "payload.json").write_text(json.dumps({"salt": event.salt.hex(), "payload": event.body}))
    return tmp_path


def test_go_accepts_a_proof_of_ours(go: Run, proof: Path) -> None:
    assert go(proof) == (0, f"accepted: entry 77 of {KEY.name} in a tree of 300, with its payload")


def test_go_accepts_a_proof_whose_payload_was_withdrawn(go: Run, proof: Path) -> None:
    (proof / "payload.json").unlink()

    assert go(proof) == (0, f"accepted: entry 77 of {KEY.name} in a tree of 300, without its payload")


def test_go_accepts_a_key_that_came_before(go: Run, proof: Path) -> None:
    (proof / "log.vkey").write_text(f"{OTHER.verifier}\n{KEY.verifier}\n")

    assert go(proof)[0] == 0


def flipped(name: str, at: int) -> Callable[[Path], None]:
    """Flips a bit of a file's byte."""

    def bend(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[at] ^= 1
        (folder / name).write_bytes(content)

    return bend


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    def bend(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return bend


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def hash_flipped(nth: int) -> Callable[[Path], None]:
    """Flips a bit of the nth hash, and leaves all else in form."""

    def bend(folder: Path) -> None:
        path = folder / "entry.tlog-proof"
        lines = path.read_text().split("\n")
        step = bytearray(base64.b64decode(lines[2 + nth]))
        step[nth] ^= 1
        lines[2 + nth] = base64.b64encode(step).decode()
        path.write_text("\n".join(lines))

    return bend


def signed_anew(
    bend_text: Callable[[str], str], key: SigningKey = KEY, name: str = "entry.tlog-proof"
) -> Callable[[Path], None]:
    """Another checkpoint at the end of a file, with a signature that fits it."""

    def bend(folder: Path) -> None:
        path = folder / name
        *before, text, _ = path.read_text().split("\n\n")
        path.write_text("\n\n".join([*before, str(signed(bend_text(f"{text}\n"), [key]))]))

    return bend


def other_root(text: str) -> str:
    return text.replace(text.split("\n")[2], base64.b64encode(bytes(32)).decode())


def with_payload(**changed: Any) -> Callable[[Path], None]:
    def bend(folder: Path) -> None:
        path = folder / "payload.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return bend


def salt_moved(folder: Path) -> None:
    """The payload's first byte for the salt's last: the same bytes are hashed."""
    path = folder / "payload.json"
    bound = json.loads(path.read_text())
    longer = bound["salt"] + bound["payload"][:1].encode().hex()
    path.write_text(json.dumps({"salt": longer, "payload": bound["payload"][1:]}))


BENT: dict[str, Callable[[Path], None]] = {
    **{f"hash {nth}": hash_flipped(nth) for nth in range(9)},
    "index": replaced("entry.tlog-proof", "index 77", "index 76"),
    "index beyond the tree": replaced("entry.tlog-proof", "index 77", "index 300"),
    "index with a zero before it": replaced("entry.tlog-proof", "index 77", "index 077"),
    "size": replaced("entry.tlog-proof", "\n300\n", "\n301\n"),
    "size, signed anew": signed_anew(lambda text: text.replace("\n300\n", "\n600\n")),
    "root, signed anew": signed_anew(other_root),
    "origin": replaced("entry.tlog-proof", "\nacme.example/fraud\n", "\nacme.example/other\n"),
    "origin, signed anew": signed_anew(lambda text: text.replace("fraud", "other")),
    "another key's signature": signed_anew(str, OTHER),
    "signature": flipped("entry.tlog-proof", -30),
    "signature gone": signed_anew(str, SigningKey("x.example", bytes(32))),
    "proof cut": lambda folder: os.truncate(folder / "entry.tlog-proof", 300),
    "entry's first byte": flipped("entry.json", 0),
    "entry's last byte": flipped("entry.json", -1),
    "entry's type": replaced("entry.json", "store.opened", "store.closed"),
    "entry with a newline": replaced("entry.json", "}", "}\n"),
    "salt": with_payload(salt="00" * 32),
    "salt empty": with_payload(salt=""),
    "salt moved into the payload": salt_moved,
    "payload": replaced("payload.json", "acme", "acmo"),
    "payload empty": with_payload(payload=""),
    "payload of another type": with_payload(payload={"origin": "acme.example/fraud"}),
    "payload without its salt": with_payload(salt=None),
    "payload and more": with_payload(comment="hello"),
    "key": flipped("log.vkey", -3),
    "key's id": replaced("log.vkey", "+", "+0"),
    "another key": lambda folder: (folder / "log.vkey").write_text(f"{OTHER.verifier}\n"),
    "key of another name": lambda folder: (folder / "log.vkey").write_text(
        f"{SigningKey('acme.example/other', KEY.seed).verifier}\n"
    ),
    "no key": lambda folder: (folder / "log.vkey").write_text(""),
    "no entry": without("entry.json"),
    "no proof": without("entry.tlog-proof"),
    "no file of keys": without("log.vkey"),
}


@pytest.mark.parametrize("bend", [pytest.param(bend, id=name) for name, bend in BENT.items()])
def test_go_rejects_what_is_bent(go: Run, proof: Path, bend: Callable[[Path], None]) -> None:
    bend(proof)

    code, said = go(proof)
    assert code == 1
    assert said.startswith("rejected: ")


def test_go_and_we_agree_over_the_same_vectors(go: Run, tmp_path: Path) -> None:
    """Keys of witnesses are left out: Go's package has no such kind."""
    disagreed = []
    for case in CASES:
        envelope = json.loads(case["entry"]) if case["entry"].strip() else {}
        (tmp_path / "entry.json").write_text(case["entry"])
        (tmp_path / "entry.tlog-proof").write_bytes(case["proof"].encode())
        (tmp_path / "log.vkey").write_text("".join(f"{key}\n" for key in case["keys"] if "+A" in key))
        if (go(tmp_path)[0] == 0) != case["held"]:
            disagreed.append(case["name"])
        assert envelope or not case["held"]

    assert set(disagreed) == NOT_SEEN_BY_GO


@pytest.fixture
def published(tmp_path: Path, events: list[Event], rows: dict[Node, bytes], note: Note) -> Path:
    """The log as a folder in the layout of c2sp.org/tlog-tiles."""
    (tmp_path / "checkpoint").write_text(str(note))
    (tmp_path / "log.vkey").write_text(f"{KEY.verifier}\n")
    for level, height in ((0, 0), (1, 8)):
        hashes = [rows[Node(height, nth)] for nth in range(SIZE >> height)]
        write_tiles(tmp_path / "tile" / str(level), hashes)
    entries = [event.envelope.encode() for event in events]
    write_tiles(tmp_path / "tile" / "entries", [len(entry).to_bytes(2, "big") + entry for entry in entries])
    return tmp_path


def write_tiles(folder: Path, parts: list[bytes]) -> None:
    for first in range(0, len(parts), TILE_WIDTH):
        tile = parts[first : first + TILE_WIDTH]
        name = f"{first // TILE_WIDTH:03}" + ("" if len(tile) == TILE_WIDTH else f".p/{len(tile)}")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"".join(tile))


def test_go_accepts_a_published_log(go: Run, published: Path) -> None:
    said = go("tiles", published, published / "log.vkey")

    assert said == (0, f"accepted: 300 entries and 3 tiles of {KEY.name}")


BENT_LOGS: dict[str, Callable[[Path], None]] = {
    "an entry": flipped("tile/entries/000", 1_000),
    "the last entry": flipped("tile/entries/001.p/44", -1),
    "an entry's length": flipped("tile/entries/000", 1),
    "a byte more": lambda folder: os.truncate(
        folder / "tile/entries/001.p/44", 1 + (folder / "tile/entries/001.p/44").stat().st_size
    ),
    "a leaf's hash": flipped("tile/0/000", 77),
    "a hash in the last tile": flipped("tile/0/001.p/44", 0),
    "a hash above": flipped("tile/1/000.p/1", 31),
    "a tile gone": without("tile/1/000.p/1"),
    "entries gone": without("tile/entries/000"),
    "the checkpoint's size": replaced("checkpoint", "\n300\n", "\n299\n"),
    "the checkpoint's root, signed anew": signed_anew(other_root, name="checkpoint"),
    "the checkpoint by another key": signed_anew(str, OTHER, "checkpoint"),
    "the checkpoint gone": without("checkpoint"),
    "the key": flipped("log.vkey", -3),
}


@pytest.mark.parametrize("bend", [pytest.param(bend, id=name) for name, bend in BENT_LOGS.items()])
def test_go_rejects_a_bent_log(go: Run, published: Path, bend: Callable[[Path], None]) -> None:
    bend(published)

    code, said = go("tiles", published, published / "log.vkey")
    assert code == 1
    assert said.startswith("rejected: ")


@pytest.fixture
def sealed(home: Path, events: list[Event]) -> Path:
    """A store whose log was sealed twice; its folder."""
    close_stores()
    initialise(KEY.name)
    append(open_store(), events[:200])
    audit("seal")
    append(open_store(), events[200:])
    audit("seal")
    return home


def audit(*words: object) -> None:
    """The command, in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "audit", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_go_accepts_what_the_command_proves_and_publishes(go: Run, sealed: Path, events: list[Event]) -> None:
    folder = sealed / "evidence"
    audit("prove", events[INDEX].id, "-o", folder)
    size = 3 + SIZE + 1  # what `audit init` recorded before, and the first sealing between

    assert go(folder) == (0, f"accepted: entry {3 + INDEX} of {KEY.name} in a tree of {size}, with its payload")
    for file in ("entry.json", "entry.tlog-proof", "payload.json", "log.vkey"):
        whole = (folder / file).read_bytes()
        flipped(file, len(whole) // 2)(folder)
        assert go(folder)[0] == 1, file
        (folder / file).write_bytes(whole)

    audit("publish", sealed / "published")
    assert go("tiles", sealed / "published", folder / "log.vkey")[1] == (
        f"accepted: {size} entries and 3 tiles of {KEY.name}"
    )
