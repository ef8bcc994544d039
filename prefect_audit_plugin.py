"""Prefect's plugin point: every flow and task that is defined from then on is recorded.

Prefect imports this in each of its processes, where PREFECT_PLUGINS_ENABLED is set. It is a module beside `audit`, for
a user's own folder of that name may hide ours: then this one can still say so.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from prefect.plugins import register_hook

if TYPE_CHECKING:
    from prefect.plugins import HookContext

OURS = Path(__file__).with_name("audit") / "__init__.py"


class NotRecording(RuntimeError):
    """Nothing that runs in this process is put on record by the plugin."""


@register_hook
def setup_environment(*, ctx: "HookContext") -> None:
    """Have everything recorded.

    Raises NotRecording where that cannot be, which Prefect logs as an error before it goes on; in AUDIT_MODE=strict
    SystemExit, which ends the process.
    """
    try:
        _demand_ours()
        from audit.recording import plugin

        plugin.record_what_is_defined()
        plugin.load_plugins_where_hooks_are_called()
    except Exception as failed:  # whatever it was: nobody would be told by what merely did not happen
        told = f"THE AUDIT PLUGIN RECORDS NOTHING IN THIS PROCESS. {failed}"
        if os.environ.get("AUDIT_MODE") not in (None, "", "spool"):  # a word that is not known may mean strict
            raise SystemExit(f"{told} In AUDIT_MODE=strict nothing runs so.") from failed
        raise NotRecording(told) from failed


def _demand_ours() -> None:
    """Without importing it: it may be anybody's. Prefect puts a script's folder first on the path."""
    found = find_spec("audit")
    place = found.origin if found else None
    if place is None or Path(place).resolve() != OURS.resolve():
        raise NotRecording(f"Python finds {place or 'another one'} as `audit` instead of {OURS}: rename it.")
