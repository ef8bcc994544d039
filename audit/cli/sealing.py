"""`audit seal` and `audit log-key`: fixing what is on record, and the key that does it."""

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.answers.verdict import many
from audit.cli import output
from audit.errors import CouldNotTell, InconsistentTree, UserError
from audit.settings import settings

if TYPE_CHECKING:
    from audit.ledger.note import VerifierKey
    from audit.ledger.sealer import Sealed
    from audit.store.engine import AuditStore
    from audit.store.ledger import Sealing

EVERY_SECONDS, MOST_SECONDS = 15.0, 86_400.0
SHOWN_OF_ROOT = 12  # characters of base64
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SURE = "The log goes on with a new key, which nobody who keeps the old one will believe unasked. Is the old one gone?"
STAYS_HINT = "Nothing is written. Name another folder."
Asked = Callable[[float], bool]


def seal(
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C or SIGTERM.")] = False,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, max=MOST_SECONDS, help="How often --watch looks.")
    ] = EVERY_SECONDS,
    note: Annotated[bool, typer.Option("--note", help="Show the signed checkpoint.")] = False,
    as_json: output.AsJson = False,
) -> None:
    """Seal what is on record: every event that waits becomes a leaf of the log's tree, whose head is signed.

    Runs seal by themselves when they end, where the log's key is. With --watch, --json writes a line each time.

    Example: audit seal --note
    """
    from audit.recording.sealing import continued_store
    from audit.store.ledger import last_checkpoint, sealing

    if watch:
        with _asked_to_end() as asked:
            _watch(asked, every, note=note, as_json=as_json)
        return
    store = continued_store(settings())
    found = sealing(store)
    done = list(_with_progress(_seal_all(), found.unsealed))
    with store.reading() as connection:
        _, newest = last_checkpoint(connection) or (0, "")
    if as_json:
        said = {"events": sum(one.events for one in done), "size": done[-1].size if done else found.size}
        output.write_json({**said, "checkpoints": len(done), "note": newest or None})
        return
    output.show(_words(done) if done else _nothing(found), *(["", *newest.splitlines()] if note else []))


def log_key(
    rotate: Annotated[bool, typer.Option("--rotate", help="Hand over to a new key; both sign.")] = False,
    lost: Annotated[bool, typer.Option("--lost", help="The key is gone: go on with a new one.")] = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="How it was lost; goes on record.")] = "",
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of --rotate: a new file, where the key is not in AUDIT_HOME.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Of --lost: do not ask.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Write log.vkey and checkpoint there.")
    ] = None,
    as_json: output.AsJson = False,
) -> None:
    """Show the key that the log is checked with, and its newest checkpoint. Who keeps both can hold the log to them.

    Example: audit log-key -o evidence/
    """
    if rotate and lost:
        raise UserError("A key is rotated, or it is lost.", hint="Say one of --rotate and --lost.")
    if to and not rotate:
        raise UserError("--to is of --rotate.", hint="Say --rotate, or leave it out.")
    if reason and not lost:
        raise UserError("--reason is of --lost.", hint="Say --lost, or leave it out.")
    if rotate:
        _rotate(to, as_json=as_json)
    elif lost:
        _replace_lost(reason, yes, as_json=as_json)
    else:
        _show_key(out, as_json=as_json)


def _seal_all() -> "Iterator[Sealed]":
    """Raises KeyUnavailable where the key is not here."""
    from audit.recording.recorder import tell
    from audit.recording.sealing import demanded_key, seal_all

    yield from seal_all(settings(), demanded_key(settings()), tell=tell)


def _watch(asked: Asked, every: float, *, note: bool, as_json: bool) -> None:
    """Until it is asked to end. What is not there at the start is an error; what goes away later may come back."""
    from audit.store.engine import open_existing
    from audit.store.ledger import not_sealed

    store, away, began = open_existing(), "", False
    while True:
        try:
            if not began or not_sealed(store)[0]:
                for done in _seal_all():
                    _say_one(done, note=note, as_json=as_json)
                    if asked(0):
                        return
        except CouldNotTell as gone:
            if not began:
                raise
            if away != gone.what:
                typer.echo(f"{_now()}  {output.plain(str(gone))}", err=True)
            away = gone.what
        else:
            if away:
                typer.echo(f"{_now()}  It is back.", err=True)
            away, began = "", True
        if asked(every):
            return


@contextmanager
def _asked_to_end() -> Iterator[Asked]:
    """A wait that SIGINT and SIGTERM cut short: they are only noted, so that no sealing is torn.

    Asked with a number of seconds, it says whether one came.
    """
    noted, note = os.pipe()
    before = {number: signal.signal(number, lambda *_: os.write(note, b".") and None) for number in SIGNALS}
    try:
        yield lambda seconds: bool(select.select([noted], [], [], seconds)[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(noted)
        os.close(note)


def _with_progress(sealing: "Iterator[Sealed]", waiting: int) -> "Iterator[Sealed]":
    """With a bar on a terminal, where there is more than a batch."""
    from audit.ledger.sealer import BATCH

    if waiting <= BATCH:
        yield from sealing
        return
    sealed = 0
    with output.bar("sealing") as progress:
        for done in sealing:
            sealed += done.events
            progress(sealed, waiting)
            yield done


def _say_one(done: "Sealed", *, note: bool, as_json: bool) -> None:
    if as_json:
        output.write_json_line({"events": done.events, "size": done.size, "note": done.note})
        return
    output.show(f"{_now()}  {_words([done])}", *(done.note.splitlines() if note else ()))


def _words(done: "Sequence[Sealed]") -> str:
    """`sealed 187 events · tree of 187 · checkpoint 3Yb0…`"""
    several = f" · {len(done):,} checkpoints, the last" if len(done) > 1 else " · checkpoint"
    root = done[-1].note.splitlines()[2]
    events = sum(one.events for one in done)
    return f"sealed {many(events, 'event')} · tree of {done[-1].size:,}{several} {root[:SHOWN_OF_ROOT]}…"


def _nothing(found: "Sealing") -> str:
    """`nothing to seal · tree of 187 · last checkpoint 2026-11-24 21:04:11 UTC`"""
    last = f"last checkpoint {output.day_and_time(found.newest)} UTC" if found.newest else "no checkpoint"
    return f"nothing to seal · tree of {found.size:,} · {last}"


def _show_key(out: Path | None, *, as_json: bool) -> None:
    from audit.ledger.keys import keys_on_record
    from audit.recording.sealing import continued_store, no_key
    from audit.store import ledger

    store = continued_store(settings())
    with store.reading() as connection:
        keys, last = keys_on_record(ledger.key_events(connection)), ledger.last_checkpoint(connection)
        signed_at = ledger.last_signed_at(connection)
    if not keys:
        raise no_key()
    key = keys[-1]
    if out:
        _demand_ours(out, store, key)
    files = _written(out, str(key), last[1] if last else None) if out else []
    if as_json:
        known = {"vkey": str(key), "keys": [str(one) for one in keys]}
        output.write_json({**known, "checkpoint": last[1] if last else None, "files": [str(f) for f in files]})
        return
    when = f"of {last[0]:,} events, {output.day_and_time(signed_at)} UTC" if last else "none yet: audit seal"
    output.show(output.facts(("log key", str(key)), ("checkpoint", when), *(("written", str(f)) for f in files)))
    if last and not files:
        output.show("", *last[1].splitlines())


def _demand_ours(folder: Path, store: "AuditStore", key: "VerifierKey") -> None:
    """Raises UserError if what somebody kept in the folder is of another log, or this log does not continue it."""
    from audit.ledger.note import parse_key
    from audit.ledger.sealer import demand_past

    kept = {
        path.name: text_of(path, STAYS_HINT) for path in (folder / "log.vkey", folder / "checkpoint") if path.exists()
    }
    if "log.vkey" in kept:
        try:
            name = parse_key(kept["log.vkey"]).name
        except UserError:
            name = "no log"
        if name != key.name:
            raise UserError(f"{folder / 'log.vkey'} is of {name}, this log is {key.name}.", hint=STAYS_HINT)
    if "checkpoint" in kept:
        try:
            with store.reading() as connection:
                demand_past(connection, kept["checkpoint"], "the one there")
        except InconsistentTree as other:
            raise UserError(f"{folder / 'checkpoint'} is not this log's past: {other.what}", hint=STAYS_HINT) from None


def text_of(path: Path, hint: str = "") -> str:
    """A small file that somebody kept, or the beginning of a large one. Raises UserError if it cannot be read."""
    from audit.ledger.note import MAX_NOTE

    try:
        with path.open("rb") as file:
            return file.read(MAX_NOTE + 1).decode(errors="replace")
    except OSError as refused:
        raise UserError(f"{path} cannot be read ({refused.strerror}).", hint=hint) from None


def _written(folder: Path, vkey: str, note: str | None) -> list[Path]:
    """What an auditor keeps. Raises UserError if it cannot be written."""
    kept = {folder / "log.vkey": f"{vkey}\n"} | ({folder / "checkpoint": note} if note else {})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in kept.items():
            path.write_bytes(content.encode())
    except OSError as refused:
        raise UserError(f"{folder} cannot be written ({refused.strerror}).", hint="Name another folder.") from None
    return list(kept)


def _rotate(to: Path | None, *, as_json: bool) -> None:
    from audit.recording.recorder import tell
    from audit.recording.sealing import rotate
    from audit.store.engine import open_existing

    open_existing()  # else a store would be made on the spot
    done = rotate(settings(), to=to, tell=tell)
    _say_changed(
        done,
        f"{to} (mode 0600). Put it in the place of the old one now: until then nothing is sealed." if to else None,
        as_json=as_json,
    )


def _replace_lost(reason: str, yes: bool, *, as_json: bool) -> None:
    from audit.recording.recorder import tell
    from audit.recording.sealing import replace_lost
    from audit.store.engine import open_existing

    if not reason:
        raise UserError("How was the key lost?", hint="Say it for the record: --reason TEXT")
    open_existing()  # else a store would be made on the spot
    if not yes and not (sys.stdin.isatty() and typer.confirm(SURE)):
        raise UserError("Nothing was changed.", hint="Say --yes to do it unasked.")
    _say_changed(replace_lost(settings(), reason, tell=tell), None, as_json=as_json)


def _say_changed(done: "Sealed", where: str | None, *, as_json: bool) -> None:
    import json

    facts = [json.loads(event.body) for event in done.announced]
    if as_json:
        output.write_json({"vkey": facts[-1]["vkey"], "size": done.size, "note": done.note})
        return
    output.show(
        output.facts(
            ("log key", facts[-1]["vkey"]),
            *([("new key", where)] if where else []),
            ("checkpoint", _words([done])),
            ("next", "give it to those who keep the old one: audit log-key -o FOLDER"),
        )
    )


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
