"""The log's signing key where this process finds it, and what is done with it: sealing, handing over, replacing.

It comes from AUDIT_LOG_KEY, else from a Prefect Secret block, else from AUDIT_HOME/keys/log.key; never both here and
there. A process that has none does not seal.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from audit.errors import KeyUnavailable, UserError
from audit.events.event import Event, make_event
from audit.events.payloads import KeyFacts
from audit.keyfile import create_once, put
from audit.ledger import keys
from audit.ledger.note import SigningKey, VerifierKey
from audit.ledger.sealer import BATCH, KEPT, Announce, Sealed, Withdraw, demand_continued, seal
from audit.recording import circumstances
from audit.settings import Settings
from audit.store import ledger
from audit.store.engine import AuditStore, open_existing, open_store

SOURCE = "prefect-audit/log-key"
NOT_HERE_HINT = (
    "This process does not seal. Bring the key back, or set AUDIT_LOG_KEY; if it is gone for good: "
    "audit log-key --lost --reason TEXT"
)
PAUSE_SECONDS = 0.2  # between batches: SQLite's waiting writers look again every 0.1 s

log = logging.getLogger("audit")
Tell = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Given:
    """A key that does not lie in AUDIT_HOME, and where it comes from."""

    key: SigningKey
    place: str


def signing_key(where: Settings) -> SigningKey | None:
    """The key that this process seals with; None where there is none here.

    Raises KeyUnavailable if what is there is open to others or no key, or the block cannot be loaded.
    """
    if given := given_key(where):
        return given.key
    return keys.log_key(where.keys_path, lambda: recorded_key(where))


def given_key(where: Settings) -> Given | None:
    """The key that comes from elsewhere than AUDIT_HOME, if the settings say so. Raises KeyUnavailable."""
    if where.log_key:
        return Given(keys.decoded(where.log_key, "AUDIT_LOG_KEY"), "AUDIT_LOG_KEY")
    if where.log_key_block:
        place = f"the Prefect block {where.log_key_block}"
        return Given(keys.decoded(_text_of(where.log_key_block, place), place), place)
    return None


def recorded_key(where: Settings) -> VerifierKey | None:
    """The log's key on record; None before the first. Raises StoreUnavailable."""
    with open_store(where).reading() as connection:
        return keys.current_key(ledger.key_events(connection))


def continued_store(where: Settings) -> AuditStore:
    """The store, for who goes by what is sealed in it: it must continue the last checkpoint that this machine signed.

    Raises InconsistentTree where it is an older copy or was changed, StoreUnavailable, KeyUnavailable.
    """
    store = open_existing(where)
    with store.reading() as connection:
        demand_continued(connection, where.keys_path / KEPT)
    return store


def seal_all(where: Settings, key: SigningKey, *, tell: Tell, whole: bool = False) -> Iterator[Sealed]:
    """Seal what waits, a checkpoint a batch, each told as any event is; what comes meanwhile is left to the next one.
    `whole` as with `seal`.

    Raises InconsistentTree, KeyUnavailable, StoreUnavailable.
    """
    store = open_store(where)
    while done := seal(store, key, actor=circumstances.actor(), kept=where.keys_path / KEPT, whole=whole):
        _warn(done)
        tell(done.event)
        yield done
        if done.events < BATCH:
            return
        time.sleep(PAUSE_SECONDS)


def seal_withdrawing(where: Settings, key: SigningKey, withdraw: Withdraw, *, tell: Tell) -> Sealed | None:
    """Withdraw payloads, and seal the event that permits it, in one transaction; None if there was nothing to seal.

    Raises InconsistentTree, KeyUnavailable, StoreUnavailable.
    """
    done = seal(open_store(where), key, actor=circumstances.actor(), kept=where.keys_path / KEPT, withdraw=withdraw)
    if done:
        _warn(done)
        for event in (*done.announced, done.event):
            tell(event)
    return done


def no_key() -> KeyUnavailable:
    """A store of before there was a log."""
    return KeyUnavailable("This log has no key.", hint="Run `audit init`.")


def demanded_key(where: Settings) -> SigningKey:
    """The key that this process seals with. Raises KeyUnavailable, which says what to do, if there is none here."""
    if key := signing_key(where):
        return key
    recorded = recorded_key(where)
    if recorded is None:
        raise no_key()
    raise KeyUnavailable(f"The log's key {recorded.shown} is not here.", hint=NOT_HERE_HINT)


def rotate(where: Settings, *, to: Path | None = None, tell: Tell) -> Sealed:
    """Hand the log over to a new key: both on record, and the checkpoint that seals this signed by both.

    A key of ours takes its place in AUDIT_HOME. One that comes from elsewhere is written to `to`, for whoever can to
    install it. Raises UserError, KeyUnavailable, InconsistentTree, StoreUnavailable.
    """
    given, old = given_key(where), demanded_key(where)
    if given and to is None:
        raise UserError(
            f"The log's key comes from {given.place}, which is not changed from here.",
            hint="Name a new file for the new key, then put it there: audit log-key --rotate --to FILE",
        )
    if to and not given:
        raise UserError("The log's key lies in AUDIT_HOME and is replaced there.", hint="Leave --to out.")
    for _ in seal_all(where, old, tell=tell):
        pass
    new = keys.new_key(old.name)

    def announce(current: VerifierKey | None) -> Sequence[Event]:
        _demand_unchanged(current, old.verifier)
        _put(new, to or where.keys_path / keys.NEXT, anew=to is not None)
        return [key_event("key.rotated", new.verifier, was=str(old.verifier), consent=old.consent(new.verifier))]

    return _changed(where, new, announce, tell, takes_over_from=old)


def replace_lost(where: Settings, reason: str, *, tell: Tell) -> Sealed:
    """Declare the log's key lost and go on with a new one: the one that is given from elsewhere, else one of ours.

    Raises UserError if it is not lost, KeyUnavailable, InconsistentTree, StoreUnavailable.
    """
    given, here, recorded = given_key(where), signing_key(where), recorded_key(where)
    if recorded is None:
        raise no_key()
    if here and here.verifier == recorded:
        raise UserError(
            f"The log's key {recorded.shown} is here and works.", hint="To replace it: audit log-key --rotate"
        )
    if here and not given:
        raise KeyUnavailable(f"{where.keys_path / keys.FILE} holds another key.", hint="Move it away first.")
    new = given.key if given else keys.new_key(recorded.name)
    keys.demand_name(new, recorded.name, given.place if given else "")

    def announce(current: VerifierKey | None) -> Sequence[Event]:
        _demand_unchanged(current, recorded)
        if given is None:
            _put(new, where.keys_path / keys.NEXT)
        return [key_event("key.lost", recorded, reason=reason), key_event("key.created", new.verifier, reason=reason)]

    return _changed(where, new, announce, tell)


def key_event(
    type: str, key: VerifierKey, *, was: str | None = None, consent: str | None = None, reason: str | None = None
) -> Event:
    """What happened to the log's key `key`."""
    facts = KeyFacts(
        purpose=keys.PURPOSE,
        fingerprint=key.shown,
        vkey=str(key),
        was=was,
        consent=consent,
        reason=reason,
        principal=circumstances.principal(),
    )
    return make_event(type, facts, source=SOURCE, subject="key/log", actor=circumstances.actor())


def _changed(
    where: Settings, new: SigningKey, announce: Announce, tell: Tell, *, takes_over_from: SigningKey | None = None
) -> Sealed:
    done = seal(
        open_store(where),
        new,
        actor=circumstances.actor(),
        kept=where.keys_path / KEPT,
        takes_over_from=takes_over_from,
        announce=announce,
    )
    assert done is not None, "what was announced is sealed"
    keys.log_key(where.keys_path, lambda: new.verifier)  # which takes its place, now that it is on record
    _warn(done)
    for event in (*done.announced, done.event):
        tell(event)
    return done


def _put(key: SigningKey, path: Path, *, anew: bool = False) -> None:
    """Under the lock, so that of two that replace the key at once one writes."""
    if not anew:
        put(path, keys.written(key))
    elif not create_once(path, keys.written(key)):
        raise UserError(f"{path} is there already.", hint="Name a new file.")


def _demand_unchanged(current: VerifierKey | None, expected: VerifierKey) -> None:
    if current != expected:
        raise KeyUnavailable(
            f"The log's key on record is {current.shown if current else 'none'}, not {expected.shown}.",
            hint="Bring the right one back, or see `audit log-key`.",
        )


def _warn(done: Sealed) -> None:
    if done.not_kept:
        log.warning(
            "The last checkpoint is not kept beside the key: an older copy of the store will not be noticed. %s",
            done.not_kept,
        )
    if behind := done.clock_went_back:
        log.warning(
            "The clock of this machine is %s behind the last checkpoint: one of the two clocks was wrong.",
            timedelta(seconds=round(behind.total_seconds())),
        )


def _text_of(block: str, place: str) -> str:
    """What the block holds. Raises KeyUnavailable, with no word of Prefect's: they may quote the block."""
    import httpx
    from prefect.blocks.system import Secret

    try:
        loaded = Secret.load(block.removeprefix("secret/"), _sync=True)  # type: ignore[call-arg]
    except (ValueError, RuntimeError, httpx.HTTPError) as failed:
        raise KeyUnavailable(
            f"{place} cannot be loaded ({type(failed).__name__}).", hint="See AUDIT_LOG_KEY_BLOCK and PREFECT_API_URL."
        ) from None
    assert isinstance(loaded, Secret)
    return str(loaded.get())
