"""`audit publish`: the sealed log put where others can read it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from audit.cli import output
from audit.errors import UserError
from audit.settings import settings

if TYPE_CHECKING:
    from audit.ledger.publisher import Published


def publish(
    url: Annotated[
        str,
        typer.Argument(metavar="URL", help="A folder, s3://, gs:// or az://. Default AUDIT_PUBLISH_URL."),
    ] = "",
    as_json: output.AsJson = False,
) -> None:
    """Put the newest checkpoint and all that is under it where others can read it (c2sp.org/tlog-tiles).

    Envelopes are published, never payloads. Only what is new is written, the checkpoint last. Nothing is written
    where the place holds anything but this log's own past.

    Example: audit publish s3://acme-audit/fraud
    """
    from audit.ledger.publisher import publish
    from audit.recording import circumstances
    from audit.recording.sealing import continued_store

    where = url or settings().publish_url
    if not where:
        raise UserError("No place is named to publish to.", hint="Give a folder or bucket, or set AUDIT_PUBLISH_URL.")
    store = continued_store(settings())
    with output.bar("publishing") as progress:
        done = publish(store, where, actor=circumstances.actor(), progress=progress)
    if as_json:
        output.write_json(
            {
                "size": done.size,
                "was": done.was,
                "files": done.files,
                "to": done.to,
                "unsealed": done.unsealed,
                "event": done.event.id if done.event else None,
            }
        )
    else:
        output.show(*_lines(done))


def _lines(done: "Published") -> Iterator[str]:
    if done.event is None:
        yield f"nothing new · the checkpoint of size {done.size:,} is at {output.plain(done.to)} already"
    else:
        since = f", {done.size - done.was:,} events more than before" if done.was else ""
        yield f"published · checkpoint of size {done.size:,}{since} · {done.files:,} files · {output.plain(done.to)}"
    if done.unsealed:
        waits = "1 event is" if done.unsealed == 1 else f"{done.unsealed:,} events are"
        yield f"{waits} not sealed and so not published: see `audit seal`"
