"""`audit init`: the store, the mask key, and the log's origin, made once and put on record."""

import secrets
from dataclasses import dataclass

from audit.errors import KeyUnavailable
from audit.events.event import Event, make_event
from audit.events.payloads import KeyFacts, Payload, StoreFacts
from audit.privacy.mask_key import create_mask_key, fingerprint, read_mask_key
from audit.recording import circumstances
from audit.settings import Settings, settings
from audit.store import engine, read
from audit.store.append import append

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
    opened = next(read.events(store, types=("store.opened",), newest_first=False, limit=1), None)
    known = next(read.events(store, types=("key.created",), newest_first=False, limit=1), None)
    if known is None:
        key = create_mask_key(where.keys_path)
        facts = KeyFacts(purpose="mask", fingerprint=fingerprint(key), principal=circumstances.principal())
        append(store, [_event("key.created", facts, "key/mask")])
    else:
        key = read_mask_key(where.keys_path)
        _same_key(fingerprint(key), known.payload["fingerprint"])
    if opened is None:
        origin = origin or f"{LOCAL_ORIGIN}/{secrets.token_hex(8)}"
        opening = StoreFacts(origin=origin, store_schema=engine.HEAD, principal=circumstances.principal())
        append(store, [_event("store.opened", opening, "store")])
        return Initialised(origin, fingerprint(key), made=True)
    return Initialised(opened.payload["origin"], fingerprint(key), made=False)


def _same_key(found: str, recorded: str) -> None:
    if found != recorded:
        raise KeyUnavailable(
            f"keys/mask.key has fingerprint {found}, the record says {recorded}.",
            hint="Put the right key back; with another one new rows no longer match old ones.",
        )


def _event(type: str, payload: Payload, subject: str) -> Event:
    return make_event(type, payload, source=SOURCE, subject=subject, actor=circumstances.actor())
