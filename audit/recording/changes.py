"""`pipeline.changed`: what is not as it was when this spec last ran."""

import re
from collections.abc import Mapping

from audit.events.payloads import ChangeFacts, Named
from audit.privacy import redact
from audit.recording.recorder import record_of_ours
from audit.store import read
from audit.store.engine import open_store

_KEYED = re.compile(r"keyed:[0-9a-f]{16}")


def note_change(spec: str, what: str, is_now: str, details: Mapping[str, object]) -> str | None:
    """Put on record that `what` (spec, code, environment) of `spec` is now `is_now`, unless it already was.

    `details` is what it consists of, nested as it comes; differences are told leaf by leaf.
    Returns the event's id, or None where nothing changed.
    """
    last = last_change(spec, what)
    if last and last.payload["is_now"] == is_now:
        return None
    leaves = _redacted(dict(_leaves(details)))
    before = _redacted({d["name"]: str(d.get("value")) for d in last.payload["details"]}) if last else leaves
    facts = ChangeFacts(
        spec=spec,
        what=what,
        was=last.payload["is_now"] if last else None,
        is_now=is_now,
        details=[Named(name=name, value=value) for name, value in leaves.items()],
        differences=_differences(before, leaves),
    )
    return record_of_ours("pipeline.changed", facts, subject=f"spec/{spec}", severity="warning" if last else "info")


def last_change(spec: str, what: str) -> read.Recorded | None:
    """The event that says what `what` was last, None where it was never noted."""
    events = read.events(open_store(), types=("pipeline.changed",), spec=spec)
    return next((event for event in events if event.payload["what"] == what), None)


def _leaves(tree: object, path: str = "") -> list[tuple[str, str]]:
    if isinstance(tree, Mapping):
        return [leaf for key, item in tree.items() for leaf in _leaves(item, f"{path}.{key}" if path else str(key))]
    if isinstance(tree, list | tuple):
        named = [(item.get("name", i) if isinstance(item, Mapping) else i, item) for i, item in enumerate(tree)]
        return [leaf for key, item in named for leaf in _leaves(item, f"{path}[{key}]")]
    return [(path, str(tree))]


def _redacted(leaves: Mapping[str, str]) -> dict[str, str]:
    return {redact.text(name): _shown(name, value) for name, value in leaves.items()}


def _shown(path: str, value: str) -> str:
    """`value`, unless its name is a secret's: then only a keyed hash, by which two can be told apart."""
    names = [name for name in re.split(r"[.\[\]]+", path.removesuffix(".value")) if name and not name.isdigit()]
    if names and redact.is_secret(names[-1]) and not _KEYED.fullmatch(value):
        return redact.REDACTED
    return redact.text(value)


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[Named]:
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [
        Named(name=name, value=f"{before.get(name, '(not there)')} → {now.get(name, '(gone)')}") for name in changed
    ]
