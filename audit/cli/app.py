"""The `audit` command's entry. Nothing heavy is imported before a command needs it: `--help` is quick."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Never

import typer

from audit.cli import (
    alerts,
    anchor,
    approve,
    completeness,
    events,
    prove,
    publish,
    registry,
    retention,
    runs,
    sealing,
    spec,
    spool,
    store,
    verify,
)
from audit.errors import AuditError, CouldNotTell

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help costs a third of the time, and reads the same in a pipe
    pretty_exceptions_enable=False,  # they print local variables, which may hold rows
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: tuple[Callable[..., None], ...] = (
    store.init, store.status, runs.runs, runs.run, events.events, events.tail, registry.models, registry.datasets,
    alerts.alerts, approve.approve, sealing.seal, sealing.log_key, anchor.anchor, publish.publish,
    prove.prove, prove.export, verify.verify, completeness.reconcile, completeness.completeness,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)
GROUPS = ((spool.app, "spool"), (spec.app, "spec"), (retention.retention, "retention"), (retention.hold, "hold"))
for group, name in GROUPS:
    app.add_typer(group, name=name)


def main() -> None:
    """Run the command. What went wrong is one line on stderr, with the exit code of its kind."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # it stays open
    if sys.stdout is None:  # what we open next would get its number, and whatever is printed
        _end("Standard output is closed, so nothing is done.", CouldNotTell.exit_code)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that is not UTF-8
    try:
        app()
    except AuditError as error:
        from audit.cli.output import plain

        _end(plain(str(error)), error.exit_code)


def _end(said: str, exit_code: int) -> Never:
    typer.echo(said, err=True)
    sys.exit(exit_code)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"prefect-audit {version('prefect-audit')}")
        raise typer.Exit


@app.callback()
def _audit(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What the pipelines did, read from the audit store.

    Exit code 0: held, 1: did not hold, 2: could not tell.

    Example: audit runs
    """
