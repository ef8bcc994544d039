"""prefect-audit: ML pipelines on Prefect whose every step can be proven, reconstructed and explained.

The public face, loaded on first use so that `audit --help` needs none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audit.events.event import Event as AuditEvent
    from audit.events.references import DatasetVersion, ModelVersion, Report
    from audit.recording.decorators import flow, instrument, task
    from audit.recording.recorder import record, record_many
    from audit.store.engine import AuditStore

__all__ = [
    "AuditEvent", "AuditStore", "DatasetVersion", "ModelVersion", "Report", "flow", "instrument", "record",
    "record_many", "task",
]  # fmt: skip

_HOMES = {
    "AuditEvent": ("audit.events.event", "Event"),
    "AuditStore": ("audit.store.engine", "AuditStore"),
    "DatasetVersion": ("audit.events.references", "DatasetVersion"),
    "ModelVersion": ("audit.events.references", "ModelVersion"),
    "Report": ("audit.events.references", "Report"),
    "flow": ("audit.recording.decorators", "flow"),
    "instrument": ("audit.recording.decorators", "instrument"),
    "record": ("audit.recording.recorder", "record"),
    "record_many": ("audit.recording.recorder", "record_many"),
    "task": ("audit.recording.decorators", "task"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'audit' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
