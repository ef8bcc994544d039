"""Each event as one structured line: to Prefect's run logger, so that it is read in the UI, and as JSON
to AUDIT_HOME/logs/audit.jsonl, which many processes share and which rotates. Ids and types only.
"""

import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from audit.events.canonical import timestamp
from audit.events.event import Event
from audit.settings import Settings, settings

if TYPE_CHECKING:
    from concurrent_log_handler import ConcurrentRotatingFileHandler

MAX_BYTES = 20_000_000
KEPT = 10
BEGUN = "task_run.running"  # a line at INFO costs a task run that does nothing a fifth of its time; its end has one
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_SHOWN = ("id", "time", "subject", "severity", "actor", "flow_run_id", "task_run_id", "deployment")

Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]


def tell(events: Sequence[Event]) -> None:
    """Write each event's line to the file and, inside a run that it belongs to, to the run's own log."""
    if file := _file(settings()):
        now = timestamp(datetime.now(UTC))
        file.emit(_record("\n".join(_line(event, now) for event in events)))
    if any(event.of_a_run for event in events) and (logger := _run_logger()):
        for event in events:
            if event.of_a_run:
                level = logging.DEBUG if event.type == BEGUN else _LEVELS[event.severity]
                logger.log(level, "%s · %s · event %s", event.type, event.subject, event.id)


def _line(event: Event, now: str) -> str:
    shown = {name: value for name in _SHOWN if (value := getattr(event, name)) is not None}
    about = {"timestamp": now, "level": event.severity, "event": event.type}
    return orjson.dumps(about | shown, option=orjson.OPT_SORT_KEYS).decode()


def _record(lines: str) -> logging.LogRecord:
    return logging.LogRecord("audit.events", logging.INFO, "", 0, lines, None, None)


def _run_logger() -> Logger | None:
    from prefect.exceptions import MissingContextError
    from prefect.logging import get_run_logger

    try:
        return get_run_logger()
    except MissingContextError:
        return None


@cache
def _file(where: Settings) -> "ConcurrentRotatingFileHandler | None":
    """What writes the lines; None, said once, where the file cannot be written: the store has the event."""
    from concurrent_log_handler import ConcurrentRotatingFileHandler

    path = where.log_path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = ConcurrentRotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=KEPT)
    except OSError as refused:
        _say_that_none_go_to(path, refused.strerror)
        return None
    made.handleError = lambda _: _say_that_none_go_to(path, str(sys.exception()))  # logging's own prints a traceback
    return made


@cache
def _say_that_none_go_to(path: Path, why: str) -> None:
    logging.getLogger("audit").warning("No event lines in %s (%s).", path, why)
