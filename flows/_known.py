"""What a flow needs to know of earlier runs, read from the record."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from typing import Any, NamedTuple

from audit.errors import NotFound
from audit.events.references import DatasetVersion, ModelVersion, Window
from audit.recording.registry import subject_of
from audit.spec.model import Spec
from audit.store import read
from audit.store.engine import open_store
from tasks.features import decided_alike
from tasks.outcomes import UNKNOWN


class Decided(NamedTuple):
    """The decisions of one window, the features that they were made from, and the model that made them."""

    window: Window | None  # of a spec without a schedule all rows are one
    features: DatasetVersion
    decisions: DatasetVersion
    model: ModelVersion


def champion_of(spec: Spec) -> ModelVersion:
    """The model that decides. Raises NotFound before the first training."""
    champion = read.champion(open_store(), spec.name)
    if champion is None:
        raise NotFound(f"No model of {spec.name} is in production.", hint="Run the training flow first.")
    return champion


def has_champion(spec: Spec) -> bool:
    """Whether a model decides yet."""
    return read.champion(open_store(), spec.name) is not None


def promoted(model: ModelVersion) -> bool | None:
    """Whether a registered model came into production; None while a person has not decided on it."""
    with open_store().reading() as connection:
        steps = {step.type for step in read.steps_now(connection, subject_of(model.name, model.version))}
    if "model.deployed" in steps:
        return True
    return False if "model.rejected" in steps else None


def reference_of(model: ModelVersion, spec: Spec) -> DatasetVersion:
    """The rows that `model` was trained on."""
    for trained in read.events(open_store(), types=("model.trained",), spec=spec.name):
        if trained.payload["model"]["digest"] == model.digest:
            return _dataset(trained.payload["trained_on"], trained.payload["rows"])
    raise NotFound(f"The training of {spec.name} v{model.version} is not on record.", hint="Train it again.")


def tested_on(model: ModelVersion, spec: Spec) -> DatasetVersion | None:
    """The rows that `model` was judged on; None where that is not on record."""
    for evaluated in read.events(open_store(), types=("model.evaluated",), spec=spec.name):
        if evaluated.payload and evaluated.payload["model"]["digest"] == model.digest:
            return _dataset(evaluated.payload["tested_on"], evaluated.payload["tested_on"]["rows"])
    return None


def decided_on(window: Window | None, spec: Spec) -> Decided:
    """The last decisions that were made on `window`. Raises NotFound where there are none."""
    made = [decided for decided in _decided(spec) if decided.window == window]
    if not made:
        which = f" for {window}" if window else ""
        raise NotFound(f"No decisions of {spec.name}{which} are on record.", hint="Run the scoring flow for it first.")
    return made[-1]


def was_decided_by(model: ModelVersion, rows: DatasetVersion, spec: Spec) -> bool:
    """Whether this very model has decided on these very rows, whatever has become known of them since.

    Then it is not asked again, however often it was trained and promoted anew: what is found in decisions starts a
    training, and a training whose model decides on the same rows must not start the next one.
    """
    return any(d.model.digest == model.digest and decided_alike(d.features, rows, spec) for d in _decided(spec))


def next_to_train(spec: Spec) -> Window | None:
    """All months up to the last one that was decided on, else the spec's first training window; None for all rows."""
    if spec.schedule is None:
        return None
    decided = _windows("predictions.scored", spec)
    months = [month for month in _months_up_to(decided, spec) if str(month) in decided]
    return spec.schedule.everything_before(months[-1].end) if months else spec.schedule.training_window()


def months_to_score(spec: Spec, today: date | None = None) -> Iterator[Window]:
    """The months after training that are over and have no decisions yet; of one that goes on, the rest never would."""
    if spec.schedule is None:
        return
    decided, now = _windows("predictions.scored", spec), today or datetime.now(UTC).date()
    first = min(decided, default="") if _some_withdrawn("predictions.scored", spec) else ""
    over = takewhile(lambda month: month.end <= now, spec.schedule.months_after_training())
    yield from (month for month in over if str(month) not in decided and str(month) >= first)


def next_to_score(spec: Spec, today: date | None = None) -> Window | None:
    """The first of those months; None where none is left, or there are no months."""
    return next(months_to_score(spec, today), None)


def next_to_monitor(spec: Spec) -> Window | None:
    """The first month with decisions whose drift was not checked yet; None where none is left, or none there is."""
    if spec.schedule is None:
        return None
    decided, checked = _windows("predictions.scored", spec), _windows("drift.checked", spec)
    month = next((month for month in _months_up_to(decided, spec) if str(month) not in checked), None)
    return month if str(month) in decided else None


def unchecked(spec: Spec) -> Decided | None:
    """Of a spec without months the last decisions, if nobody has looked at their rows yet.

    Rows that a later model decides on once more are not looked at again: they would start a training after each one.
    """
    last = next((decided for decided in reversed(list(_decided(spec))) if decided.window is None), None)
    checked = read.events(open_store(), types=("drift.checked",), spec=spec.name)
    seen = {event.payload["current"]["address"] for event in checked if event.payload}
    return last if last and last.features.address not in seen else None


def outcomes_due(spec: Spec, today: date) -> list[Decided]:
    """The decisions whose outcomes should be known by `today` and have no verdict yet, in order of time.

    Of a window that was decided on twice, the later decisions count. Without windows a good verdict is not the last
    one while outcomes are missing: those of the rows that the model was tested on were known from the beginning.
    """
    if not (spec.event_time or spec.row_keys()):  # by nothing could an outcome be joined to its decision
        return []
    measured = {
        checked.payload["decisions"]["address"]
        for checked in read.events(open_store(), types=("performance.checked",), spec=spec.name)
        if checked.payload and _is_settled(checked.payload)
    }
    latest = {d.window: d for d in _decided(spec)}
    wait = timedelta(days=spec.performance.delay_days)
    due = [d for d in latest.values() if d.window is None or d.window.end + wait <= today]
    due = [d for d in due if d.decisions.address not in measured]
    return sorted(due, key=lambda d: d.window.start if d.window else date.min)


def _is_settled(found: dict[str, Any]) -> bool:
    if found["verdict"] == "steady" and not found.get("window"):
        return UNKNOWN not in {reason["name"] for reason in found["left_out"]}
    return found["verdict"] in ("steady", "decayed")


def _decided(spec: Spec) -> Iterator[Decided]:
    for scored in read.events(open_store(), types=("predictions.scored",), spec=spec.name, newest_first=False):
        if scored.payload:
            rows, model = scored.payload["rows"], scored.payload["model"]
            yield Decided(
                Window.parse(scored.payload["window"]) if scored.payload.get("window") else None,
                _dataset(scored.payload["inputs"], rows),
                _dataset(scored.payload["segment"], rows),
                ModelVersion(**{k: model[k] for k in ("version", "address", "digest")}, name=model["of"]),
            )


def _months_up_to(windows: set[str], spec: Spec) -> Iterator[Window]:
    """The months after training up to the last of `windows`, whose texts sort as their dates do."""
    assert spec.schedule, "only a schedule has months"
    last = max(windows, default="")
    return takewhile(lambda month: str(month) <= last, spec.schedule.months_after_training())


def _some_withdrawn(type: str, spec: Spec) -> bool:
    """Whether payloads of this spec's events went by its retention: the oldest first, so what is before those that are
    there was done."""
    found = read.events(open_store(), types=(type,))
    return any(not event.payload and event.subject.split("/")[1:2] == [spec.name] for event in found)


def _windows(type: str, spec: Spec) -> set[str]:
    found = (e.payload.get("window") for e in read.events(open_store(), types=(type,), spec=spec.name))
    return {str(window) for window in found if window}


def _dataset(used: dict[str, str], rows: int) -> DatasetVersion:
    return DatasetVersion(
        name=used["of"], version=int(used["version"]), address=used["address"], digest=used["digest"], rows=rows
    )
