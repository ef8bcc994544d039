"""Who vouches for checkpoints from outside: a time stamp authority run by `openssl ts`, and a witness by its standard.

Both are real servers on this machine. Where openssl is missing, what needs it is skipped with that reason, and fails
under PREFECT_AUDIT_OPENSSL=required.
"""

import base64
import json
import os
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from audit.errors import ProofRejected
from audit.ledger import tree
from audit.ledger.note import (
    COSIGNATURE,
    SigningKey,
    VerifierKey,
    cosignature,
    parse_checkpoint,
    parse_note,
    verified,
)
from tests.receivers import Quiet, serving

A_DAY = timedelta(days=1)
Reply = Callable[[Quiet], None]

_BEGIN, _END = "-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n"
_CONFIG = """
[tsa]
default_tsa = authority
[authority]
serial = {folder}/serial
signer_cert = {folder}/signer.pem
signer_key = {folder}/signer.key
signer_digest = sha256
default_policy = 1.3.6.1.4.1.99999.1
digests = {digests}
accuracy = secs:1
tsa_name = yes
ess_cert_id_alg = sha256
"""


@dataclass
class TimestampAuthority:
    """A time stamp authority (RFC 3161) over HTTP, or whatever `instead` has it answer."""

    folder: Path
    port: int = 0
    received: list[bytes] = field(default_factory=list)
    credentials: list[str | None] = field(default_factory=list)  # of each request, as it carried them
    instead: Reply | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/tsr"

    def url_with(self, user: str, password: str) -> str:
        return f"http://{user}:{password}@127.0.0.1:{self.port}/tsr"

    @property
    def roots(self) -> Path:
        return self.folder / "root.pem"

    def stamp(self, query: bytes) -> bytes:
        """The response to a query in DER."""
        asked, answer = self.folder / "asked.tsq", self.folder / "answer.tsr"
        asked.write_bytes(query)
        command = ["openssl", "ts", "-reply", "-config", self.folder / "tsa.cnf", "-queryfile", asked, "-out", answer]
        subprocess.run(command, capture_output=True, check=True, timeout=60)
        return answer.read_bytes()

    def stamp_over(self, content: bytes, digest: str = "sha256") -> bytes:
        """A time stamp over `content`, as openssl itself asks for it."""
        (self.folder / "content").write_bytes(content)
        query = ["openssl", "ts", "-query", "-data", self.folder / "content", f"-{digest}", "-cert"]
        return self.stamp(subprocess.run(query, capture_output=True, check=True, timeout=60).stdout)

    def sends_along(self, *certificates: bytes) -> None:
        """Further certificates in DER, beside its own, with every time stamp from now on."""
        written = (f"{_BEGIN}{base64.encodebytes(one).decode()}{_END}" for one in certificates)
        (self.folder / "further.pem").write_text("".join(written))
        config = self.folder / "tsa.cnf"
        lines = [line for line in config.read_text().splitlines() if not line.startswith("certs")]
        config.write_text("\n".join([*lines, f"certs = {self.folder}/further.pem\n"]))


def found_authority(
    folder: Path,
    name: str = "Example Time Stamping",
    *,
    valid: tuple[timedelta, timedelta] = (-A_DAY, A_DAY),
    digests: str = "sha256",
) -> TimestampAuthority:
    """An authority's keys and certificates in `folder`, its root beside them; `valid` from now on."""
    demand_openssl()
    folder.mkdir()
    root_key, signer_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name = _name(f"{name} Root")
    root = _certificate(root_name, root_key, root_name, root_key, valid)
    signer = _certificate(_name(name), signer_key, root_name, root_key, valid, for_stamping=True)
    (folder / "root.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    (folder / "signer.pem").write_bytes(signer.public_bytes(serialization.Encoding.PEM))
    (folder / "signer.key").write_bytes(
        signer_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (folder / "serial").write_text("01\n")
    (folder / "tsa.cnf").write_text(_CONFIG.format(folder=folder, digests=digests))
    return TimestampAuthority(folder)


@contextmanager
def timestamp_authority(folder: Path, name: str = "Example Time Stamping") -> Iterator[TimestampAuthority]:
    """A new authority that answers meanwhile."""
    answering = found_authority(folder, name)
    one_at_a_time = threading.Lock()  # openssl counts serial numbers in a file

    class Answer(Quiet):
        def do_POST(self) -> None:
            query = self.body()
            answering.received.append(query)
            answering.credentials.append(self.headers["Authorization"])
            if answering.instead:
                answering.instead(self)
                return
            if self.headers["Content-Type"] != "application/timestamp-query":
                self.reply(415, b"")
                return
            with one_at_a_time:
                stamped = answering.stamp(query)
            self.reply(200, stamped, {"Content-Type": "application/timestamp-reply"})

    with serving(Answer) as answering.port:
        yield answering


@dataclass
class Witness:
    """A witness (c2sp.org/tlog-witness) that keeps in a file what it saw last of each log, before it answers.

    It knows the logs whose verifier keys it was given.
    """

    path: Path
    key: SigningKey
    logs: dict[str, list[VerifierKey]]
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    asked: list[str] = field(default_factory=list)  # the first line of each request
    instead: Reply | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/witness"

    @property
    def vkey(self) -> VerifierKey:
        return VerifierKey(self.key.name, COSIGNATURE, self.key.verifier.public)

    @property
    def line(self) -> str:
        """As AUDIT_WITNESSES has it."""
        return f"{self.vkey} {self.url}\n"

    def knows(self, log: VerifierKey) -> None:
        self.logs.setdefault(log.name, []).append(log)

    def answer(self, request: str) -> tuple[int, str, str]:
        """Status, content type and body."""
        head, _, checkpoint = request.partition("\n\n")
        old, *proof = head.split("\n")
        self.asked.append(old)
        try:
            size, steps = int(old.removeprefix("old ")), [base64.b64decode(line) for line in proof]
            note = parse_note(checkpoint)
            new = parse_checkpoint(note.text)
        except (ProofRejected, ValueError):
            return 400, "text/plain", "malformed"
        if new.origin not in self.logs:
            return 404, "text/plain", "no such log"
        try:
            signers = verified(note, self.logs[new.origin])
        except ProofRejected:
            signers = []
        if not signers:
            return 403, "text/plain", "not signed by that log"
        if size > new.size:
            return 400, "text/plain", "old is above the checkpoint's size"
        with self.lock:
            seen, root = self.seen(new.origin)
            if size != seen:
                return 409, "text/x.tlog.size", f"{seen}\n"
            try:
                tree.verify_consistency(size, root, new.size, new.root, steps)
            except ProofRejected:
                return 422, "text/plain", "not consistent"
            self._keep(new.origin, new.size, new.root)
        return 200, "text/plain", str(cosignature(self.key, note.text, int(time.time())))

    def seen(self, origin: str) -> tuple[int, bytes]:
        """Size and root of what it cosigned last of this log."""
        size, root = self._all().get(origin, (0, tree.EMPTY_ROOT.hex()))
        return size, bytes.fromhex(root)

    def _all(self) -> dict[str, tuple[int, str]]:
        return dict(json.loads(self.path.read_text())) if self.path.exists() else {}

    def _keep(self, origin: str, size: int, root: bytes) -> None:
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps(self._all() | {origin: (size, root.hex())}))
        draft.replace(self.path)


@contextmanager
def witnessing(path: Path, name: str = "witness.example/w1") -> Iterator[Witness]:
    """A new witness that answers meanwhile."""
    answering = Witness(path, SigningKey(name, secrets.token_bytes(32)), {})

    class Answer(Quiet):
        def do_POST(self) -> None:
            request = self.body().decode()
            if answering.instead:
                answering.instead(self)
                return
            if self.path != "/witness/add-checkpoint":
                self.reply(404, b"")
                return
            status, type, said = answering.answer(request)
            self.reply(status, said.encode(), {"Content-Type": type})

    with serving(Answer) as answering.port:
        yield answering


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[TimestampAuthority]:
    with timestamp_authority(tmp_path / "authority") as answering:
        yield answering


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    with witnessing(tmp_path / "witness.json") as answering:
        yield answering


def replies(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
    """That, whatever is asked."""
    return lambda request: request.reply(status, body, headers)


def openssl_is_here() -> bool:
    """Whether there can be a time stamp authority; where there must be one, its absence is a failure."""
    found = shutil.which("openssl") is not None
    if not found and os.environ.get("PREFECT_AUDIT_OPENSSL") == "required":
        pytest.fail("openssl is not on the path, and PREFECT_AUDIT_OPENSSL is required")
    return found


def demand_openssl() -> None:
    if not openssl_is_here():
        pytest.skip("openssl is not on the path: no time stamp authority")


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(
    name: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    valid: tuple[timedelta, timedelta],
    *,
    for_stamping: bool = False,
) -> x509.Certificate:
    """A root, or what RFC 3161 (2.3) wants of a signer's: no other use than time stamping, marked critical."""
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + valid[0])
        .not_valid_after(now + valid[1])
        .add_extension(x509.BasicConstraints(ca=not for_stamping, path_length=None), critical=True)
    )
    if for_stamping:
        stamping = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        certificate = certificate.add_extension(stamping, critical=True)
    return certificate.sign(issuer_key, hashes.SHA256())
