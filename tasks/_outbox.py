"""What people were told of one topic, folded from its alert events, and what follows for the next message of it.

A topic is a spec and a kind of finding, and where each is told on its own, the flow or model version. Pure: events in,
answer out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from audit.store.read import Recorded

OUTCOME_DUE = timedelta(minutes=2)  # a message without an outcome so long after it was raised died with its process
GRAVITY = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True, slots=True)
class Told:
    """Where a topic stands with the people who are told of it."""

    sent_at: datetime | None = None  # when a message of it last arrived
    severity: str = "debug"  # of the gravest that arrived since all was well
    title: str = ""  # of the last finding that arrived
    window: str = ""  # the latest that people were told of since all was well; its texts sort as their dates do
    open: bool = False  # people know of a problem, and not that it is over
    recovered_at: datetime | None = None  # when they were last told that it is
    raised: Recorded | None = None  # the last message that was to go out
    settled: bool = True  # whether it is known if that one arrived
    untold: tuple[Recorded, ...] = ()  # findings that nobody was told of, the oldest first

    def quiet_until(self, alert: str, severity: str, quiet: timedelta, now: datetime) -> tuple[datetime, str] | None:
        """Until when a finding of this alert and severity is held back, and why; None if it may be told now."""
        if self.sent_at and self.open and now < self.sent_at + quiet and not _graver(severity, self.severity):
            return self.sent_at + quiet, f"one of its kind went out at {_clock(self.sent_at)}"
        if self.raised and (quiet or self.raised.payload["alert"] == alert) and self.is_on_its_way(now):
            return _time(self.raised) + OUTCOME_DUE, f"one has been on its way since {_clock(_time(self.raised))}"
        return None

    def is_on_its_way(self, now: datetime) -> bool:
        """Whether some process is busy with the last message. One that says nothing for so long has died."""
        return self.raised is not None and not self.settled and now < _time(self.raised) + OUTCOME_DUE

    def may_recover(self, window: str | None, quiet: timedelta, now: datetime) -> bool:
        """Whether people wait for word that it is over. Of what comes and goes they hear that once in a quiet time.

        A quiet window before the one that they were told of says nothing of that one.
        """
        if window and window < self.window:
            return False
        just_told = self.recovered_at is not None and now < self.recovered_at + quiet
        return self.open and not just_told and not self.is_on_its_way(now)


def told(events: Sequence[Recorded]) -> Told:
    """Where the topic stands after its alert events, given in their order."""
    known = Told()
    for event in events:
        known = _after(known, event)
    return known


def _after(known: Told, event: Recorded) -> Told:
    match event.type:
        case "alert.held":
            return replace(known, untold=(*known.untold, event))
        case "alert.raised":
            untold = (*known.untold, event) if _is_finding(event) else known.untold
            return replace(known, raised=event, settled=False, untold=untold)
        case "alert.sent":
            return _arrived(known, event)
        case _:  # alert.failed, at one of its targets
            return replace(known, settled=known.settled or _is_of(event, known.raised))


def _arrived(known: Told, event: Recorded) -> Told:
    """The message reached a target: it stands for all that was untold when it was raised."""
    known = replace(known, settled=known.settled or _is_of(event, known.raised), window=_latest_told(known, event))
    if known.raised and _is_of(event, known.raised):
        known = replace(known, untold=tuple(each for each in known.untold if each.seq > known.raised.seq))
    if event.payload["kind"] == "recovered":
        return replace(known, open=False, severity="debug", window="", recovered_at=_time(event))
    return replace(
        known,
        sent_at=_time(event),
        severity=max(known.severity, event.payload["severity"], key=GRAVITY.index),
        title=event.payload["title"] if _is_finding(event) else known.title,
        open=True,
    )


def _latest_told(known: Told, arrived: Recorded) -> str:
    """The latest window of what was told before, of this message, and of the findings that it stands for."""
    raised = known.raised.seq if known.raised and _is_of(arrived, known.raised) else 0
    told = [arrived, *(each for each in known.untold if each.seq <= raised)]
    return max(known.window, *(each.payload.get("window") or "" for each in told))


def _is_finding(event: Recorded) -> bool:
    return event.payload["kind"] not in ("summary", "recovered")


def _is_of(event: Recorded, raised: Recorded | None) -> bool:
    return raised is not None and raised.payload["alert"] == event.payload["alert"]


def _graver(one: str, other: str) -> bool:
    return GRAVITY.index(one) > GRAVITY.index(other)


def _time(event: Recorded) -> datetime:
    return datetime.fromisoformat(event.time)


def _clock(moment: datetime) -> str:
    return f"{moment:%H:%M} UTC"
