"""`audit prove` and `audit export`: what outsiders get, who need not trust us nor our software."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.answers.verdict import many
from audit.cli import output
from audit.cli.events import moment
from audit.cli.naming import event_called, run_called
from audit.errors import UserError
from audit.settings import settings

if TYPE_CHECKING:
    from audit.answers.bundle import Exported
    from audit.answers.prove import Evidence

PERSONAL = "payloads may be about people: hand them to those only who may see them"
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier call wrote.")]


def prove(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="An event's id: its beginning or ending.")],
    out: Annotated[
        Path | None, typer.Option("-o", metavar="DIR", help="The folder to write. Default: evidence-<id's ending>.")
    ] = None,
    force: Force = False,
    as_json: output.AsJson = False,
) -> None:
    """Write a folder that proves to anybody that EVENT is on record as it was sealed.

    Entry, proof (c2sp.org/tlog-proof), payload with its salt, the log's key, and a verifier that needs none of ours.

    Example: audit prove 9f3a51c2 -o evidence/
    """
    from audit.answers.prove import proof_of, write_proof
    from audit.recording.sealing import continued_store

    store = continued_store(settings())
    found = event_called(store, event)
    folder = out or Path(f"evidence-{output.short_id(found.id)}")
    evidence = proof_of(store, found.id)
    write_proof(evidence, folder, force=force)
    if as_json:
        facts = {name: value for name, value in asdict(evidence).items() if name != "files"}
        output.write_json(facts | {"folder": str(folder), "files": sorted(evidence.files)})
    else:
        output.show(*_proved(evidence, folder))


def export(
    out: Annotated[Path, typer.Option("-o", metavar="FILE", help="The zip file to write.")],
    run: Annotated[str, typer.Option(metavar="ID", help="Only this flow or task run.")] = "",
    since: Annotated[str, typer.Option(metavar="TIME", help="Only events from then on (UTC): 2026-11-24, 2d.")] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Only events before then.")] = "",
    type: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="Only these types; `drift.*`. Can be repeated.")
    ] = None,
    event: Annotated[list[str] | None, typer.Option(metavar="ID", help="Only this event. Can be repeated.")] = None,
    no_payloads: Annotated[bool, typer.Option("--no-payloads", help="Envelopes alone.")] = False,
    force: Force = False,
    as_json: output.AsJson = False,
) -> None:
    """Write the log, or a part of it, as one file that anybody can check without us. It brings a verifier along.

    Of the whole log, it can be shown that nothing was changed, removed, inserted or reordered. Of a part, that its
    events are in the log, not that no others belong to it.

    Example: audit export -o bundle.zip
    """
    from audit.answers import bundle
    from audit.recording import circumstances
    from audit.recording.sealing import continued_store
    from audit.store.ledger import Part, not_sealed

    if str(out) == "-":
        raise UserError("A bundle is a zip file and not written to standard output.", hint="Name a file with -o.")
    store = continued_store(settings())
    part = Part(
        run=run_called(store, run).id if run else None,
        since=moment(since) if since else None,
        until=moment(until) if until else None,
        types=tuple(type or ()),
        events=tuple(event_called(store, each).id for each in event or ()),
    )
    with output.bar("exporting") as progress:
        made = bundle.export(
            store,
            out,
            part=part,
            payloads=not no_payloads,
            by=circumstances.actor(),
            at=datetime.now(UTC),
            force=force,
            progress=progress,
        )
    unsealed, _ = not_sealed(store)
    if as_json:
        output.write_json(asdict(made) | {"file": str(out), "unsealed": unsealed})
    else:
        output.show(*_exported(made, out, no_payloads, unsealed))


def _proved(evidence: "Evidence", folder: Path) -> Iterator[str]:
    where = output.plain(str(folder))
    yield f"{where} · event {evidence.event} ({evidence.type}) · leaf {evidence.index:,} of {evidence.size:,}"
    if evidence.cosignatures or evidence.stamps:
        anchors = many(evidence.stamps, "time stamp"), many(evidence.cosignatures, "cosignature")
        yield f"its checkpoint has {' and '.join(anchors)}"
    yield f"{PERSONAL} (payload.json)" if evidence.payload else "its payload is not in it: it was withdrawn"
    yield f"check it anywhere:  python {where}/verify.py {where} --key KEY"


def _exported(made: "Exported", out: Path, no_payloads: bool, unsealed: int) -> Iterator[str]:
    where = output.plain(str(out))
    what = "the whole log" if made.complete else f"of {made.size:,} in the log"
    checkpoints = f"{many(made.checkpoints, 'checkpoint')}, {many(made.anchors, 'anchor')}"
    yield f"{where} · {many(made.events, 'event')}, {what} {made.origin} · {checkpoints}"
    if made.withdrawn:
        yield f"{many(made.withdrawn, 'payload')} withdrawn, so not in it"
    if unsealed:
        yield f"{many(unsealed, 'event')} not sealed, so not in it; `audit seal` seals what waits"
    yield "payloads are not in it" if no_payloads else PERSONAL
    yield f"check it anywhere:  unzip -p {where} verify.py > verify.py; python verify.py {where} --key KEY"
