"""Writes docs/events.md and docs/commands.md from the code: python docs/reference.py. A test holds them to it."""

import re
from pathlib import Path

from typer.main import get_command
from typer.testing import CliRunner

from audit.cli.app import app
from audit.events.event import ENVELOPE_KEYS
from audit.events.payloads import Payload
from audit.events.vocabulary import VOCABULARY

DOCS = Path(__file__).parent


def events() -> str:
    """The event reference: every type, its usual severity, meaning and payload."""
    rows = "\n".join(
        f"| `{type}` | {known.severity} | {known.meaning} | {_link(known.payload.__name__)} |"
        for type, known in VOCABULARY.items()
    )
    shapes = "\n".join(_shape(payload) for payload in dict.fromkeys(known.payload for known in VOCABULARY.values()))
    return f"""# Which events are there, and what do they say?

Written by `python docs/reference.py`; do not edit.

Every event has an envelope with {", ".join(f"`{key}`" for key in ENVELOPE_KEYS)}, and a payload of the shape named
below. Read them with `audit events --type 'drift.*' --json`.

| type | severity | meaning | payload |
| --- | --- | --- | --- |
{rows}

## Payloads
{shapes}"""


def commands() -> str:
    """The help of every command, as the terminal shows it."""
    groups = get_command(app).commands.items()  # type: ignore[attr-defined]
    names = [[name, *sub] for name, group in groups for sub in _subcommands(group)]
    parts = "\n".join(f"## audit {' '.join(words)}\n\n```text\n{_help(words)}\n```\n" for words in names)
    return f"# What can I ask the record?\n\nWritten by `python docs/reference.py`; do not edit.\n\n{parts}"


def _shape(payload: type[Payload]) -> str:
    lines = "\n".join(f"- `{name}`: {_type(field.annotation)}" for name, field in payload.model_fields.items())
    return f"\n### {payload.__name__}\n\n{payload.__doc__}\n\n{lines}\n"


def _link(shape: str) -> str:
    return f"[{shape}](#{shape.lower()})"


def _type(annotation: object) -> str:
    shown = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return re.sub(r"\b(?:audit\.events\.\w+|typing)\.", "", shown)


def _subcommands(group: object) -> list[list[str]]:
    return [[name] for name in getattr(group, "commands", {})] or [[]]


def _help(words: list[str]) -> str:
    shown = CliRunner().invoke(app, [*words, "--help"], prog_name="audit", env={"COLUMNS": "100"})
    return "\n".join(line.rstrip() for line in shown.output.strip().splitlines())


if __name__ == "__main__":
    (DOCS / "events.md").write_text(events())
    (DOCS / "commands.md").write_text(commands())
