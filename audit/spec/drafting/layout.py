"""A drafted spec as YAML for people: short mappings on one line, the reason for a guess in a comment beside it.

Column names and values may hold anything. They are written by PyYAML's own rules for scalars, in double quotes with
escapes where one has a character that cannot be seen; in a comment such characters become spaces.
"""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import yaml

WIDTH = 120
SHOWN = 60  # letters of a name in a comment

Entry = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Remarked:
    """One entry of a list, and what is to be said of it."""

    entry: Entry
    remark: str = ""


class _Scalars(yaml.SafeDumper):
    """PyYAML's own, but for text with what cannot be seen: in double quotes, every such character escaped."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Scalars.add_representer(str, _represent_text)


def flow(value: object) -> str:
    """`value` on one line: `{name: zone, values: [east, west]}`."""
    seen = all(text.isprintable() for text in _texts(value))
    written = yaml.dump(
        [_plain(value)], Dumper=_Scalars, default_flow_style=True, allow_unicode=seen, sort_keys=False, width=10**9
    )
    return written.strip()[1:-1]


def field(name: str, value: object) -> str:
    """`name: value`, a long list or mapping over several lines."""
    line = f"{name}: {flow(value)}"
    if len(line) <= WIDTH or not isinstance(value, list | tuple | dict) or not value:
        return line
    if isinstance(value, dict):
        return "\n".join([f"{name}:", *_indented(field(key, item) for key, item in value.items())])
    return f"{name}: [\n" + textwrap.indent("\n".join(_filled(value)), "  ") + "\n]"


def items(remarked: Iterable[Remarked]) -> str:
    """A list of mappings, each on a line where that fits, its remark behind or above it."""
    return "\n".join(line for each in remarked for line in _item(each))


def comment(text: str) -> str:
    """`text` as lines of comment; nothing in it can end the line or be hidden in it."""
    return "\n".join(textwrap.wrap(visible(text), WIDTH, initial_indent="# ", subsequent_indent="# "))


def visible(text: str) -> str:
    """`text` with a space for each character that cannot be seen, direction marks and line ends among them."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def shown(name: str) -> str:
    """A name as comments show it: cut where it is very long."""
    seen = visible(name)
    return repr(seen if len(seen) <= SHOWN else f"{seen[:SHOWN]}…")


def _item(each: Remarked) -> Iterator[str]:
    line = f"  - {flow(each.entry)}"
    if len(line) > WIDTH:
        (first, value), *others = each.entry.items()
        line = "\n".join([f"  - {field(first, value)}", *_indented((field(*pair) for pair in others), "    ")])
    remark = f"  # {visible(each.remark)}" if each.remark else ""
    if "\n" not in line and len(line) + len(remark) <= WIDTH:
        yield line + remark
        return
    if remark:
        yield textwrap.indent("\n".join(textwrap.wrap(visible(each.remark), WIDTH - 4, break_long_words=False)), "  # ")
    yield line


def _indented(parts: Iterable[str], by: str = "  ") -> list[str]:
    return [textwrap.indent(part, by) for part in parts]


def _filled(values: Sequence[object]) -> Iterator[str]:
    """The items of a list, as many on a line as fit."""
    line = ""
    for value in values:
        written = f"{flow(value)},"
        if line and len(line) + len(written) + 1 > WIDTH - 8:
            yield line
            line = ""
        line = f"{line} {written}".strip()
    yield line


def _plain(value: object) -> object:
    """Tuples as lists, whole floats as integers: what YAML writes shortly."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
