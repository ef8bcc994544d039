"""Writes docs/events.md, docs/commands.md and docs/spec.md from the code: python docs/reference.py.

A test holds them to it. What a key of a spec means is the comment beside or above it in audit/spec/model.py.
"""

import ast
import datetime
import inspect
import io
import json
import re
import tokenize
from collections.abc import Collection, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo
from typer.main import get_command
from typer.testing import CliRunner

from audit.cli.app import app
from audit.events.event import ENVELOPE_KEYS
from audit.events.payloads import Payload
from audit.events.vocabulary import VOCABULARY
from audit.spec import model
from audit.spec.model import ESTIMATORS, Part, Spec

DOCS = Path(__file__).parent
KINDS = {str: "text", int: "integer", float: "number", bool: "boolean", NoneType: "null", datetime.date: "date"}
NOTHING = "–"


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


def spec() -> str:
    """The reference of a spec: its sections in the order of the file, every key with what it may be and means."""
    parts = "\n".join(_section(path, part) for path, part in sections().items())
    return f"""# Every key of a spec

A spec is one YAML file that says everything the pipeline needs to know of one use case; a key that is not listed here
is an error. Begin with `audit spec init`, which drafts one from your data; examples are
[`flows/specs/flights.yaml`](../flows/specs/flights.yaml) and [`mortgage.yaml`](../flows/specs/mortgage.yaml).

Written by `python docs/reference.py`; do not edit.

{parts}"""


def sections() -> dict[str, type[Part]]:
    """The sections of a spec by where they stand in it, each before those within it."""
    return {"spec": Spec} | dict(_within(Spec))


def meanings(part: type[Part]) -> dict[str, str]:
    """What each key of a section means: its comment in the source, or how the section that it holds begins."""
    written = {key: _commented(part).get(key) or _begins(field) for key, field in part.model_fields.items()}
    estimators = ", ".join(f"`{kind}` ({', '.join(targets)})" for kind, targets in ESTIMATORS.items())
    return {key: _sentence(re.sub(r"\bESTIMATORS\b", estimators, text)) for key, text in written.items()}


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


def _within(part: type[Part], above: str = "") -> Iterator[tuple[str, type[Part]]]:
    for key, field in part.model_fields.items():
        if inner := _part_of(field.annotation):
            yield f"{above}{key}", inner
            yield from _within(inner, f"{above}{key}.")


def _part_of(annotation: object) -> type[Part] | None:
    """The section that a key holds, by itself, in a list or by names."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    return next(filter(None, map(_part_of, get_args(annotation))), None)


def _section(path: str, part: type[Part]) -> str:
    meaning = meanings(part)
    rows = "\n".join(
        f"| `{key}` | {_cell(_may_be(field, path, key))} | {_cell(_default(field))} | {_cell(meaning[key])} |"
        for key, field in part.model_fields.items()
    )
    title = "The spec" if part is Spec else f"`{path}`"
    lead = " ".join(inspect.cleandoc(part.__doc__ or "").split())
    return f"## {title}\n\n{lead}\n\n| key | what it may be | default | meaning |\n| --- | --- | --- | --- |\n{rows}\n"


def _begins(field: FieldInfo) -> str:
    part = _part_of(field.annotation)
    return re.split(r"\.\s+(?=[A-Z])", part.__doc__ or "")[0].removesuffix(".") if part else ""


def _commented(part: type[Part]) -> dict[str, str]:
    """The comment of each key that has one: at its end, or in the lines directly above it."""
    source = inspect.getsource(model)
    lines = source.splitlines()
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    [body] = [
        node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == part.__name__
    ]
    found = {}
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in comments and lines[first - 2].lstrip().startswith("#"):
                first -= 1
            places = [*range(first, node.lineno), node.end_lineno or node.lineno]
            found[node.target.id] = " ".join(comments[at] for at in places if at in comments)
    return found


def _may_be(field: FieldInfo, path: str, key: str) -> str:
    inner = _part_of(field.annotation)
    within = f"{path}.{key}" if path != "spec" else key
    link = f"[{within}](#{re.sub(r'[^a-z_]', '', within)})" if inner else ""
    several = get_origin(field.annotation) in (Union, UnionType)
    ways = get_args(field.annotation) if several else (field.annotation,)
    kind = _either([_kind(way, link) for way in ways if way is not NoneType])  # null is what it is by default
    return ", ".join([kind, *_bounds(field.metadata)])


def _kind(annotation: object, link: str) -> str:
    """In words what a value of this type is in YAML; `link` leads to the section that is in it, if one is."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if annotation in KINDS:
        return KINDS[annotation]
    if origin is Annotated:
        return _kind(inside[0], link)
    if origin is Literal:
        return _either([f"`{_yaml(value)}`" for value in inside])
    if origin in (Union, UnionType):
        return _either([_kind(one, link) for one in inside])
    if origin is tuple:
        return f"list of {_kind(inside[0], link)}"
    if origin is dict:
        return f"for each name: {_kind(inside[1], link)}"
    assert link, f"nobody said how {annotation} is called"
    return link


def _either(ways: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(ways[:-1]), ways[-1]]))


def _bounds(metadata: Collection[object]) -> Iterator[str]:
    for bound in metadata:
        match bound:
            case Gt(gt=limit):
                yield f"above {limit}"
            case Ge(ge=limit):
                yield f"at least {limit}"
            case Lt(lt=limit):
                yield f"below {limit}"
            case Le(le=limit):
                yield f"at most {limit}"
            case MinLen(min_length=count):
                yield "at least one" if count == 1 else f"at least {count} of them"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None or isinstance(default, Part):
        return NOTHING
    if default and default == get_args(next(iter(get_args(field.annotation)), None)):
        return "all of them"
    return f"`{_yaml(default)}`"


def _yaml(value: object) -> str:
    """A value as it stands in a spec; text in quotation marks where YAML, or a reader, needs them."""
    if isinstance(value, str) and re.fullmatch(r"\w+", value):
        return value
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return json.dumps(value)


def _sentence(text: str) -> str:
    return text and f"{text[0].upper()}{text[1:].removesuffix('.')}."


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    (DOCS / "events.md").write_text(events())
    (DOCS / "commands.md").write_text(commands())
    (DOCS / "spec.md").write_text(spec())
