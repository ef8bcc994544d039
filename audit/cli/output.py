"""What commands show: plain lines and tables for people, JSON for programs.

Colour on a terminal only, and none with NO_COLOR (rich sees to both). Control characters in what was
recorded are shown, never obeyed. Times are UTC.
"""

import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audit.errors import CouldNotTell

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

PIPE_COLUMNS = 10_000  # in a pipe nothing is wrapped or cut
SHORT_ID = 8
SHORT_DIGEST = 8
NOTHING = "–"
READER_GONE = 141  # exit code, as of a program that SIGPIPE ended

SEVERITIES = {"debug": "dim", "info": "", "warning": "yellow", "error": "red", "critical": "bold red"}
STATES = {
    "scheduled": "cyan",
    "running": "blue",
    "paused": "yellow",
    "suspended": "yellow",
    "resumed": "blue",
    "completed": "green",
    "cached": "cyan",
    "retrying": "yellow",
    "attempt_failed": "yellow",
    "cancelled": "yellow",
    "not_ready": "yellow",
    "rolled_back": "yellow",
    "failed": "red",
    "timed_out": "red",
    "crashed": "bold red",
    "abandoned": "bold red",
    "reconciled": "yellow",
}

AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output, nothing else.")]


def write_json(value: object) -> None:
    """One JSON document, indented."""
    _write(json.dumps(value, indent=2) + "\n")


def write_json_line(value: object) -> None:
    """One line of JSON Lines."""
    _write(json.dumps(value) + "\n")


def show(*parts: "RenderableType") -> None:
    """Each part below the other: as wide as the terminal, or unwrapped and uncoloured in a pipe."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        console.print(*parts, sep="\n")
        return
    made = io.StringIO()
    Console(file=made, highlight=False, markup=False, emoji=False, width=PIPE_COLUMNS).print(
        *parts, sep="\n", soft_wrap=True
    )
    _write("".join(f"{line.rstrip()}\n" for line in made.getvalue().splitlines()))


def table(
    head: Sequence[str],
    rows: Iterable[Sequence["str | Text"]],
    *,
    numbers: Sequence[str] = (),
    wrapping: Sequence[str] = (),
) -> "Table":
    """Columns two spaces apart without lines; `numbers` are flush right, only `wrapping` ones give way."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in head:
        made.add_column(
            styled(name),
            justify="right" if name in numbers else "left",
            no_wrap=name not in wrapping,
            overflow="fold",
        )
    for row in rows:
        made.add_row(*(styled(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def columns(rows: "Iterable[Sequence[str | Text]]") -> "Table":
    """Rows below each other without a head; the last column takes what room is left."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for row in rows:
        made.add_row(*(styled(cell) if isinstance(cell, str) else cell for cell in row))
    for column in made.columns[:-1]:
        column.no_wrap = True
    return made


def joined(between: str, parts: "Sequence[Text]") -> "Text":
    """The parts in one text, each keeping its style."""
    from rich.text import Text

    return Text(between).join(parts)


def facts(*named: "tuple[str, str | Text]") -> "Table":
    """A name and what it says, one a line."""
    return columns((styled(name, "bold"), said) for name, said in named)


def styled(text: str, style: str = "") -> "Text":
    """`text` with a style; nothing in it is taken for markup or for a terminal's command."""
    from rich.text import Text

    return Text(plain(text), style=style)


def severity(name: str) -> "Text":
    return styled(name, SEVERITIES.get(name, ""))


def state(name: str) -> "Text":
    return styled(name, STATES.get(name, ""))


def plain(text: str) -> str:
    """`text` with control characters, direction marks and line ends as visible escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def short_id(id: str) -> str:
    """What names a run or event for people. The ending, for a UUIDv7 begins with its time: a minute's ids are alike."""
    return id[-SHORT_ID:]


def short_digest(digest: str) -> str:
    """`4be1c0de…`"""
    return digest.removeprefix("sha256:")[:SHORT_DIGEST] + "…"


def short_actor(actor: str) -> str:
    """`p:7c1e…`; `p:unknown` stays."""
    return actor if len(actor) <= 10 else actor[:6] + "…"


def day_and_time(recorded: str | None) -> str:
    """`2026-11-24 21:04:11`, UTC."""
    return recorded[:19].replace("T", " ") if recorded else NOTHING


def clock(recorded: str) -> str:
    """`21:04:11`, UTC."""
    return recorded[11:19]


def duration(seconds: float | None) -> str:
    """`0.6 s`, `3 min 20 s`, `2 h 05 min`; nothing for what has not ended."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def number(value: int | None) -> str:
    """`336,776`"""
    return NOTHING if value is None else f"{value:,}"


@contextmanager
def bar(doing: str) -> Iterator[Callable[[int, int], None]]:
    """What to call with events done, of how many: a bar on a terminal, nothing in a pipe."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(doing), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(doing, total=None)
        yield lambda done, of: shown.update(task, completed=done, total=of)


def decoded(row: dict[str, Any], *names: str) -> dict[str, Any]:
    """`row` with the named columns, which the store keeps as JSON text, as what they say."""
    return row | {name: json.loads(row[name]) for name in names if row[name] is not None}


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()  # a reader that has gone is noticed here, not at exit
    except OSError as failed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else it would be tried again at exit
        if isinstance(failed, BrokenPipeError):
            sys.exit(READER_GONE)
        raise CouldNotTell(f"Standard output cannot be written ({failed.strerror}).") from None
