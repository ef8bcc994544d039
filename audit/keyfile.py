"""A key in a file that its owner alone may read: made once and whole, and refused where others could read it."""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audit.errors import KeyUnavailable

MAX_BYTES = 4_096


def create_once(path: Path, content: bytes) -> bool:
    """Write a key unless there is one, and say whether: of two processes that make one at a time, the first one's is
    the key. Raises KeyUnavailable if the folder cannot be written.
    """
    with _in_private_folder(path):
        return not path.exists() and _link_new(path, content)


def put(path: Path, content: bytes) -> None:
    """Write a key in the place of what was there. Raises KeyUnavailable if the folder cannot be written."""
    with _in_private_folder(path):
        write_whole(path, content)


def read_private(path: Path) -> bytes:
    """What is in the file. Raises KeyUnavailable if it is missing, or open to others."""
    content = read_if_there(path)
    if content is None:
        raise KeyUnavailable(
            f"{path} is missing.",
            hint="Bring the key from the host that made it; only a new log's `audit init` makes one.",
        )
    return content


def read_if_there(path: Path) -> bytes | None:
    """The same; None if it is missing."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyUnavailable(f"{path} cannot be read ({error.strerror}).") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyUnavailable(f"{path} is open to other users.", hint=f"Run `chmod 600 {path}`.")
    return content


def write_whole(path: Path, content: bytes, mode: int = 0o600, *, durably: bool = True) -> None:
    """Put `content` in the place of what was there, so that who is killed leaves the one or the other, never a part.

    Not `durably` is a hundred times as quick, and where the power fails the file may be the one before, or empty.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write_new(draft, content, mode, durably)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    if durably:
        _sync(path.parent)


def rename_durably(path: Path, to: Path) -> None:
    """Put a file in the place of another one."""
    path.replace(to)
    _sync(to.parent)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep others that ask for the same out of the folder. Raises KeyUnavailable if it cannot be made or read."""
    with _in_private_folder(folder / "lock"):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _in_private_folder(path: Path) -> Iterator[None]:
    """Make the folder, for its owner alone; what fails to be written there is named."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise KeyUnavailable(
            f"{path} cannot be written ({error.strerror}).", hint="Set AUDIT_HOME to a folder that can."
        ) from None


def _link_new(path: Path, content: bytes) -> bool:
    """Written whole under another name, then linked: the first one wins and no one reads half a key."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write_new(draft, content, 0o600)
        os.link(draft, path)
    except FileExistsError:
        return False  # another process was first; its key is the key
    finally:
        draft.unlink(missing_ok=True)
    _sync(path.parent)
    return True


def _write_new(path: Path, content: bytes, mode: int, durably: bool = True) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if durably:
            os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
