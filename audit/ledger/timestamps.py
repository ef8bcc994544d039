"""RFC 3161 time stamps: an authority says when a checkpoint existed, not that what was recorded was true.

A response is kept as it came. It is believed if it is over the note's exact bytes, by a signer under the roots that the
reader names.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from cryptography import x509

from audit.errors import AuthorityUnknown, ProofRejected, UserError
from audit.ledger.asking import ask, content_of, demand_address, line_of, refusal, shown
from audit.ledger.der import with_certificates_in_order

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

SHA256 = "2.16.840.1.101.3.4.2.1"  # RFC 8017
STATUS = ("granted", "granted with changes", "a refusal", "that one has to wait", "a warning", "a revocation")
_NO_CHAIN = "certificate verify error"  # of OpenSSL: from the signer to none of the roots
_OPENSSL_SAYS = re.compile(r'(?:reason: "|"Verify error: ?)([^"]+)"')
# Of cryptography, beside ValueError: certificates that a response carries, which nobody vouches for, are parsed too.
_MALFORMED = (ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


@dataclass(frozen=True, slots=True)
class Authority:
    """A time stamp authority: where it is asked, and the roots that its time stamps are held against."""

    kind: ClassVar[Literal["timestamp"]] = "timestamp"
    url: str = field(repr=False)  # may hold a password
    roots: tuple[x509.Certificate, ...]

    @property
    def shown(self) -> str:
        return shown(self.url)


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
        with warnings.catch_warnings(action="ignore"):  # of odd ones among a system's roots
            return x509.load_pem_x509_certificates(content_of(path))
    except ValueError:
        raise UserError(f"{path} holds no certificates in PEM.", hint="Ask the authority for its roots.") from None


def stamped(target: Authority, note: str) -> bytes:
    """The response of an authority that was asked about a note. Raises AnchorRefused, AnchorUnavailable, ProofRejected
    if it does not hold."""
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    asked = TimestampRequestBuilder(note.encode(), HashAlgorithm.SHA256, nonce=True, cert_req=True).build()
    answer = ask(target.url, asked.as_bytes(), "application/timestamp-query", target.shown)
    if answer.status != 200:
        raise refusal(answer.status, target.shown)
    response = _believed(answer.body, note, target.roots)
    if response.tst_info.nonce != asked.nonce:
        raise ProofRejected(f"The time stamp by {target.shown} answers another request than ours.")
    return answer.body


def check_timestamp(evidence: bytes, note: str, roots: Sequence[x509.Certificate]) -> datetime:
    """When an authority under `roots` says that the note's exact bytes existed; `evidence` is a TimeStampResp in DER.

    Certificates must have been valid then, not today. What is not signed of a response (numbers of versions, the name
    of the signature's algorithm) may be another than it was. Raises ProofRejected.
    """
    return _believed(evidence, note, roots).tst_info.gen_time


def timestamp_signer(evidence: bytes) -> str:
    """The subject of the certificate that signed a time stamp; to be believed once that was checked."""
    return _signer(_parsed(evidence))


def _believed(evidence: bytes, note: str, roots: Sequence[x509.Certificate]) -> "TimeStampResponse":
    """The response, if it is a time stamp by an authority under `roots` over this note. Raises ProofRejected."""
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


def _why(refused: Exception) -> str:
    """What OpenSSL found, without its codes and file names."""
    if said := _OPENSSL_SAYS.findall(str(refused)):
        return str(said[-1])
    return line_of(refused)
