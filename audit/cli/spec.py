"""`audit spec check`: is a use case's YAML file usable?"""

from pathlib import Path
from typing import Annotated

import typer

from audit.cli import output

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The spec, for example flows/specs/flights.yaml.")],
    as_json: output.AsJson = False,
) -> None:
    """Name every error in a spec with its line and the fix. Exit code 1 if there is one.

    Example: audit spec check flows/specs/flights.yaml
    """
    from audit.spec.load import load_spec, spec_errors

    errors = spec_errors(file)
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


@app.callback()
def _spec() -> None:
    """Work on a use case's YAML file.

    Example: audit spec check flows/specs/flights.yaml
    """
