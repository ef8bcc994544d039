"""The log's signing key: in `keys/log.key`, for its owner alone, or handed in by whoever fetched it from elsewhere.

A process without it does not seal. Which key is the log's is on record; one that was lost is never replaced unasked.
Words on record alone make no key the log's: signatures do. A new key lies in `log.key.next` until it is on record, then
takes the other's place: whenever a process dies between, the record says which of the two files is the key.
"""

import re
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from audit.errors import KeyUnavailable, ProofRejected, UserError
from audit.keyfile import alone_in, put, read_if_there, read_private, rename_durably
from audit.ledger.note import SigningKey, VerifierKey, consented, parse_key, parse_note, parse_signing_key, verified
from audit.store.read import Recorded

FILE = "log.key"
NEXT = "log.key.next"
PURPOSE = "log"
SEED_BYTES = 32
KeyEvent = tuple[Recorded, str | None]  # and the note of the first checkpoint that seals it
_TEXT = re.compile(r"PRIVATE\+KEY\+([^\s+]+\+[0-9a-f]{8})\+[A-Za-z0-9+/=]+")


def new_key(origin: str) -> SigningKey:
    """A key for the log of this origin, which nobody has yet."""
    return SigningKey(origin, secrets.token_bytes(SEED_BYTES))


def written(key: SigningKey) -> bytes:
    """The key as its file has it: Go's signer key, a line."""
    return f"{key.encoded}\n".encode()


def first_key(folder: Path, origin: str) -> SigningKey:
    """The key that lies in `folder`, else a new one that waits there to be put on record.

    Raises KeyUnavailable if the one that lies there is another log's.
    """
    if lying := key_in(folder / FILE):
        demand_name(lying, origin, str(folder / FILE))
        return lying
    put_next(folder, made := new_key(origin))
    return made


def put_next(folder: Path, key: SigningKey) -> None:
    """Have a key wait in `folder` to be put on record. Raises KeyUnavailable if it cannot be written."""
    with alone_in(folder):
        put(folder / NEXT, written(key))


def log_key(folder: Path, recorded: Callable[[], VerifierKey | None]) -> SigningKey | None:
    """The key in `folder`; None if there is none. Raises KeyUnavailable if it is open to others or no key.

    `recorded` is the log's key on record. It is asked only where a key waits, which takes its place if it is the one.
    """
    if (folder / NEXT).exists():
        with alone_in(folder):  # else another one's next key may lie there by the time this one is moved
            waiting = key_in(folder / NEXT)
            if waiting and waiting.verifier == recorded():
                with suppress(OSError):  # who may not write here leaves it to the next one
                    rename_durably(folder / NEXT, folder / FILE)
                return waiting
    return key_in(folder / FILE)


def read_log_key(folder: Path) -> SigningKey:
    """The key in `folder`. Raises KeyUnavailable if it is missing, open to others or no key."""
    return decoded(read_private(folder / FILE).decode(errors="replace"), str(folder / FILE))


def key_in(path: Path) -> SigningKey | None:
    """The key in a file; None if there is no file. Raises KeyUnavailable if it is open to others or no key."""
    content = read_if_there(path)
    return None if content is None else decoded(content.decode(errors="replace"), str(path))


def decoded(text: str, place: str) -> SigningKey:
    """The key that `place` holds. Raises KeyUnavailable if it is none."""
    try:
        return parse_signing_key(text.strip())
    except UserError as damaged:
        raise KeyUnavailable(f"{place}: {damaged.what}", hint="Bring the right one back.") from None


def claimed(text: str) -> str | None:
    """Name and id that a key's text gives itself, without a proof that they are its own; None if it is no key's."""
    found = _TEXT.fullmatch(text.strip())
    return found[1] if found else None


def demand_name(key: SigningKey, origin: str, place: str) -> None:
    """Raises KeyUnavailable if `key` is not for the log of this origin."""
    if key.name != origin:
        raise KeyUnavailable(
            f"{place} is the key of {key.name}, this log is {origin}.",
            hint="Move it away, or say --origin with its name.",
        )


def current_key(told: Iterable[KeyEvent]) -> VerifierKey | None:
    """The log's key after these key.* events, the oldest first; None before the first."""
    keys = keys_on_record(told)
    return keys[-1] if keys else None


def keys_on_record(told: Iterable[KeyEvent]) -> list[VerifierKey]:
    """Every key that was the log's, the oldest first.

    Whoever can write events can say that the key is another one. The first one is believed. One that takes over is if
    the one before signed its consent, and the checkpoint that first seals this carries both signatures; one after a
    loss, if it is the new key that signs this checkpoint, not the one before. What is said without that is sealed like
    everything else, and changes nothing.
    """
    found: list[VerifierKey] = []
    for event, note in told:
        key = _key_named(event)
        if key is None:
            continue
        if not found:
            found += [key] if event.type == "key.created" else []
            continue
        before = found[-1]
        expected = {"key.rotated": {before, key}, "key.created": {key}}.get(event.type)
        handed = event.type != "key.rotated" or consented(before, key, event.payload.get("consent"))
        if key != before and handed and _signers(note, (before, key)) == expected:
            found.append(key)
    return found


def _key_named(event: Recorded) -> VerifierKey | None:
    """The log's key that an event is about; None if it is about none."""
    try:
        return parse_key(str(event.payload.get("vkey"))) if event.payload.get("purpose") == PURPOSE else None
    except UserError:
        return None


def _signers(note: str | None, keys: Iterable[VerifierKey]) -> set[VerifierKey]:
    """Those of `keys` that signed a note; none if one of the signatures is not its own."""
    try:
        return set(verified(parse_note(note), keys)) if isinstance(note, str) else set()
    except ProofRejected:
        return set()
