"""Pages and files for people, kept as they are: Data Docs, drift reports, evaluations."""

from audit.artifacts import blobs
from audit.events.canonical import digest_of
from audit.events.references import Report
from audit.settings import settings


def put(data: bytes, name: str, media_type: str = "text/html") -> Report:
    """Reference to `data`, stored as it is; its content is its bytes, so the digest is over them."""
    return Report(address=blobs.put(data), digest=digest_of(data), name=name, media_type=media_type)


def read(reference: Report) -> bytes:
    """The report's bytes. Raises ArtifactUnavailable if they are missing or differ."""
    return blobs.get(reference.address)


def link(reference: Report) -> str | None:
    """Where a person can open it: at AUDIT_REPORTS_URL, else the file itself; None where the root is remote."""
    if served := settings().reports_url:
        return f"{served.rstrip('/')}/{reference.address.rpartition('/')[2]}"
    path = blobs.local_path(reference.address)
    return path.as_uri() if path else None
