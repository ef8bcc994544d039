"""The mask key: 32 random bytes in `keys/mask.key`, for its owner alone. It keys the hashes of personal columns and
of people's names; losing it only means that new rows no longer match old ones."""

import os
import secrets
import stat
from pathlib import Path

from audit.errors import KeyUnavailable
from audit.privacy.handling import keyed

__all__ = ["create_mask_key", "fingerprint", "keyed", "read_mask_key"]

FILE = "mask.key"
KEY_BYTES = 32
FINGERPRINT_DIGITS = 16


def create_mask_key(folder: Path) -> bytes:
    """The key in `folder`, made if there is none; of two processes that make one at a time, both get the same.

    Raises KeyUnavailable if the folder cannot be written, or the key that is there cannot be used.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / FILE).exists():
            _link_new_key(folder)
    except OSError as error:
        raise KeyUnavailable(
            f"{folder / FILE} cannot be written ({error.strerror}).", hint="Set AUDIT_HOME to a folder that can."
        ) from None
    return read_mask_key(folder)


def read_mask_key(folder: Path) -> bytes:
    """The key in `folder`. Raises KeyUnavailable if it is missing, open to others or not 32 bytes."""
    path = folder / FILE
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(KEY_BYTES + 1)
    except FileNotFoundError:
        raise KeyUnavailable(f"{path} is missing.", hint="Run `audit init`, or bring the key back.") from None
    except OSError as error:
        raise KeyUnavailable(f"{path} cannot be read ({error.strerror}).") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyUnavailable(f"{path} is open to other users.", hint=f"Run `chmod 600 {path}`.")
    if len(key) != KEY_BYTES:
        raise KeyUnavailable(f"{path} is not a key of {KEY_BYTES} bytes.", hint="Bring the right file back.")
    return key


def fingerprint(key: bytes) -> str:
    """What names the key without giving it away."""
    return keyed(key, "fingerprint")[:FINGERPRINT_DIGITS]


def _link_new_key(folder: Path) -> None:
    """Written whole under another name, then linked: the first one wins and no one reads half a key."""
    draft = folder / f".{FILE}.{secrets.token_hex(8)}"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, folder / FILE)
    except FileExistsError:
        pass  # another process was first; its key is the key
    finally:
        draft.unlink(missing_ok=True)
    _sync(folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
