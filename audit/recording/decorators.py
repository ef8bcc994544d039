"""`flow` and `task` as Prefect has them, with every run recorded; `instrument` for those that exist already.

What comes back is Prefect's own Flow or Task. Options, types and behaviour are Prefect's.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, overload

import prefect
from prefect import Flow, Task

from audit.errors import UserError
from audit.recording import plugin
from audit.recording.bindings import Bindable, bind

__all__ = ["flow", "instrument", "task"]

_LOOKS = {"assigned": ["__doc__"], "updated": []}  # Prefect's help and signature, but our own name for pickle

if TYPE_CHECKING:
    from prefect import flow, task
else:

    @wraps(prefect.flow, **_LOOKS)
    def flow(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        return partial(flow, **options) if fn is None else instrument(prefect.flow(fn, **options))

    @wraps(prefect.task, **_LOOKS)
    def task(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        return partial(task, **options) if fn is None else instrument(prefect.task(fn, **options))

    flow.from_source = Flow.from_source


@overload
def instrument() -> None: ...
@overload
def instrument(prefect_object: Bindable) -> Bindable: ...
def instrument(prefect_object: Bindable | None = None) -> Bindable | None:
    """Have every run of this flow or task recorded; of none, every run of all that are defined, so far and from now on.

    In place; twice does no harm. Raises UserError for anything else.
    """
    if prefect_object is None:
        plugin.record_what_is_defined()
        plugin.record_what_was_defined()
        return None
    if not isinstance(prefect_object, Flow | Task):
        raise UserError(
            f"audit.instrument takes a Prefect flow or task, not {type(prefect_object).__qualname__}.",
            hint="Decorate the function with @flow or @task first.",
        )
    bind(prefect_object)
    return prefect_object
