"""`audit anchor`: have those outside vouch for the newest checkpoint, and show who has vouched for which."""

from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audit.cli import output
from audit.errors import CouldNotTell
from audit.settings import Settings, settings

if TYPE_CHECKING:
    from audit.ledger.anchors import Anchored, NotAnchored
    from audit.store.engine import AuditStore
    from audit.store.read import Recorded

CALLED = {"timestamp": "time stamp", "cosignature": "cosignature"}
REFUSED, UNREACHED = 1, 2  # exit codes


def anchor(
    tsa: Annotated[
        str, typer.Option(metavar="URL", help="A time stamp authority (RFC 3161). Default AUDIT_TSA_URL.")
    ] = "",
    tsa_roots: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its root certificates in PEM. Default AUDIT_TSA_ROOTS.")
    ] = None,
    witnesses: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Witnesses, a line each: verifier key, space, URL. Default AUDIT_WITNESSES."),
    ] = None,
    only_list: Annotated[bool, typer.Option("--list", help="Ask nobody; show the anchors on record.")] = False,
    as_json: output.AsJson = False,
) -> None:
    """Have authorities and witnesses vouch for the newest checkpoint. What they say is verified, then kept.

    A time stamp says since when the checkpoint exists: a past that was rewritten has none from before. A witness says
    that it continues all that the witness saw, and refuses one that does not. Each is asked once a checkpoint.

    Exit code 0: all vouch, 1: one does not, 2: one could not be reached, or nobody is named.

    Example: audit anchor --tsa https://tsa.example/tsr --tsa-roots tsa.pem
    """
    from audit.recording.sealing import continued_store
    from audit.store.engine import open_existing

    where = replace(
        settings(),
        tsa_url=tsa or settings().tsa_url,
        tsa_roots=tsa_roots or settings().tsa_roots,
        witnesses=witnesses or settings().witnesses,
    )
    if only_list:
        _show_recorded(open_existing(), as_json)
    else:
        _anchor(continued_store(where), where, as_json)


def _anchor(store: "AuditStore", where: Settings, as_json: bool) -> None:
    from audit.ledger.anchors import NotAnchored, anchor_by_each, targets
    from audit.recording import circumstances, recorder
    from audit.store import ledger

    asked = targets(where)
    if not asked:
        raise CouldNotTell(
            "Nobody is named who could vouch for a checkpoint.",
            hint="Set AUDIT_TSA_URL and AUDIT_TSA_ROOTS, or AUDIT_WITNESSES; see `audit anchor --help`.",
        )
    found = anchor_by_each(store, asked, actor=circumstances.actor(), tell=recorder.tell)
    unsealed, _ = ledger.not_sealed(store)
    if as_json:
        output.write_json({"anchors": [_as_json(one) for one in found], "unsealed": unsealed})
    else:
        head = ("checkpoint", "anchor", "by", "at (UTC)", "")
        output.show(output.table(head, map(_line, found), numbers=("checkpoint",), wrapping=("by",)))
        if unsealed:
            waits = "1 event is" if unsealed == 1 else f"{unsealed:,} events are"
            covered = "it" if unsealed == 1 else "them"
            output.show(f"{waits} not sealed yet: no anchor covers {covered}. See `audit seal`.")
    failures = [one.why for one in found if isinstance(one, NotAnchored)]
    for why in failures:
        typer.echo(output.plain(str(why)), err=True)
    if failures:
        raise typer.Exit(REFUSED if any(why.exit_code == REFUSED for why in failures) else UNREACHED)


def _line(one: "Anchored | NotAnchored") -> tuple[Any, ...]:
    from audit.ledger.anchors import NotAnchored

    if isinstance(one, NotAnchored):
        said = "refused" if one.why.exit_code == REFUSED else "not reached"
        return (output.NOTHING, CALLED[one.kind], one.by, output.NOTHING, output.styled(said, "red"))
    said = "" if one.event else "was on record"
    return (output.number(one.size), CALLED[one.kind], one.by, f"{one.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}", said)


def _as_json(one: "Anchored | NotAnchored") -> dict[str, Any]:
    from audit.events.canonical import timestamp
    from audit.ledger.anchors import NotAnchored

    if isinstance(one, NotAnchored):
        return {"kind": one.kind, "by": one.by, "anchored": False, "error": str(one.why)}
    return {
        "kind": one.kind,
        "by": one.by,
        "anchored": True,
        "size": one.size,
        "at": timestamp(one.at),
        "new": one.event is not None,
    }


def _show_recorded(store: "AuditStore", as_json: bool) -> None:
    """The anchors that events tell of; whether they hold, `audit verify` says."""
    from audit.store import read

    found = [event for event in read.events(store, types=("checkpoint.anchored",)) if event.payload]
    if as_json:
        output.write_json([event.payload | {"event": event.id, "recorded_at": event.recorded_at} for event in found])
    elif found:
        output.show(
            output.table(("checkpoint", "anchor", "by", "at (UTC)", "event"), map(_row, found), numbers=("checkpoint",))
        )
    else:
        output.show("No anchor is on record.")


def _row(event: "Recorded") -> tuple[Any, ...]:
    facts = event.payload
    return (
        output.number(facts["size"]),
        CALLED[facts["kind"]],
        facts["by"],
        output.day_and_time(facts["at"]),
        output.short_id(event.id),
    )
