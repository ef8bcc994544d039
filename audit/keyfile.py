"""A key in a file that its owner alone may read: made once and whole, and refused where others could read it."""

import os
import secrets
import stat
from pathlib import Path

from audit.errors import KeyUnavailable

MAX_BYTES = 4_096


def create_once(path: Path, content: bytes) -> None:
    """Write a key unless there is one: of two processes that make one at a time, the first one's is the key.

    Raises KeyUnavailable if the folder cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _link_new(path, content)
    except OSError as error:
        raise KeyUnavailable(
            f"{path} cannot be written ({error.strerror}).", hint="Set AUDIT_HOME to a folder that can."
        ) from None


def read_private(path: Path) -> bytes:
    """What is in the file. Raises KeyUnavailable if it is missing, or open to others."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_BYTES)
    except FileNotFoundError:
        raise KeyUnavailable(f"{path} is missing.", hint="Run `audit init`, or bring the key back.") from None
    except OSError as error:
        raise KeyUnavailable(f"{path} cannot be read ({error.strerror}).") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyUnavailable(f"{path} is open to other users.", hint=f"Run `chmod 600 {path}`.")
    return content


def write_durably(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Put `content` in the place of what was there, so that a crash leaves the one or the other, never a part."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write_new(draft, content, mode)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync(path.parent)


def _link_new(path: Path, content: bytes) -> None:
    """Written whole under another name, then linked: the first one wins and no one reads half a key."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write_new(draft, content, 0o600)
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was first; its key is the key
    finally:
        draft.unlink(missing_ok=True)
    _sync(path.parent)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
