"""`audit spec`: draft a use case's YAML file from data, check it, say what it will make happen."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from audit.cli import output
from audit.errors import UserError

if TYPE_CHECKING:
    from audit.spec.draft import Drafted
    from audit.spec.drafting.profile import Profile

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

File = Annotated[Path, typer.Argument(metavar="FILE", help="The spec, for example flows/specs/flights.yaml.")]


class Kind(StrEnum):
    """Kinds of target."""

    binary = "binary"
    multiclass = "multiclass"
    regression = "regression"


@app.command()
def init(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="A CSV or Parquet file, a folder of them, an SQLAlchemy URL, or X of AUDIT_SOURCE_URL_X.",
        ),
    ],
    target: Annotated[str, typer.Option(metavar="COL", help="What is predicted. Without it, columns are listed.")] = "",
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Where the spec goes.")] = Path("spec.yaml"),
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Of the use case; by default the file's.")] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="What it is about, in a line.")] = None,
    table: Annotated[str | None, typer.Option(metavar="T", help="Of the database.")] = None,
    query: Annotated[
        str | None, typer.Option(metavar="SQL", help="Polars SQL over the files by name; of a database its own SQL.")
    ] = None,
    event_time: Annotated[str | None, typer.Option(metavar="COL", help="When a case came up; `none` for none.")] = None,
    key: Annotated[str | None, typer.Option(metavar="COL", help="Whom a row is about; `none` for none.")] = None,
    positive: Annotated[str | None, typer.Option(metavar="VALUE", help="Of a binary target.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="Of the target; by default guessed.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    as_json: output.AsJson = False,
) -> None:
    """Draft a spec from data. It runs as it is; every guess in it says why. Exit code 2 if there can be none.

    Example: audit spec init loans.csv --target repaid -o loans.yaml
    """
    from audit.spec import draft

    try:
        _refuse_place(out, force=force)
        if not target:
            _, found = draft.examine(data, out.parent, table=table, query=query)
            _show_columns(found, as_json=as_json)
            raise typer.Exit(2)
        wish = draft.Wish(
            data=tuple(data), out=out, target=target, name=name, title=title, table=table, query=query,
            event_time=event_time, key=key, positive=positive, kind=kind.value if kind else None,
        )  # fmt: skip
        drafted = draft.draft(wish)
        draft.write(drafted, out)
    except UserError as error:
        typer.echo(output.plain(str(error)), err=True)
        raise typer.Exit(2) from None
    _show_drafted(drafted, out, as_json=as_json)


@app.command()
def check(file: File, as_json: output.AsJson = False) -> None:
    """Name every error in a spec with its line and the fix. Exit code 1 if there is one.

    Example: audit spec check flows/specs/flights.yaml
    """
    from audit.spec.check import problems
    from audit.spec.load import load_spec

    errors = problems(file)
    if as_json:
        output.write_json({"file": str(file), "held": not errors, "errors": errors})
    elif errors:
        output.show(*map(output.styled, errors))
    else:
        spec = load_spec(file)
        output.show(
            output.styled(
                f"{file.name} holds: {spec.name}, {len(spec.features())} features, target {spec.target.column}"
            )
        )
    raise typer.Exit(1 if errors else 0)


@app.command()
def show(file: File, as_json: output.AsJson = False) -> None:
    """Say what will happen with a spec, stage by stage.

    Example: audit spec show flows/specs/flights.yaml
    """
    from audit.spec.load import load_spec
    from audit.spec.story import story

    spec = load_spec(file)
    stages = story(spec)
    if as_json:
        told = [{"stage": stage.name, "what": list(stage.lines)} for stage in stages]
        output.write_json({"file": str(file), "name": spec.name, "title": spec.title, "stages": told})
        return
    lines = [(stage.name if first else "", line) for stage in stages for first, line in _marked(stage.lines)]
    output.show(output.styled(f"{spec.name}: {spec.title}", "bold"), output.facts(*lines))


@app.callback()
def _spec() -> None:
    """Work on a use case's YAML file.

    Example: audit spec check flows/specs/flights.yaml
    """


def _refuse_place(out: Path, *, force: bool) -> None:
    """Raise UserError, before the data is read, where the spec cannot be put."""
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise UserError(f"{out} is no place for a file.", hint="Name a file in a folder that is there, with -o.")
    if out.exists() and not force:
        raise UserError(f"{out} is there already.", hint="Name another with -o, or replace it with --force.")


def _show_columns(found: "Profile", *, as_json: bool) -> None:
    """The columns, and which of them may be the target."""
    from audit.spec.drafting.target import as_target

    columns = [(seen, as_target(seen)) for seen in found.columns]
    if as_json:
        listed = [{"name": seen.name, "dtype": seen.dtype, "nulls": seen.nulls, "target": why} for seen, why in columns]
        output.write_json({"rows": found.rows, "columns": listed})
        return
    rows = [(seen.name, seen.dtype, output.number(seen.nulls), why or output.NOTHING) for seen, why in columns]
    output.show(output.table(("column", "dtype", "missing", "as a target"), rows, numbers=("missing",)))
    typer.echo("Which column is to be predicted? Say it with --target.", err=True)


def _show_drafted(drafted: "Drafted", out: Path, *, as_json: bool) -> None:
    spec = drafted.spec
    if as_json:
        output.write_json(
            {
                "file": str(out), "name": spec.name, "rows": drafted.rows, "target": spec.target.column,
                "kind": spec.target.kind, "event_time": spec.event_time, "entity_key": spec.entity_key,
                "features": spec.features(), "left_out": dict(drafted.left_out),
            }
        )  # fmt: skip
        return
    when = (
        f"by months of {spec.event_time}" if spec.schedule else f"by {spec.event_time}" if spec.event_time else "drawn"
    )
    named = quote(str(out))
    output.show(
        output.styled(f"{out}: {spec.name}, {drafted.rows:,} rows, {len(spec.features())} features"),
        output.styled(f"target {spec.target.column} ({spec.target.kind}) · test rows {when}"),
        output.styled(f"Next:  read its comments · audit spec show {named} · make run SPEC={named}"),
    )


def _marked(lines: Sequence[str]) -> Iterator[tuple[bool, str]]:
    """Each line, and whether it is the first."""
    return ((place == 0, line) for place, line in enumerate(lines))
