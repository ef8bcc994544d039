"""`audit init`: the store, the mask key, the log's origin and its key, made once and put on record."""

import secrets
from dataclasses import dataclass

from sqlalchemy import Connection

from audit.errors import KeyUnavailable
from audit.events.event import Event, make_event
from audit.events.payloads import KeyFacts, Payload, StoreFacts
from audit.ledger import keys
from audit.privacy.mask_key import create_mask_key, fingerprint, read_mask_key
from audit.recording import circumstances
from audit.recording.sealing import Given, given_key, key_event, recorded_key
from audit.settings import Settings, settings
from audit.store import engine, read
from audit.store.append import append_decided
from audit.store.ledger import key_events

SOURCE = "prefect-audit/init"
LOCAL_ORIGIN = "prefect-audit.local"


@dataclass(frozen=True, slots=True)
class Initialised:
    """What stands after `audit init`, and whether this call made something of it."""

    origin: str
    mask_key: str  # fingerprint
    log_key: str  # name and id of the key on record, whether or not it is here
    made: bool


def initialise(origin: str | None = None, where: Settings | None = None) -> Initialised:
    """Make what is missing of store, keys and origin; harmless when all is there.

    On PostgreSQL that takes the rights of the store's owner.

    Raises StoreUnavailable, and KeyUnavailable if the mask key that the store knows of is gone: a new one
    would silently stop matching old rows; or if a log key that is here is another log's.
    """
    where = where or settings()
    store = engine.make_store(where)
    with store.reading() as connection:
        known = _known(connection)
    mask_key = read_mask_key(where.keys_path) if known.mask_key else create_mask_key(where.keys_path)
    if known.mask_key:
        _same_key(fingerprint(mask_key), known.mask_key)
    if known.complete:
        return _stands(known, made=False)
    given = None if known.log_key else given_key(where)  # before the lock: a block comes over the network
    append_decided(store, lambda connection: _missing(connection, mask_key, given, origin, where))
    keys.log_key(where.keys_path, lambda: recorded_key(where))  # which takes its place, now that it is on record
    with store.reading() as connection:
        return _stands(_known(connection), made=True)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is on record of keys and origin."""

    origin: str | None
    mask_key: str | None  # fingerprint
    log_key: str | None  # name and id

    @property
    def complete(self) -> bool:
        return None not in (self.origin, self.mask_key, self.log_key)


def _known(connection: Connection) -> _Known:
    opened, told = read.recorded_of_types(connection, ("store.opened",)), key_events(connection)
    origins = (event.payload["origin"] for event in opened if "origin" in event.payload)
    masks = (event.payload["fingerprint"] for event, _ in told if event.payload.get("purpose") == "mask")
    log_key = keys.current_key(told)
    return _Known(next(origins, None), next(masks, None), log_key.shown if log_key else None)


def _stands(known: _Known, *, made: bool) -> Initialised:
    assert known.origin and known.mask_key and known.log_key
    return Initialised(known.origin, known.mask_key, known.log_key, made)


def _missing(
    connection: Connection, mask_key: bytes, given: Given | None, origin: str | None, where: Settings
) -> list[Event]:
    """What is not on record yet. Under the lock: of two that initialise at once, the second finds it done."""
    found: list[Event] = []
    known = _known(connection)
    by = circumstances.principal()
    named = known.origin or origin or (given.key.name if given else f"{LOCAL_ORIGIN}/{secrets.token_hex(8)}")
    if known.mask_key is None:
        found.append(
            _event("key.created", KeyFacts(purpose="mask", fingerprint=fingerprint(mask_key), principal=by), "key/mask")
        )
    if known.origin is None:
        opening = StoreFacts(origin=named, store_schema=engine.HEAD, principal=by)
        found.append(_event("store.opened", opening, "store"))
    if known.log_key is None:
        if given:
            keys.demand_name(given.key, named, given.place)
        key = given.key if given else keys.first_key(where.keys_path, named)
        found.append(key_event("key.created", key.verifier))
    return found


def _same_key(found: str, recorded: str) -> None:
    if found != recorded:
        raise KeyUnavailable(
            f"keys/mask.key has fingerprint {found}, the record says {recorded}.",
            hint="Put the right key back; with another one new rows no longer match old ones.",
        )


def _event(type: str, payload: Payload, subject: str) -> Event:
    return make_event(type, payload, source=SOURCE, subject=subject, actor=circumstances.actor())
