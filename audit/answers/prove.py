"""One event's proof as a folder of small files for somebody who does not trust us, and the check of such a folder.

It shows that this envelope, and with it this payload, is in the log under a checkpoint that the log's key signed; not
that what was recorded was true, nor that everybody is shown the same log: that takes a checkpoint that was kept.
"""

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from audit.answers import outside
from audit.answers.checks import is_later
from audit.answers.verdict import Fault, Verdict
from audit.errors import CouldNotTell, InconsistentTree, ProofRejected, UserError
from audit.events.canonical import canonical
from audit.ledger import tree
from audit.ledger.keys import keys_on_record
from audit.ledger.note import VerifierKey
from audit.ledger.proof import TlogProof, check_proof, parse_proof
from audit.ledger.sealer import reader
from audit.store import ledger
from audit.store.engine import AuditStore

ENTRY = "entry.json"  # the leaf's exact bytes
PROOF = "entry.tlog-proof"
PAYLOAD = "payload.json"
KEYS = "log.vkey"
VERIFIER = "verify.py"
STAMPS = ("checkpoint.tsr", *(f"checkpoint-{nth}.tsr" for nth in range(2, 10)))
LIMITS = {  # bytes of each file
    ENTRY: outside.ENTRY_BYTES, PROOF: outside.SMALL_BYTES, PAYLOAD: outside.PAYLOAD_BYTES,
    KEYS: outside.SMALL_BYTES, VERIFIER: outside.SMALL_BYTES, **dict.fromkeys(STAMPS, outside.SMALL_BYTES),
}  # fmt: skip
PRIVATE = (PAYLOAD,)  # may be about people


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What proves one event, file by file."""

    event: str
    type: str
    index: int
    size: int
    cosignatures: int
    stamps: int
    payload: bool  # False: it was withdrawn
    files: Mapping[str, bytes]


def proof_of(store: AuditStore, event_id: str) -> Evidence:
    """The proof of one event under the newest checkpoint.

    Raises CouldNotTell while the event is not sealed, InconsistentTree if the store is not what was sealed.
    """
    with store.reading() as connection:
        sealed = ledger.sealed_event(connection, event_id)
        newest = ledger.last_checkpoint(connection)
        if sealed is None or newest is None or sealed.idx >= newest[0]:
            raise CouldNotTell(f"Event {event_id} is not sealed yet.", hint="Run `audit seal`, then this again.")
        size, note, cosignatures = next(ledger.cosigned_checkpoints(connection, newest[0]))
        stamps = [row.evidence for row in ledger.timestamps(connection, size)][: len(STAMPS)]
        hashes = tree.inclusion_proof(sealed.idx, size, reader(connection))
        keys = keys_on_record(ledger.key_events(connection))
    outside.demand_sealed(sealed)
    try:
        if not all(isinstance(stamp, bytes) for stamp in stamps):
            raise ProofRejected("a time stamp of its checkpoint is not kept as it was.")
        proof = TlogProof(sealed.idx, tuple(hashes), outside.cosigned(size, note, cosignatures))
        found = _files(sealed, proof, keys) | dict(zip(STAMPS, stamps, strict=False))
        _judged(found, outside.Trust())
    except ProofRejected as bad:
        raise InconsistentTree(f"event {sealed.id} (leaf {sealed.idx}): {bad.what}", hint=outside.CHANGED) from None
    return Evidence(
        event=sealed.id,
        type=sealed.type,
        index=sealed.idx,
        size=size,
        cosignatures=len(cosignatures),
        stamps=len(stamps),
        payload=PAYLOAD in found,
        files=found,
    )


def write_proof(evidence: Evidence, folder: Path, *, force: bool = False) -> None:
    """Write the files into a new folder, all of them or none. With `force` a former proof gives way, nothing else.

    Raises UserError if `folder` exists, or cannot be written.
    """
    folder = folder.absolute()
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    try:
        if folder.exists() or folder.is_symlink():
            _demand_replaceable(folder, force)
        draft.mkdir(parents=True)
        for name, content in evidence.files.items():
            path = draft / name
            path.touch(0o600 if name in PRIVATE else 0o644)
            path.write_bytes(content)
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}).", hint="Name another folder with -o."
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def verify_proof(
    folder: Path,
    *,
    key: VerifierKey | None = None,
    kept: Sequence[str] = (),
    witnesses: Sequence[VerifierKey] = (),
    tsa_roots: Path | None = None,
) -> Verdict:
    """Check a folder that `audit prove` wrote, without a store.

    `key`: the log's, as it is known from elsewhere; `kept`: checkpoints of the log that somebody kept; `witnesses`:
    keys whose cosignatures are demanded; `tsa_roots`: PEM file of the time stamp authorities that are believed.
    """
    try:
        return _judged(_read(folder), outside.Trust(key, kept, witnesses, tsa_roots))
    except CouldNotTell as lacking:
        return Verdict(unknown=(str(lacking),))
    except ProofRejected as bad:
        return Verdict(faults=(Fault("proof", bad.what),))


def _judged(files: Mapping[str, bytes], trust: outside.Trust) -> Verdict:
    """Raises ProofRejected where the proof, or what it is of, does not hold."""
    named = outside.keys_of(outside.utf8(files[KEYS], KEYS))
    proof = parse_proof(outside.utf8(files[PROOF], PROOF))
    keys = outside.keys_that_count(trust, named, proof.checkpoint)
    head = check_proof(files[ENTRY], proof, [*keys.believed, *trust.witnesses])
    said = outside.envelope_of(files[ENTRY])
    notes = [f"Event {said['id']} ({said['type']}) is leaf {proof.index} of {head.origin}."]
    if PAYLOAD in files:
        bound = outside.strict_object(
            outside.utf8(files[PAYLOAD], PAYLOAD).removesuffix("\n"), PAYLOAD, {"payload": str, "salt": str}
        )
        outside.demand_payload(said, bound["salt"], bound["payload"], PAYLOAD)
    else:
        notes.append("Its payload is not here: it was withdrawn, or left out.")
    stamped = outside.stamped_note(proof.checkpoint, named)
    stamps = [(name, files[name], stamped) for name in STAMPS if name in files]
    roots = {head.size: head.root}
    return outside.verdict(
        trust, proof.checkpoint, roots, keys, stamps, events=1, checkpoints=1, later=is_later(said), notes=notes
    )


def _files(sealed: ledger.SealedEvent, proof: TlogProof, keys: Sequence[VerifierKey]) -> dict[str, bytes]:
    found = {
        ENTRY: sealed.envelope.encode(),
        PROOF: str(proof).encode(),
        KEYS: outside.key_lines(keys),
        VERIFIER: outside.standalone(),
    }
    if sealed.withdrawal is None and sealed.salt is not None:
        found[PAYLOAD] = canonical({"payload": sealed.body, "salt": sealed.salt.hex()}) + b"\n"
    return found


def _read(folder: Path) -> dict[str, bytes]:
    """The files of a proof. Raises CouldNotTell where one is missing that it takes, ProofRejected for a huge one."""
    found = {}
    for name, limit in LIMITS.items():
        try:
            if not (folder / name).exists():
                continue
            with outside.plain_file(folder / name) as file:
                found[name] = file.read(limit + 1)
        except OSError as error:
            raise CouldNotTell(f"{folder / name} cannot be read ({error.strerror}).") from None
        if len(found[name]) > limit:
            raise ProofRejected(f"{name} has more than {limit:,} bytes.")
    if missing := [name for name in (ENTRY, PROOF, KEYS) if name not in found]:
        raise CouldNotTell(f"{folder} is no whole proof: {', '.join(missing)} is missing.", hint="See `audit prove`.")
    return found


def _demand_replaceable(folder: Path, force: bool) -> None:
    """Raises UserError unless `folder` is empty, or a former proof that may give way."""
    if not force and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists.", hint="Name another folder with -o, or give --force to replace it.")
    if folder.is_symlink() or not folder.is_dir() or any(file.name not in LIMITS for file in folder.iterdir()):
        raise UserError(f"{folder} is not only a proof: it stays as it is.", hint="Name another folder with -o.")
