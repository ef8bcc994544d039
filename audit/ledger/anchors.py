"""Anchors: what somebody outside says of a checkpoint, so that the owner of database and key cannot rewrite the past.

RFC 3161 time stamps say when a checkpoint existed; cosignatures of witnesses (c2sp.org/tlog-witness, tlog-cosignature)
say that it continues all those that the witness saw before. Neither says that what was recorded was true. Only what
can be checked is kept: each is verified before it is stored, with the event that tells of it.
"""

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from cryptography import x509
from sqlalchemy import Connection

from audit.errors import (
    AnchorRefused,
    AnchorUnavailable,
    AuditError,
    AuthorityUnknown,
    InconsistentTree,
    NotFound,
    ProofRejected,
    UserError,
)
from audit.events.canonical import digest_of, timestamp
from audit.events.event import Event, make_event
from audit.events.payloads import AnchorFacts
from audit.ledger import tree
from audit.ledger.asking import CHECK, Answer, ask, demand_address, line_of, refusal, shown
from audit.ledger.der import with_certificates_in_order
from audit.ledger.note import (
    COSIGNATURE,
    Note,
    Signature,
    VerifierKey,
    cosigned_at,
    decimal,
    parse_key,
    parse_note,
    verified,
)
from audit.ledger.sealer import reader
from audit.settings import Settings
from audit.store import ledger
from audit.store.append import insert_event
from audit.store.engine import AuditStore

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

Kind = Literal["timestamp", "cosignature"]

SOURCE = "prefect-audit/anchors"
MAX_FILE = 1 << 20  # bytes of roots or of witnesses; a system's whole store of roots has a quarter of that
SHA256 = "2.16.840.1.101.3.4.2.1"  # RFC 8017
STATUS = ("granted", "granted with changes", "a refusal", "that one has to wait", "a warning", "a revocation")
SIZE_TYPE = "text/x.tlog.size"


@dataclass(frozen=True, slots=True)
class Authority:
    """A time stamp authority: where it is asked, and the roots that its time stamps are held against."""

    kind: ClassVar[Kind] = "timestamp"
    url: str = field(repr=False)  # may hold a password
    roots: tuple[x509.Certificate, ...]

    @property
    def shown(self) -> str:
        return shown(self.url)


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness: the key that its cosignatures are held against, and where it is asked."""

    kind: ClassVar[Kind] = "cosignature"
    key: VerifierKey
    url: str = field(repr=False)  # submission prefix

    @property
    def shown(self) -> str:
        return self.key.shown


@dataclass(frozen=True, slots=True)
class Anchored:
    """A checkpoint's anchor by one authority or witness."""

    size: int  # leaves, of the checkpoint
    kind: Kind
    by: str
    at: datetime
    event: Event | None  # checkpoint.anchored; None where it was on record before


@dataclass(frozen=True, slots=True)
class NotAnchored:
    """That one authority or witness does not vouch, or could not be asked."""

    kind: Kind
    by: str  # where it was asked, or the witness's key
    why: AuditError


def targets(where: Settings) -> list[Authority | Witness]:
    """Whom the settings name. Raises UserError if what they name cannot be used."""
    found: list[Authority | Witness] = [authority(where.tsa_url, where.tsa_roots)] if where.tsa_url else []
    return found + (list(read_witnesses(where.witnesses)) if where.witnesses else [])


def authority(url: str, roots: Path | None) -> Authority:
    """The authority at `url`. Raises UserError without an address, or roots to hold it against."""
    demand_address(url, "The time stamp authority's address")
    if roots is None:
        raise UserError(
            "The time stamp authority's root certificates are not named: nobody could check what it says.",
            hint="Set AUDIT_TSA_ROOTS or --tsa-roots to a PEM file of them.",
        )
    return Authority(url, tuple(read_roots(roots)))


def read_roots(path: Path) -> list[x509.Certificate]:
    """The certificates in a PEM file. Raises UserError if it cannot be read or has none."""
    try:
        return x509.load_pem_x509_certificates(_content(path))
    except ValueError:
        raise UserError(f"{path} holds no certificates in PEM.", hint="Ask the authority for its roots.") from None


def read_witnesses(path: Path) -> list[Witness]:
    """Witnesses of a file, a line each: verifier key, space, URL. Raises UserError that names file and line."""
    found: list[Witness] = []
    for nth, line in enumerate(_content(path).decode(errors="replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise UserError(f"{path}:{nth}: a witness is a verifier key, a space and a URL.")
        try:
            found.append(_witness(*words))
        except UserError as wrong:
            raise UserError(f"{path}:{nth}: {wrong.what}", hint=wrong.hint) from None
    if not found:
        raise UserError(f"{path} names no witness.", hint="Write a line for each: verifier key, space, URL.")
    return found


def anchor(store: AuditStore, target: Authority | Witness, *, actor: str) -> Anchored:
    """Have `target` vouch for the newest checkpoint, unless its word on it is on record; returns that.

    Raises NotFound where nothing is sealed yet, AnchorRefused, ProofRejected if what it answers does not hold,
    InconsistentTree if it has seen another history, AnchorUnavailable, StoreUnavailable.
    """
    with store.reading() as connection:
        newest = _newest(connection)
        if known := _on_record(connection, newest, target):
            return known
    word = _stamped(target, newest) if isinstance(target, Authority) else _cosigned(store, target)
    return _filed(store, target, word, actor)


def anchor_by_each(
    store: AuditStore, targets: Iterable[Authority | Witness], *, actor: str, tell: Callable[[Event], None]
) -> list[Anchored | NotAnchored]:
    """Ask them all: that one of them fails keeps none of the others from being asked. `tell` hears of each new event.

    Raises NotFound where nothing is sealed yet, StoreUnavailable.
    """
    found: list[Anchored | NotAnchored] = []
    for target in targets:
        try:
            done = anchor(store, target, actor=actor)
        except (AnchorRefused, AnchorUnavailable, InconsistentTree, ProofRejected) as why:
            found.append(NotAnchored(target.kind, target.shown, why))
            continue
        if done.event:
            tell(done.event)
        found.append(done)
    return found


def check_timestamp(evidence: bytes, note: str, roots: Sequence[x509.Certificate]) -> datetime:
    """When an authority under `roots` says that the note's exact bytes existed; `evidence` is a TimeStampResp in DER.

    Certificates must have been valid then, not today. What is not signed of a response (numbers of versions, the name
    of the signature's algorithm) may be another than it was. Raises ProofRejected.
    """
    return _believed(evidence, note, roots).tst_info.gen_time


def check_cosignature(evidence: bytes, note: str, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, datetime]:
    """Which of the witnesses' `keys` cosigned the note, and when it says so; `evidence` is a signature's line.

    Raises ProofRejected, also where it is of none of them.
    """
    cosignature = _signature(evidence)
    by = verified(Note(parse_note(note).text, (cosignature,)), [key for key in keys if key.kind == COSIGNATURE])
    if not by:
        raise AuthorityUnknown(f"The cosignature by {cosignature.name[:60]!r} is of no witness that is known here.")
    return by[0], _time(cosigned_at(cosignature))


def timestamp_signer(evidence: bytes) -> str:
    """The subject of the certificate that signed a time stamp; to be believed once that was checked."""
    return _signer(_parsed(evidence))


class _Head(NamedTuple):
    """A checkpoint on record."""

    size: int
    note: str


class _Word(NamedTuple):
    """What a target said of a checkpoint, verified."""

    of: _Head
    evidence: bytes
    by: str
    at: datetime


def _newest(connection: Connection) -> _Head:
    found = ledger.last_checkpoint(connection)
    if found is None:
        raise NotFound("No checkpoint is on record that could be anchored.", hint="Run `audit seal`.")
    return _Head(*found)


def _on_record(connection: Connection, head: _Head, target: Authority | Witness) -> Anchored | None:
    """What `target` said of this checkpoint, if that is on record and holds."""
    for row in ledger.latest_anchors(connection, target.kind):
        if row.size < head.size:
            break
        try:
            if isinstance(target, Witness):
                _, at = check_cosignature(row.evidence, head.note, [target.key])
                return Anchored(head.size, target.kind, target.shown, at, None)
            if row.asked == target.shown:
                at = check_timestamp(row.evidence, head.note, target.roots)
                return Anchored(head.size, target.kind, timestamp_signer(row.evidence), at, None)
        except ProofRejected:
            continue  # by another witness, or under roots that are no longer believed
    return None


def _filed(store: AuditStore, target: Authority | Witness, word: _Word, actor: str) -> Anchored:
    """Evidence and event go in together. Of two processes that asked at once, the second finds it done."""
    event = make_event(
        "checkpoint.anchored",
        AnchorFacts(
            size=word.of.size,
            kind=target.kind,
            by=word.by,
            at=timestamp(word.at),
            digest=digest_of(word.evidence),
            asked=target.shown if isinstance(target, Authority) else None,
        ),
        source=SOURCE,
        subject=f"checkpoint/{word.of.size}",
        actor=actor,
    )
    with store.writing() as connection:
        if known := _on_record(connection, word.of, target):
            return known
        seq = insert_event(connection, event)
        assert seq is not None, "a new event has a new id"
        ledger.add_anchor(connection, seq, word.of.size, target.kind, word.evidence)
    return Anchored(word.of.size, target.kind, word.by, word.at, event)


def _stamped(target: Authority, head: _Head) -> _Word:
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    asked = TimestampRequestBuilder(head.note.encode(), HashAlgorithm.SHA256, nonce=True, cert_req=True).build()
    answer = ask(target.url, asked.as_bytes(), "application/timestamp-query", target.shown)
    if answer.status != 200:
        raise refusal(answer.status, target.shown)
    response = _believed(answer.body, head.note, target.roots)
    if response.tst_info.nonce != asked.nonce:
        raise ProofRejected(f"The time stamp by {target.shown} answers another request than ours.")
    return _Word(head, answer.body, _signer(response), response.tst_info.gen_time)


def _believed(evidence: bytes, note: str, roots: Sequence[x509.Certificate]) -> "TimeStampResponse":
    """The response, if it is a time stamp by an authority under `roots` over this note. Raises ProofRejected."""
    from hashlib import sha256

    from rfc3161_client import VerificationError, VerifierBuilder

    response = _parsed(evidence)
    imprint = response.tst_info.message_imprint
    digest = sha256(note.encode()).digest()
    if imprint.hash_algorithm.dotted_string != SHA256 or imprint.message != digest:
        raise ProofRejected("The time stamp is over other bytes than this checkpoint's.")
    if not roots:
        raise AuthorityUnknown("The time stamp is by no authority that is trusted here (no roots are named).")
    try:
        VerifierBuilder(roots=list(roots)).build().verify(response, digest)
    except VerificationError as refused:
        if _NO_CHAIN in str(refused):
            raise AuthorityUnknown(
                f"The time stamp is by no authority that is trusted here ({_why(refused)})."
            ) from None
        raise ProofRejected(f"The time stamp does not hold ({_why(refused)}).") from None
    except _MALFORMED:
        raise ProofRejected("The time stamp holds what is no certificate.") from None
    return response


_NO_CHAIN = "certificate verify error"  # of OpenSSL: from the signer to none of the roots
_OPENSSL_SAYS = re.compile(r'(?:reason: "|"Verify error: ?)([^"]+)"')
# Of cryptography, beside ValueError: certificates that a response carries, which nobody vouches for, are parsed too.
_MALFORMED = (ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


def _parsed(evidence: bytes) -> "TimeStampResponse":
    """Raises ProofRejected if it is no response, or one without a time stamp."""
    from rfc3161_client import decode_timestamp_response

    try:
        response = decode_timestamp_response(with_certificates_in_order(evidence))
        status, reasons = response.status, "; ".join(response.status_string).rstrip(". ")
        if status == 0:
            response.tst_info.message_imprint.hash_algorithm  # noqa: B018  # parsed when it is asked for
            return response
    except _MALFORMED:
        raise ProofRejected("This is no time stamp (RFC 3161).") from None
    meaning = STATUS[status] if 0 <= status < len(STATUS) else f"status {status}"
    raise ProofRejected(f"The authority's answer is {meaning}{f': {reasons[:200]}' if reasons else ''}.")


def _signer(response: "TimeStampResponse") -> str:
    signer = next(iter(response.signed_data.signer_infos))
    for encoded in response.signed_data.certificates:
        certificate = x509.load_der_x509_certificate(encoded)
        if (certificate.issuer, certificate.serial_number) == (signer.issuer, signer.serial_number):
            return certificate.subject.rfc4514_string()
    raise ProofRejected("The time stamp does not hold its signer's certificate.")


def _cosigned(store: AuditStore, target: Witness) -> _Word:
    """Ask from where we left off with this witness, then once more from where it says that it is."""
    with store.reading() as connection:
        head, old = _newest(connection), _last_seen(connection, target)
    answer = _add_checkpoint(store, target, old, head)
    if answer.status == 409:
        with store.reading() as connection:
            head = _newest(connection)  # another process may have sealed since, and told the witness
        answer = _add_checkpoint(store, target, _size_said(answer, target), head)
    if answer.status != 200:
        raise _unwitnessed(answer.status, target, head.size)
    evidence = _line_by(target.key, answer.body)
    _, at = check_cosignature(evidence, head.note, [target.key])
    return _Word(head, evidence, target.shown, at)


def _last_seen(connection: Connection, target: Witness) -> int:
    """Size of the last checkpoint that this witness cosigned as far as is on record, 0 before the first."""
    for row in ledger.latest_anchors(connection, "cosignature"):
        if _is_by(target.key, row.evidence):
            return int(row.size)
    return 0


def _is_by(key: VerifierKey, line: bytes) -> bool:
    """Whether a signature's line names this key; its signature is not looked at."""
    try:
        signature = _signature(line)
    except ProofRejected:
        return False
    return (signature.name, signature.key_id) == (key.name, key.key_id)


def _signature(line: bytes) -> Signature:
    """Raises ProofRejected if it is none, or more than one."""
    written = line.decode(errors="replace")
    if written.count("\n") != 1 or not written.endswith("\n"):
        raise ProofRejected("This is no cosignature: one signature line.")
    return parse_note(f"-\n\n{written}").signatures[0]


def _time(seconds: int) -> datetime:
    """Raises ProofRejected for none, which only signatures over parts of a tree may leave out, and beyond year 9999."""
    try:
        if seconds:
            return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise ProofRejected(f"The cosignature says that it was made {seconds} seconds after 1970.")


def _add_checkpoint(store: AuditStore, target: Witness, old: int, head: _Head) -> Answer:
    """c2sp.org/tlog-witness, add-checkpoint. Raises InconsistentTree if the witness is ahead of us."""
    if old > head.size:
        raise InconsistentTree(
            f"{target.shown} has seen {old} leaves of this log, the store's newest checkpoint has {head.size}: "
            "it was cut back, or another store goes by its name.",
            hint="Keep the store as it is, and bring the newer one back. See `audit verify`.",
        )
    with store.reading() as connection:
        proof = tree.consistency_proof(old, head.size, reader(connection))
    lines = [f"old {old}", *(base64.b64encode(step).decode() for step in proof), "", head.note]
    url = f"{target.url.rstrip('/')}/add-checkpoint"
    return ask(url, "\n".join(lines).encode(), "text/plain; charset=utf-8", target.shown)


def _size_said(answer: Answer, target: Witness) -> int:
    """Where the witness says that it is. Raises AnchorRefused if it does not."""
    try:
        if answer.type == SIZE_TYPE:
            return decimal(answer.body.decode(errors="replace").removesuffix("\n"), "The size")
    except ProofRejected:
        pass
    raise AnchorRefused(f"{target.shown} answered 409 without the size that it has seen.", hint=CHECK)


def _line_by(key: VerifierKey, answer: bytes) -> bytes:
    """The witness's own line of its answer. Raises AnchorRefused without one. Lines of keys unknown are passed over."""
    for line in answer.splitlines(keepends=True):
        if _is_by(key, line):
            return line
    raise AnchorRefused(
        f"{key.shown} answered without a cosignature by this key.", hint="Ask its operator for the key in force."
    )


_REFUSALS = {  # c2sp.org/tlog-witness
    400: ("calls the request malformed", CHECK),
    403: ("does not take the checkpoint's signature", "Give its operator the log's key: `audit log-key`."),
    404: ("does not know this log", "Give its operator the log's key: `audit log-key`."),
}


def _unwitnessed(status: int, target: Witness, size: int) -> AuditError:
    if status == 422:
        return InconsistentTree(
            f"{target.shown} has seen another history of this log: "
            f"the checkpoint of size {size} does not continue what it cosigned before.",
            hint="Sealed events were changed, or another store goes by this log's name. Keep both; see `audit verify`.",
        )
    if status == 409:
        return AnchorUnavailable(f"{target.shown} is being told of this log by others just now.", hint="Try again.")
    if status in _REFUSALS:
        what, hint = _REFUSALS[status]
        return AnchorRefused(f"{target.shown} {what} (it answered {status}).", hint=hint)
    return refusal(status, target.shown)


def _witness(vkey: str, url: str) -> Witness:
    key = parse_key(vkey)
    if key.kind != COSIGNATURE:
        raise UserError(
            f"{key.shown} is a log's key, not a witness's.", hint="One of a witness is of kind 0x04 (tlog-cosignature)."
        )
    demand_address(url, f"The address of {key.shown}")
    return Witness(key, url)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    if len(content) > MAX_FILE:
        raise UserError(f"{path} has more than {MAX_FILE:,} bytes.")
    return content


def _why(refused: Exception) -> str:
    """What OpenSSL found, without its codes and file names."""
    if said := _OPENSSL_SAYS.findall(str(refused)):
        return str(said[-1])
    return line_of(refused)
