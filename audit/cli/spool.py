"""`audit spool`: events that wait for the store, and bringing them home."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from audit.answers.verdict import many
from audit.cli import output
from audit.errors import CouldNotTell
from audit.settings import settings

if TYPE_CHECKING:
    from rich.text import Text

    from audit.recording.spool import Contents, Replayed

NAMED = 20  # refused events in a table
MEND = (
    "Keep the file: it may hold events. `sqlite3 FILE .recover | sqlite3 mended.db` saves what can be read; put that "
    "in its place while no run goes on, then `audit spool flush`. What is not ours belongs elsewhere."
)

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def spool(context: typer.Context, as_json: output.AsJson = False) -> None:
    """Show the events that wait for the store: how many, since when, of which types and why.

    They go home with the next event, at the end of the next flow run, or by `audit spool flush`.

    Example: audit spool --json
    """
    if context.invoked_subcommand:
        return
    from audit.recording import spool
    from audit.recording.losses import Losses

    found, lost = spool.contents(settings().spool_path), Losses(settings().lost_path).count()
    if as_json:
        waiting = sum(file.count for file in found)
        output.write_json({"waiting": waiting, "lost": lost, "files": [_plain(file) for file in found]})
        return
    facts = [fact for file in found for fact in _facts(file)]
    if lost:
        facts.append(("lost", output.styled(f"{lost:,} events, not on record as lost yet", "bold red")))
    output.show(output.facts(*facts) if facts else output.styled("Nothing waits."))


@app.command()
def flush(as_json: output.AsJson = False) -> None:
    """Bring home what waits now, also what the store refused before. Exit code 1: it refuses some still.

    Example: audit spool flush
    """
    from audit.recording import recorder

    done = recorder.flush()
    if as_json:
        output.write_json(_outcome(done))
    else:
        output.show(*_told(done))
    if done.unusable:
        raise CouldNotTell(f"{done.unusable[0].what}", hint=MEND)
    if done.refused:
        raise typer.Exit(1)


def _plain(file: "Contents") -> dict[str, Any]:
    return asdict(file) | {"file": str(file.file), "refused": [refused._asdict() for refused in file.refused]}


def _facts(file: "Contents") -> "Iterator[tuple[str, str | Text]]":
    yield "spool", str(file.file)
    if file.damaged:
        yield "damaged", output.styled(f"{file.damaged} {MEND}", "bold red")
        return
    since = f", the oldest since {output.day_and_time(file.oldest)} UTC" if file.oldest else ""
    yield "waiting", output.styled(f"{many(file.count, 'event')}{since}", "yellow" if file.count else "")
    if file.types:
        yield "types", " · ".join(f"{type} {count:,}" for type, count in file.types.items())
    if file.why:
        yield "why", file.why
    for refused in file.refused[:NAMED]:
        yield "refused", output.styled(f"{refused.type} {refused.id}: {refused.reason}", "red")
    if len(file.refused) > NAMED:
        yield "refused", output.styled(f"and {len(file.refused) - NAMED:,} more: --json shows all", "red")


def _outcome(done: "Replayed") -> dict[str, Any]:
    refused = [{"id": event.id, "type": event.type, "reason": reason} for event, reason in done.refused]
    return {"brought_home": done.moved, "refused": refused, "unusable": [failed.what for failed in done.unusable]}


def _told(done: "Replayed") -> "Sequence[Text]":
    home = output.styled(f"{many(done.moved, 'event')} brought home." if done.moved else "Nothing waited.")
    refused = (f"Refused: {event.type} {event.id}: {reason}" for event, reason in done.refused)
    return [home, *(output.styled(said, "red") for said in refused)]
