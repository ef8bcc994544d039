"""The log's signing key: in `keys/log.key`, for its owner alone, or handed in by whoever fetched it from elsewhere.

A process without it does not seal. Which key is the log's is on record; one that was lost is never replaced unasked.
"""

import secrets
from collections.abc import Iterable
from pathlib import Path

from audit.errors import KeyUnavailable, UserError
from audit.keyfile import create_once, read_private
from audit.ledger.note import SigningKey, VerifierKey, parse_key, parse_signing_key
from audit.store.read import Recorded

FILE = "log.key"
PURPOSE = "log"
SEED_BYTES = 32


def create_log_key(folder: Path, origin: str) -> SigningKey:
    """The key in `folder`, made for `origin` if there is none. Raises KeyUnavailable."""
    create_once(folder / FILE, f"{SigningKey(origin, secrets.token_bytes(SEED_BYTES)).encoded}\n".encode())
    return read_log_key(folder)


def read_log_key(folder: Path) -> SigningKey:
    """The key in `folder`. Raises KeyUnavailable if it is missing, open to others or no key."""
    return decoded(read_private(folder / FILE).decode(errors="replace"), str(folder / FILE))


def decoded(written: str, place: str) -> SigningKey:
    """The key that `place` holds. Raises KeyUnavailable if it is none."""
    try:
        return parse_signing_key(written)
    except UserError as damaged:
        raise KeyUnavailable(f"{place}: {damaged.what}", hint="Bring the right one back.") from None


def current_key(told: Iterable[Recorded]) -> VerifierKey | None:
    """The log's key after these key.* events, the oldest first; None before the first and after a loss."""
    found: VerifierKey | None = None
    for event in told:
        if event.payload.get("purpose") == PURPOSE:
            found = None if event.type == "key.lost" else parse_key(event.payload["vkey"])
    return found
