"""Recording without a line of code: what Prefect's plugin point and `audit.instrument()` put in place.

Every flow and task is made by `Flow.__init__` or `Task.__init__`, copies and those of subclasses too; each is bound
as soon as it is made, by the same hooks and wrapper as by the decorators. Nothing else of Prefect's is needed.
Workers and supervisors come by here too, so all that records is loaded with the first flow or task.
"""

import gc
import inspect
import logging
from collections.abc import Callable
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any

from prefect import Flow, Task
from prefect.utilities import processutils

from audit.errors import AuditError, AuditUnavailable
from audit.settings import strict

Init = Callable[..., None]
MADE = (Task, Flow)
TAKES = ("self", "fn")
HOOKS = ("_workspace_runtime_bootstrap.py", "hook")  # Prefect's script that calls a flow's hooks
PREFECT_FIRST = "import prefect, runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"

log = logging.getLogger("audit")


def record_what_is_defined() -> None:
    """Have every flow and task recorded that is defined from now on. Twice does no harm.

    Raises AuditError, and changes nothing, where flows or tasks are not made as they were when this was written.
    """
    for made in MADE:
        takes = tuple(inspect.signature(made.__init__).parameters)[: len(TAKES)]
        if takes != TAKES:
            raise AuditError(f"prefect.{made.__name__} is made of {', '.join(takes)}, not of a function.")
    for made in MADE:
        if not hasattr(made.__init__, "__audit_original__"):
            made.__init__ = _recording(made.__init__)  # type: ignore[method-assign]


def load_plugins_where_hooks_are_called() -> None:
    """Have a worker's runs that crashed or were cancelled recorded too. Twice does no harm.

    Their hooks are called in a process of their own, which first imports Prefect inside a running event loop: there
    Prefect leaves out all plugins. So it is started with Prefect imported before.
    """
    original = processutils.run_process
    if hasattr(original, "__audit_original__"):
        return

    @wraps(original)
    async def run_process(command: list[str], *args: Any, **kwargs: Any) -> Any:
        return await original(prefect_first(command), *args, **kwargs)

    run_process.__dict__["__audit_original__"] = original
    processutils.run_process = run_process  # before the runner, which takes it from there, is imported


def prefect_first(command: list[str]) -> list[str]:
    """The same command, with Prefect imported before anything else, if it is one that calls a flow's hooks."""
    for at, (script, operation) in enumerate(pairwise(command)):
        if (Path(script).name, operation) == HOOKS:
            first = ["-P", "-c", PREFECT_FIRST]  # -P: no folder more on the path
            return [*command[:at], *first, *command[at:]]
    return command


def record_what_was_defined() -> None:
    """Have every flow and task recorded that exists in this process already."""
    for one in gc.get_objects():
        if issubclass(type(one), MADE):  # not isinstance: a proxy's __class__ is the user's code
            _record(one)


def is_on() -> bool:
    """Whether everything that is defined in this process is recorded."""
    return all(hasattr(made.__init__, "__audit_original__") for made in MADE)


def _recording(original: Init) -> Init:
    @wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        _record(self)

    init.__dict__["__audit_original__"] = original
    return init


def _record(made: Any) -> None:
    """Bind what was made. What cannot be is told, for it is the user's to run; in mode `strict` AuditUnavailable."""
    try:
        from audit.recording.bindings import bind

        bind(made)
    except Exception as failed:  # of an installation that is broken, of a class that is not Prefect's
        told = f"{type(made).__name__} {made.name!r} cannot be recorded ({type(failed).__name__}: {failed})."
        if strict():
            raise AuditUnavailable(told, hint="Nothing runs unrecorded in mode strict.") from failed
        log.error("%s NOTHING OF IT WILL BE ON RECORD.", told)
