"""Each event as one structured line: to Prefect's run logger, so that it is read in the UI, and as JSON
to AUDIT_HOME/logs/audit.jsonl, which many processes share and which rotates. Ids and types only.
"""

import logging
from functools import cache
from pathlib import Path

import structlog

from audit.events.event import Event
from audit.settings import settings

MAX_BYTES = 20_000_000
KEPT = 10
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_SHOWN = ("id", "time", "subject", "severity", "actor", "flow_run_id", "task_run_id", "deployment")


def tell(event: Event) -> None:
    """Write `event`'s line to the file and, inside a run that it belongs to, to the run's own log."""
    level = _LEVELS[event.severity]
    shown = {name: value for name in _SHOWN if (value := getattr(event, name)) is not None}
    if lines := _file_logger(settings().log_path):
        lines.log(level, event.type, **shown)
    if event.of_a_run and (logger := _run_logger()):
        logger.log(level, "%s · %s · event %s", event.type, event.subject, event.id)


def _run_logger() -> "logging.Logger | logging.LoggerAdapter[logging.Logger] | None":
    from prefect.exceptions import MissingContextError
    from prefect.logging import get_run_logger

    try:
        return get_run_logger()
    except MissingContextError:
        return None


@cache
def _file_logger(path: Path) -> structlog.stdlib.BoundLogger | None:
    """The logger behind `path`; None, said once, where the file cannot be written: the store has the event."""
    from concurrent_log_handler import ConcurrentRotatingFileHandler

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = ConcurrentRotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=KEPT)
    except OSError as refused:
        logging.getLogger("audit").warning("No event lines in %s (%s).", path, refused.strerror)
        return None
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(sort_keys=True),
            ]
        )
    )
    plain = logging.getLogger(f"audit.events.{path}")
    plain.setLevel(logging.DEBUG)
    plain.propagate = False
    plain.addHandler(handler)
    bound: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        plain,
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return bound
