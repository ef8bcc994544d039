"""What is taken out of parameters, errors and texts before they are written.

A value is kept when it is a number, a date, a reference or a short text in which nothing looks like a
secret or a person. Objects we do not know are named by type, never shown: a repr may hold rows.
"""

import re
import traceback as tracebacks
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from enum import Enum
from itertools import islice
from pathlib import PurePath
from typing import TypeVar
from uuid import UUID

from pydantic import BaseModel

from audit.events.canonical import canonical, clean, digest_of
from audit.events.payloads import Named, RunError
from audit.events.references import Reference, Window

T = TypeVar("T")

REDACTED = "[redacted]"
MAX_TEXT = 512  # characters of one parameter
MAX_ITEMS = 50  # of a list or mapping
MAX_DEPTH = 4
MAX_SCAN = 16_384  # characters that are searched; what lies beyond is not shown either
MAX_TRACEBACK = 6_000  # characters, the innermost frames kept

_SECRET_NAME = re.compile(
    r"passw|secret|token|api_?key|access_?key|private_?key|credential|authorization|cookie|\bdsn\b|\bpwd\b|\bssn\b|\biban\b",
    re.IGNORECASE,
)
_PATTERNS = (
    re.compile(r"(?<=://)[^/\s@]+@"),  # user and password of an address
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"\beyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]*"),  # JWT, RFC 7519
    re.compile(r"\b(?:sk|pk|rk|gh[pousr]|github_pat|glpat|xox[abeprs]|hf|pnu|pnb|AKIA|ASIA)[-_]?[A-Za-z0-9_-]{12,}"),
    re.compile(r"(?i)\b(?:bearer|basic)\s+[A-Za-z0-9+/._~=-]{8,}"),
    re.compile(r"(?i)\b[\w-]*(?:passw(?:or)?d|secret|token|api[_-]?key)[\w-]*['\"]?\s*[=:]\s*['\"]?[^\s'\",;&)]+"),
    re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w-]+(?:\.[\w-]+)+"),  # e-mail, as HTML's input type has it
    re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,4})?\b"),  # IBAN, ISO 13616
    re.compile(r"\b(?:\d[ -]?){13,19}\b"),  # payment card, ISO/IEC 7812
    re.compile(r"(?<![\w.-])(?=[A-Za-z0-9_+=-]*\d)(?=[A-Za-z0-9_+=-]*[a-z])(?=[A-Za-z0-9_+=-]*[A-Z])[A-Za-z0-9_+=-]{24,}"),
)  # fmt: skip


def text(raw: str) -> str:
    """`raw` without what looks like a secret, an e-mail address or an account number; cut at MAX_SCAN."""
    raw = raw[:MAX_SCAN]
    for pattern in _PATTERNS:
        raw = pattern.sub(REDACTED, raw)
    return raw


def parameters(given: Mapping[str, object]) -> list[Named]:
    """Parameters as they go on record: bounded, redacted, names as values."""
    return [Named(name=text(str(name)), value=_named(str(name), value, MAX_DEPTH)) for name, value in given.items()]


def error(raised: BaseException) -> RunError:
    """An exception as it goes on record: class, message and traceback, redacted; no local variables."""
    frames = "".join(tracebacks.format_exception(type(raised), raised, raised.__traceback__))
    return RunError(
        kind=f"{type(raised).__module__}.{type(raised).__qualname__}".removeprefix("builtins."),
        message=_short(text(str(raised))),
        traceback=text(frames[-MAX_SCAN:])[-MAX_TRACEBACK:],
    )


def _named(name: str, value: object, depth: int) -> object:
    return REDACTED if _SECRET_NAME.search(name) and value is not None else _value(value, depth)


def _value(value: object, depth: int) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case Enum():
            return _value(value.value, depth)
        case str():
            return _short(text(value))
        case datetime() | date() | time() | timedelta() | UUID() | Window():
            return str(value)
        case PurePath():
            return _short(text(str(value)))
        case Reference():
            return value.model_dump(mode="json")
        case BaseModel():
            return _model(value, depth)
        case Mapping() if depth:
            return _bounded(
                [{"name": text(str(k)), "value": _named(str(k), v, depth - 1)} for k, v in _first(value.items())],
                len(value),
            )
        case list() | tuple() | set() | frozenset() if depth:
            return _bounded([_value(item, depth - 1) for item in _first(value)], len(value))
        case _:
            return _described(value)


def _model(value: BaseModel, depth: int) -> object:
    """A small model field by field; a large one, such as a spec, by its digest."""
    dumped = value.model_dump(mode="json")
    size = canonical(clean(dumped))
    if len(size) > MAX_TEXT or not depth:
        return f"<{type(value).__qualname__} {digest_of(size)}>"
    return {name: _named(name, item, depth - 1) for name, item in dumped.items()}


def _described(value: object) -> str:
    shape = getattr(value, "shape", None)
    shown = f" of shape {shape}" if isinstance(shape, tuple) else ""
    return f"<{type(value).__module__}.{type(value).__qualname__}{shown}>"


def _short(raw: str) -> str:
    return raw if len(raw) <= MAX_TEXT else f"{raw[:MAX_TEXT]}… ({len(raw)} characters)"


def _first(items: Iterable[T]) -> list[T]:
    return list(islice(items, MAX_ITEMS))


def _bounded(shown: list[object], count: int) -> list[object]:
    return shown if count <= MAX_ITEMS else [*shown, f"… and {count - MAX_ITEMS} more"]
