"""`audit init`: the store, the mask key, and the log's origin, made once and put on record."""

import secrets
from dataclasses import dataclass

from sqlalchemy import Connection

from audit.errors import KeyUnavailable
from audit.events.event import Event, make_event
from audit.events.payloads import KeyFacts, Payload, StoreFacts
from audit.privacy.mask_key import create_mask_key, fingerprint, read_mask_key
from audit.recording import circumstances
from audit.settings import Settings, settings
from audit.store import engine, read
from audit.store.append import append_decided

SOURCE = "prefect-audit/init"
LOCAL_ORIGIN = "prefect-audit.local"


@dataclass(frozen=True, slots=True)
class Initialised:
    """What stands after `audit init`, and whether this call made it."""

    origin: str
    mask_key: str  # fingerprint
    made: bool


def initialise(origin: str | None = None, where: Settings | None = None) -> Initialised:
    """Make what is missing of store, key and origin; harmless when all is there.

    Raises StoreUnavailable, and KeyUnavailable if the mask key that the store knows of is gone: a new one
    would silently stop matching old rows.
    """
    where = where or settings()
    store = engine.open_store(where)
    with store.reading() as connection:
        known, opened = (read.first_payload(connection, type) for type in ("key.created", "store.opened"))
    key = read_mask_key(where.keys_path) if known else create_mask_key(where.keys_path)
    if known:
        _same_key(fingerprint(key), known["fingerprint"])
    if known and opened:
        return Initialised(opened["origin"], fingerprint(key), made=False)
    append_decided(store, lambda connection: _missing(connection, key, origin))
    with store.reading() as connection:
        opened = read.first_payload(connection, "store.opened")
    assert opened is not None
    return Initialised(opened["origin"], fingerprint(key), made=True)


def _missing(connection: Connection, key: bytes, origin: str | None) -> list[Event]:
    """What is not on record yet. Under the lock: of two that initialise at once, the second finds it done."""
    found: list[Event] = []
    if read.first_payload(connection, "key.created") is None:
        created = KeyFacts(purpose="mask", fingerprint=fingerprint(key), principal=circumstances.principal())
        found.append(_event("key.created", created, "key/mask"))
    if read.first_payload(connection, "store.opened") is None:
        named = origin or f"{LOCAL_ORIGIN}/{secrets.token_hex(8)}"
        opening = StoreFacts(origin=named, store_schema=engine.HEAD, principal=circumstances.principal())
        found.append(_event("store.opened", opening, "store"))
    return found


def _same_key(found: str, recorded: str) -> None:
    if found != recorded:
        raise KeyUnavailable(
            f"keys/mask.key has fingerprint {found}, the record says {recorded}.",
            hint="Put the right key back; with another one new rows no longer match old ones.",
        )


def _event(type: str, payload: Payload, subject: str) -> Event:
    return make_event(type, payload, source=SOURCE, subject=subject, actor=circumstances.actor())
