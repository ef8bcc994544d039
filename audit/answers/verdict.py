"""What a verification came to: it held, it did not, or it could not tell. Never a half-answer."""

from dataclasses import dataclass
from typing import Literal

Answer = Literal["held", "did not hold", "could not tell"]
EXIT_CODES: dict[Answer, int] = {"held": 0, "did not hold": 1, "could not tell": 2}
MOST_FAULTS = 100  # that are listed; further ones are counted


def many(count: int, what: str) -> str:
    """`1 event`, `4,711 events`"""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is not as it was sealed: `event 0199…c1 (leaf 41)`, and what is wrong with it."""

    about: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was read, what did not hold, and what nobody could tell."""

    events: int = 0  # that were read
    since: int = 0  # leaves that were not read again
    size: int = 0  # leaves in the tree
    unsealed: int = 0
    unsealed_types: tuple[str, ...] = ()
    checkpoints: int = 0
    anchors: int = 0  # that hold: time stamps and cosignatures whose authority is known
    held_to: tuple[str, ...] = ()  # what was kept outside of the store and agrees with it
    artifacts: int = 0  # that payloads refer to, each once
    withdrawals: tuple[tuple[str, int], ...] = ()  # actor, payloads
    faults: tuple[Fault, ...] = ()
    more_faults: int = 0
    unknown: tuple[str, ...] = ()  # what could not be told, and what it would take
    notes: tuple[str, ...] = ()  # worth knowing, without bearing on the answer

    @property
    def answer(self) -> Answer:
        if self.faults:
            return "did not hold"
        return "could not tell" if self.unknown else "held"
