"""What is taken out of parameters, errors and texts before they are written.

A value is kept when it is a number, a date, a reference or a short text in which nothing looks like a
secret or a person. Objects we do not know are named by type, never shown: a repr may hold rows.
"""

import re
import traceback as tracebacks
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import Enum
from itertools import islice, pairwise
from pathlib import PurePath
from typing import TypeVar, cast
from uuid import UUID

from pydantic import BaseModel

from audit.events.canonical import canonical, clean, digest_of
from audit.events.payloads import Named, RunError
from audit.events.references import Reference, Window

T = TypeVar("T")

REDACTED = "[redacted]"
MAX_TEXT = 512  # characters of one parameter
MARGIN = 256  # characters that are searched beyond those shown, so that a secret is not cut in two
MAX_ITEMS = 50  # of a list or mapping
MAX_DEPTH = 4
MAX_VALUES = 1_000  # of all parameters together; what lies beyond is named by type
MAX_SCAN = 16_384  # characters that are searched; what lies beyond is not shown either
MAX_TRACEBACK = 6_000  # characters, the innermost frames kept

_SECRET_NAME = re.compile(
    r"(?i:passw|pass[_-]?phrase|secret|token|(?:api|access|account|private)[_-]?key|credential|authorization|cookie)"
    r"|(?<![A-Za-z])(?i:dsn|pwd|ssn|iban)(?![A-Za-z])|(?<=[a-z])(?:Dsn|Pwd|Ssn|Iban|DSN|PWD|SSN|IBAN)(?![a-z])"
)
# Every repetition is bounded, or can begin once only in a run of its characters, or takes in all that it read:
# searching a text takes time in proportion to its length, whatever is in it.
_PATTERNS = (
    re.compile(r"(?<=://)[^\s/@:]{0,128}:(?!\d{1,5}/)[^\s'\"<>]{0,256}@"),  # user and password of an address
    re.compile(r"(?<=://)[^/\s@]{1,256}@"),
    re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"(?<![\w-])eyJ[\w-]{5,4096}(?:\.[\w-]{0,4096}){2,4}"),  # JWT, RFC 7519
    re.compile(r"\b(?:sk|pk|rk|gh[pousr]|github_pat|glpat|xox[abeprs]|hf|pnu|pnb|AKIA|ASIA)[-_]?[A-Za-z0-9_-]{12,}"),
    re.compile(r"(?i)\b(?:bearer|basic)\s{1,8}[A-Za-z0-9+/._~=-]{8,}"),
    re.compile(
        r"(?i)(?:passw(?:or)?d|pass[_-]?phrase|secret|token|(?:api|access|account|private)[_-]?key|authorization"
        r"|(?<![a-z])(?:pwd|ssn|dsn|iban|sig)(?![a-z]))[\w-]{0,40}\\{0,2}['\"]?\s{0,8}[=:]\s{0,8}\\{0,2}"
        r"(?:'(?:[^'\\]|\\.)*'?|\"(?:[^\"\\]|\\.)*\"?|[^\s'\",;&)]+)",
        re.DOTALL,
    ),
    re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}(?:@|%40)[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"),  # as in HTML
    re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,4})?\b"),  # IBAN, ISO 13616
    re.compile(r"\b(?:\d[ -]?){13,19}\b"),  # payment card, ISO/IEC 7812
    re.compile(r"(?<!sha256[:/-])(?<!sha256/[0-9a-f]{2}/)(?<![0-9A-Za-z])[0-9a-fA-F]{64,}(?![0-9A-Za-z])"),
)  # fmt: skip
_RUN = re.compile(r"[A-Za-z0-9_+/=-]{24,}")
_PIECE = re.compile(r"(?<![\w.+=-])[A-Za-z0-9_+=-]{24,}")
_MARKUP = re.compile(r"[\\|]|\](?=\()|<(?=[A-Za-z/!?])")
_CARD = re.compile(r"[3-6]\d{12,18}")


def text(raw: str) -> str:
    """`raw` without what looks like a secret, an e-mail address or an account number; cut at MAX_SCAN."""
    raw = raw[:MAX_SCAN]
    for pattern in _PATTERNS:
        raw = pattern.sub(REDACTED, raw)
    return _RUN.sub(_run, raw)


def is_secret(name: str) -> bool:
    """Whether what bears this name is a secret, whatever it looks like."""
    return bool(_SECRET_NAME.search(name[:MAX_TEXT]))


def unmarked(raw: str) -> str:
    """`raw` in one line of markdown that shows it as it is: no image, link, HTML or end of a table's cell."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(raw.splitlines()))


def parameters(given: Mapping[str, object]) -> list[Named]:
    """Parameters as they go on record: bounded, redacted, names as values. What cannot be shown is named by type."""
    room = _Room()
    return [Named(name=_name(name), value=_named(name, value, MAX_DEPTH, room)) for name, value in given.items()]


def error(raised: BaseException) -> RunError:
    """An exception as it goes on record: class, message and traceback, redacted; no local variables."""
    return RunError(
        kind=f"{type(raised).__module__}.{type(raised).__qualname__}".removeprefix("builtins."),
        message=_message(raised),
        traceback=_traceback(raised),
    )


@dataclass(slots=True)
class _Room:
    """How many more values are shown: parameters are read inside a task's time-out."""

    values: int = MAX_VALUES


def _message(raised: BaseException) -> str:
    try:
        return _short(str(raised))
    except Exception:  # the user's own __str__
        return _unshown(raised)


def _traceback(raised: BaseException) -> str | None:
    try:
        frames = "".join(tracebacks.format_exception(type(raised), raised, raised.__traceback__))
        return text(frames[-MAX_SCAN:])[-MAX_TRACEBACK:]
    except Exception:  # the user's own attributes, such as notes
        return None


def _named(name: object, value: object, depth: int, room: _Room) -> object:
    """One named value. It is the user's object, and may raise whatever is asked of it."""
    try:
        if is_secret(str(name)) and value is not None:
            return REDACTED
        return _value(value, depth, room)
    except Exception:
        return _unshown(value)


def _name(name: object) -> str:
    try:
        return _short(str(name))
    except Exception:  # the user's own __str__
        return _unshown(name)


def _item(value: object, depth: int, room: _Room) -> object:
    return _named("", value, depth, room)


def _value(value: object, depth: int, room: _Room) -> object:
    room.values -= 1
    if room.values < 0:
        return _described(value)
    match value:
        case None | bool() | float():
            return value
        case Enum():
            return _value(value.value, depth, room)
        case int():
            return _integer(value)
        case str():
            return _short(value)
        case datetime() | date() | time() | timedelta() | UUID() | Window():
            return str(value)
        case PurePath():
            return _short(str(value))
        case Reference():
            return value.model_dump(mode="json")
        case BaseModel():
            return _model(value, depth, room)
        case Mapping() if depth:
            return _bounded(_pairs(_first(value.items()), depth, room), len(value))
        case list() | tuple() | set() | frozenset() if depth:
            return _bounded([_item(item, depth - 1, room) for item in _first(value)], len(value))
        case _:
            return _described(value)


def _pairs(items: Iterable[tuple[object, object]], depth: int, room: _Room) -> list[object]:
    """Names as values, for a key of JSON may be a person's too."""
    return [{"name": _name(name), "value": _named(name, value, depth - 1, room)} for name, value in items]


def _integer(value: int) -> object:
    if value.bit_length() > 63:  # more digits than Python likes to turn into text
        return str(value) if value.bit_length() <= 1_024 else f"<int of {value.bit_length()} bits>"
    return REDACTED if _CARD.fullmatch(str(value)) and _luhn(str(value)) else value


def _luhn(digits: str) -> bool:
    """Whether the check digit of ISO/IEC 7812 holds."""
    doubled = [int(digit) * (1 + at % 2) for at, digit in enumerate(reversed(digits))]
    return sum(digit - 9 if digit > 9 else digit for digit in doubled) % 10 == 0


def _model(value: BaseModel, depth: int, room: _Room) -> object:
    """A small model field by field; a large one, such as a spec, by its digest; a huge one by its type."""
    if _is_huge(value):
        return _described(value)
    dumped = value.model_dump(mode="json")
    size = canonical(clean(dumped))
    if len(size) > MAX_TEXT or not depth:
        return f"<{type(value).__qualname__} {digest_of(size)}>"
    return _pairs(dumped.items(), depth, room)


def _is_huge(model: BaseModel) -> bool:
    """Whether it holds so many values that to dump it would take noticeable time."""
    waiting, visited = [cast(object, model)], 0
    while waiting and visited <= 10 * MAX_VALUES:
        item, visited = waiting.pop(), visited + 1
        match item:
            case BaseModel():
                waiting += vars(item).values()
            case Mapping():
                waiting += islice(item.values(), 10 * MAX_VALUES)
            case list() | tuple() | set() | frozenset():
                waiting += islice(item, 10 * MAX_VALUES)
            case str() | bytes():
                visited += len(item) // MAX_TEXT
    return visited > 10 * MAX_VALUES


def _described(value: object) -> str:
    shape = getattr(value, "shape", None)
    shown = f" of shape {shape}" if isinstance(shape, tuple) else ""
    return f"<{type(value).__module__}.{type(value).__qualname__}{shown}>"


def _unshown(value: object) -> str:
    return f"<{type(value).__module__}.{type(value).__qualname__}, could not be shown>"


def _run(found: re.Match[str]) -> str:
    """A run of letters, digits and what base64 adds: redacted where it looks random, whole or in a piece."""
    run = found[0]
    if len(run) >= 40 and _is_mixed(run) and run.count("/") <= len(run) / 11 and _changes(run) >= 0.3:
        return REDACTED  # base64, by no means a path
    before = found.start() - 1
    start = len(run) - len(run.lstrip("/")) if before < 0 else 0
    if before >= 0 and (found.string[before] == "." or found.string[before].isalnum()):
        start = run.find("/") if "/" in run else len(run)  # the rest of a dotted name
    return run[:start] + _PIECE.sub(lambda piece: REDACTED if _is_mixed(piece[0]) else piece[0], run[start:])


def _is_mixed(run: str) -> bool:
    return all(any(is_one(char) for char in run) for is_one in (str.isdigit, str.islower, str.isupper))


def _changes(run: str) -> float:
    """How often lower case, upper case and digits change over: often in what is random, seldom in a path."""
    kinds = [char.isdigit() + 2 * char.islower() + 4 * char.isupper() for char in run if char.isalnum()]
    return sum(kind != after for kind, after in pairwise(kinds)) / len(kinds)


def _short(raw: str) -> str:
    """The redacted beginning of a text. Where it was cut off, half a secret may stand at the end of what was read."""
    if len(raw) <= MAX_TEXT:
        return text(raw)
    read = text(raw[: MAX_TEXT + MARGIN])
    shown = read if len(raw) <= MAX_TEXT + MARGIN else read[:-MARGIN]
    return f"{shown[:MAX_TEXT]}… ({len(raw)} characters)"


def _first(items: Iterable[T]) -> list[T]:
    return list(islice(items, MAX_ITEMS))


def _bounded(shown: list[object], count: int) -> list[object]:
    return shown if count <= MAX_ITEMS else [*shown, f"… and {count - MAX_ITEMS} more"]
