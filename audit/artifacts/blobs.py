"""Bytes under their own SHA-256: `artifact://sha256/<hex>`, kept at `sha256/<2 hex>/<hex>` below one root.

The root is AUDIT_ARTIFACTS_URL: a folder, s3://, gs:// or az://. A local file is written beside its place as
`<hex>#<n>` and renamed (obstore does so), so no address ever names half a file. What is read is hashed again.
"""

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from audit import roots
from audit.errors import ArtifactUnavailable
from audit.settings import settings

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEME = "artifact://sha256/"
_ADDRESS = re.compile(r"artifact://sha256/([0-9a-f]{64})")
_CHUNK_BYTES = 1 << 20


def put(data: bytes) -> str:
    """Address of `data`, which is stored unless it already is.

    Raises ArtifactUnavailable if the root cannot be written.
    """
    return _put(data, len(data), hashlib.sha256(data).hexdigest())


def put_file(path: Path) -> str:
    """Address of the bytes of the file at `path`, which is read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return _put(path, path.stat().st_size, digest.hexdigest())


def get(address: str) -> bytes:
    """The bytes that `address` names.

    Raises ArtifactUnavailable if they are missing, cannot be read or have another SHA-256.
    """
    import obstore
    from obstore.exceptions import BaseError

    digest = _hex(address)
    try:
        data = bytes(obstore.get(_store(), _key(digest)).bytes())
    except FileNotFoundError:
        raise ArtifactUnavailable(
            f"{address} is missing under {_root()}.",
            hint="Bring the file back from a copy, or set AUDIT_ARTIFACTS_URL to the root that holds it.",
        ) from None
    except (BaseError, OSError) as broken:
        raise _unreachable("read", broken) from broken
    if hashlib.sha256(data).hexdigest() != digest:
        raise ArtifactUnavailable(
            f"{address} differs: the bytes under {_root()} have another SHA-256.",
            hint="Keep the file as it is and compare it with a copy from before.",
        )
    return data


def stored_digest(address: str) -> str | None:
    """The SHA-256 (hex) of the bytes that lie at `address`, read in pieces; None if nothing does.

    Raises ArtifactUnavailable if the root cannot be read.
    """
    import obstore
    from obstore.exceptions import BaseError

    digest = hashlib.sha256()
    try:
        for chunk in obstore.get(_store(), _key(_hex(address))).stream(_CHUNK_BYTES):
            digest.update(chunk)
    except FileNotFoundError:
        return None
    except (BaseError, OSError) as broken:
        raise _unreachable("read", broken) from broken
    return digest.hexdigest()


def local_path(address: str) -> Path | None:
    """Where the bytes of `address` lie on this machine; None if the root is remote or they are missing."""
    folder = roots.folder_of(settings().artifacts_url)
    path = folder / _key(_hex(address)) if folder else None
    return path if path and path.is_file() else None


def _put(data: bytes | Path, size: int, digest: str) -> str:
    import obstore
    from obstore.exceptions import BaseError

    try:
        store = _store()
        if _stored_size(store, _key(digest)) != size:  # a file of another size was cut short by a crash
            obstore.put(store, _key(digest), data)
    except (BaseError, OSError) as broken:
        raise _unreachable("written", broken) from broken
    return SCHEME + digest


def _stored_size(store: "ObjectStore", key: str) -> int | None:
    import obstore

    try:
        return obstore.head(store, key)["size"]
    except FileNotFoundError:
        return None


def _store() -> "ObjectStore":
    return _open(settings().artifacts_url)


@cache
def _open(url: str) -> "ObjectStore":
    return roots.opened(url)


def _key(digest: str) -> str:
    return f"sha256/{digest[:2]}/{digest}"


def _hex(address: str) -> str:
    if not (match := _ADDRESS.fullmatch(address)):
        raise ArtifactUnavailable(
            f"{address!r} is not an artifact's address.", hint=f"One reads {SCHEME} and 64 hex digits."
        )
    return match[1]


def _root() -> str:
    return roots.shown(settings().artifacts_url)


def _unreachable(what_failed: str, broken: Exception) -> ArtifactUnavailable:
    return ArtifactUnavailable(
        f"Artifacts cannot be {what_failed} under {_root()} ({roots.reason(broken)}).",
        hint="Make room or give access, or set AUDIT_ARTIFACTS_URL to a root that can be written.",
    )
