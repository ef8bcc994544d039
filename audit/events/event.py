"""One event: a small envelope that is sealed for good, and a payload that can be taken away.

CloudEvents 1.0 names (id, source, type, subject, time) plus our own attributes. The envelope holds
nothing about a data subject; it binds the payload by SHA-256(salt ‖ payload), with a salt drawn once,
here, so that an erased payload cannot be guessed back and a replayed one cannot be swapped.
"""

import hashlib
import os
import secrets
import time as clock
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from audit.events.canonical import canonical, cleaned, timestamp
from audit.events.payloads import Payload
from audit.events.vocabulary import VOCABULARY, Severity

SCHEMA_VERSION = 1
MAX_ENVELOPE = 8_192  # bytes; tlog-tiles would allow 65,535
SALT_BYTES = 32

# Every key of the envelope; the store has a column for each.
ENVELOPE_KEYS = (
    "id", "source", "type", "subject", "time", "severity", "actor", "flow_run_id", "task_run_id",
    "deployment", "trace_id", "schema_version", "recorded_at", "payload_hash",
)  # fmt: skip
NULLABLE_KEYS = ("flow_run_id", "task_run_id", "deployment", "trace_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event as it is stored: `envelope` and `body` are the exact texts that were hashed."""

    id: str
    source: str
    type: str
    subject: str
    time: str
    severity: str
    actor: str
    flow_run_id: str | None
    task_run_id: str | None
    deployment: str | None
    trace_id: str | None
    schema_version: int
    recorded_at: str
    payload_hash: str
    envelope: str
    salt: bytes
    body: str

    @property
    def of_a_run(self) -> bool:
        """Whether it belongs to a run; what the record says of itself does not, whoever has it do so."""
        return self.flow_run_id is not None or self.task_run_id is not None


def make_event(
    type: str,
    payload: Payload,
    *,
    source: str,
    subject: str,
    actor: str,
    id: str | None = None,
    time: datetime | None = None,
    severity: Severity | None = None,
    flow_run_id: str | None = None,
    task_run_id: str | None = None,
    deployment: str | None = None,
    trace_id: str | None = None,
) -> Event:
    """The event that puts `payload` on record, salted and in canonical form.

    `id` defaults to a UUIDv7, `time` to now, `severity` to the usual one of its type.
    """
    known = VOCABULARY[type]
    assert isinstance(payload, known.payload), f"{type} takes {known.payload.__name__}"
    now = datetime.now(UTC)
    salt = secrets.token_bytes(SALT_BYTES)
    body = cleaned(payload.model_dump(mode="json", exclude_none=True))
    at = timestamp(now)
    columns: dict[str, str | int | None] = {
        "id": id or uuid7(),
        "source": source,
        "type": type,
        "subject": subject,
        "time": timestamp(time) if time else at,
        "severity": severity or known.severity,
        "actor": actor,
        "flow_run_id": flow_run_id,
        "task_run_id": task_run_id,
        "deployment": deployment,
        "trace_id": trace_id,
        "schema_version": SCHEMA_VERSION,
        "recorded_at": at,
        "payload_hash": payload_hash(salt, body),
    }
    envelope = canonical(columns)
    assert len(envelope) <= MAX_ENVELOPE, f"envelope of {type} has {len(envelope)} bytes"
    return Event(**columns, envelope=envelope.decode(), salt=salt, body=body.decode())  # type: ignore[arg-type]


def payload_hash(salt: bytes, body: bytes) -> str:
    """What the envelope says of its payload: SHA-256 over salt and bytes."""
    return "sha256:" + hashlib.sha256(salt + body).hexdigest()


def uuid7(unix_ms: int | None = None) -> str:
    """A UUIDv7 (RFC 9562, 5.7), now or at a given millisecond."""
    ms = clock.time_ns() // 1_000_000 if unix_ms is None else unix_ms
    return _uuid(ms, os.urandom(10), version=7)


def uuid8(time_from: str, *digested: str) -> str:
    """A UUIDv8 (RFC 9562, 5.8): 48 bits of time taken from the UUIDv7 `time_from`, the rest from
    SHA-256 over `digested`. Zero time where `time_from` carries none. The same input, the same id.
    """
    origin = UUID(time_from)
    ms = origin.int >> 80 if origin.version == 7 else 0
    return _uuid(ms, hashlib.sha256("\x00".join(digested).encode()).digest()[:10], version=8)


def _uuid(ms: int, rest: bytes, *, version: int) -> str:
    value = (ms << 80) | int.from_bytes(rest, "big")
    value &= ~(0xF000 << 64) & ~(0xC000 << 48)
    value |= (version << 76) | (0x8000 << 48)
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
