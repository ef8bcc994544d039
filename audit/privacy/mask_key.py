"""The mask key: 32 random bytes in `keys/mask.key`, for its owner alone. It keys the hashes of personal columns and
of people's names; losing it only means that new rows no longer match old ones."""

import secrets
from pathlib import Path

from audit.errors import KeyUnavailable
from audit.keyfile import create_once, read_private
from audit.privacy.handling import keyed

__all__ = ["create_mask_key", "fingerprint", "keyed", "read_mask_key"]

FILE = "mask.key"
KEY_BYTES = 32
FINGERPRINT_DIGITS = 16


def create_mask_key(folder: Path) -> bytes:
    """The key in `folder`, made if there is none; of two processes that make one at a time, both get the same.

    Raises KeyUnavailable if the folder cannot be written, or the key that is there cannot be used.
    """
    create_once(folder / FILE, secrets.token_bytes(KEY_BYTES))
    return read_mask_key(folder)


def read_mask_key(folder: Path) -> bytes:
    """The key in `folder`. Raises KeyUnavailable if it is missing, open to others or not 32 bytes."""
    path = folder / FILE
    key = read_private(path)
    if len(key) != KEY_BYTES:
        raise KeyUnavailable(f"{path} is not a key of {KEY_BYTES} bytes.", hint="Bring the right file back.")
    return key


def fingerprint(key: bytes) -> str:
    """What names the key without giving it away."""
    return keyed(key, "fingerprint")[:FINGERPRINT_DIGITS]
