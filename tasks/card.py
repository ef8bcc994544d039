"""Write the model card: what a model is for, what it was made of, how it did and for whom, what was decided about it.

The sections are those of Mitchell et al. 2019, Model Cards for Model Reporting. What stands in them is on record or in
the spec; what is in neither, the card says is not stated, and never fills in.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from audit import task
from audit.artifacts import reports
from audit.events.canonical import timestamp
from audit.events.payloads import (
    Approver,
    DatasetFacts,
    Masking,
    Metric,
    RunState,
    SplitFacts,
    TrainingFacts,
    Used,
    ValidationFacts,
    called,
)
from audit.events.references import ModelVersion, Report
from audit.privacy import redact
from audit.recording.registry import subject_of
from audit.spec.load import spec_digest
from audit.spec.model import Spec, TargetKind
from audit.store import read
from audit.store.engine import open_store
from tasks import _frames as frames
from tasks import _pages as pages
from tasks._frames import Evaluation, with_interval
from tasks._judging import RESAMPLES, SEED
from tasks._slices import SLICE_ROWS, Gap, column_of, too_small, widest_gap

if TYPE_CHECKING:
    import polars as pl

    from audit.store.read import Recorded

SILENT = "*not stated in the spec*"
UNKNOWN = "not on record"
GROUPS = "Figures by group"
# What the evaluation's pictures of predictions beside outcomes stand beneath.
OUTCOMES: dict[TargetKind, str] = {"binary": "Calibration", "multiclass": "Calibration", "regression": "Residuals"}


class Card(BaseModel):
    """The card as a page and as markdown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    page: Report
    markdown: Report


@dataclass(frozen=True, slots=True)
class Origin:
    """What is on record of how a model came to be, from the sources on; None where nothing is, or no longer."""

    steps: tuple["Recorded", ...]  # what was decided about the model
    trained: TrainingFacts | None = None
    trained_by: "Recorded | None" = None
    run: RunState | None = None  # the flow run that trained it
    split: SplitFacts | None = None
    features: DatasetFacts | None = None
    validated: ValidationFacts | None = None
    ingested: DatasetFacts | None = None
    masked: Masking | None = None


@task(task_run_name="write the card of {spec.name} v{model.version}")
def write_card(model: ModelVersion, evaluation: Evaluation, spec: Spec) -> Card:
    """The card of a registered model as things stand now, whether it was let in or turned away."""
    origin = origin_of(model, spec)
    told = for_people(model, evaluation, origin, frames.read(evaluation.tested_on), spec)
    name = f"{spec.name}/card v{model.version}"
    card = Card(
        page=reports.put(with_pictures(told, model, evaluation, spec).encode(), name),
        markdown=reports.put(f"# {title(model, spec)}\n\n{told}".encode(), f"{name} (markdown)", "text/markdown"),
    )
    links = frames.links({"with pictures": reports.link(card.page), "as markdown": reports.link(card.markdown)})
    frames.leave_markdown(
        f"{spec.name}-card",
        f"# {redact.unmarked(title(model, spec))}\n\n{links}\n\n{told}",
        in_a_line(model, evaluation, origin.steps),
    )
    return card


def origin_of(model: ModelVersion, spec: Spec) -> Origin:
    """What the record has of a model: from the training back to the sources, by digest, and what was decided."""
    store = open_store()
    with store.reading() as connection:
        steps = tuple(read.steps_now(connection, subject_of(spec.name, model.version)))
    trained = _last("model.trained", spec, lambda told: told["model"]["digest"] == model.digest)
    if trained is None:
        return Origin(steps)
    learnt = TrainingFacts.model_validate(trained.payload)
    runs = read.events(store, types=("flow_run.running",), run=trained.flow_run_id) if trained.flow_run_id else ()
    run = next((RunState.model_validate(event.payload) for event in runs if event.payload), None)
    split = _last("dataset.split", spec, lambda told: told["train"]["digest"] == learnt.trained_on.digest)
    built = _made("dataset.transformed", spec, split.payload["made_from"] if split else None)
    checked = _made("dataset.validated", spec, built.payload["made_from"][0] if built else None, at="valid")
    ingested = _made("dataset.ingested", spec, checked.payload["checked"] if checked else None)
    by = ingested.task_run_id if ingested else None
    masked = next(read.events(store, types=("privacy.masked",), run=by), None) if by else None
    return Origin(
        steps=steps,
        trained=learnt,
        trained_by=trained,
        run=run,
        split=SplitFacts.model_validate(split.payload) if split else None,
        features=DatasetFacts.model_validate(built.payload) if built else None,
        validated=ValidationFacts.model_validate(checked.payload) if checked else None,
        ingested=DatasetFacts.model_validate(ingested.payload) if ingested else None,
        masked=Masking.model_validate(masked.payload) if masked and masked.payload else None,
    )


def title(model: ModelVersion, spec: Spec) -> str:
    """`Loans that are repaid: model card of loans v2`."""
    return f"{redact.text(spec.title)}: model card of {spec.name} v{model.version}"


def in_a_line(model: ModelVersion, evaluation: Evaluation, steps: Sequence["Recorded"]) -> str:
    """`loans v2 is in production · AUC 0.750 [0.744, 0.758] · 4 of 4 gates held`."""
    main = f"{called(evaluation.main)} {with_interval(evaluation.metric(evaluation.main))}"
    return f"{model.name} v{model.version} {standing(steps)} · {main} · {evaluation.gates_held()}"


def standing(steps: Sequence["Recorded"]) -> str:
    """Where a model stands after these steps, in words: `is in production`."""
    taken = {step.type for step in steps}
    if "model.retired" in taken:
        return "was in production and is retired"
    if "model.deployed" in taken:
        return "is in production"
    if "model.rejected" in taken:
        return "was turned away"
    return "awaits approval" if "model.approval_requested" in taken else "is registered and in no environment"


def with_pictures(told: str, model: ModelVersion, evaluation: Evaluation, spec: Spec) -> str:
    """The card as a whole page. Its pictures are those of the evaluation, which the gates were held to as well."""
    judged = reports.read(evaluation.report).decode()
    headings = {OUTCOMES[spec.target.kind]: OUTCOMES[spec.target.kind], GROUPS: "Slices"}
    return pages.page(
        title(model, spec), told, {own: pages.pictures_beneath(judged, its) for own, its in headings.items()}
    )


def for_people(model: ModelVersion, evaluation: Evaluation, origin: Origin, frame: "pl.DataFrame", spec: Spec) -> str:
    """The card in markdown, without its title; `frame` are the test rows."""
    parts = (
        *_verdict(model, evaluation, origin),
        "## Model details",
        *_details(model, origin, spec),
        "## Intended use",
        _stated("Meant for", spec.card.intended_use),
        _stated("Out of scope", spec.card.out_of_scope),
        "## Factors",
        *_factors(spec),
        "## Metrics",
        *_metrics(evaluation, spec),
        "## Evaluation data",
        *_evaluation_data(evaluation, origin),
        "## Training data",
        *_training_data(origin, spec),
        "## Quantitative analyses",
        *_figures(evaluation, spec),
        *_by_group(evaluation, frame, spec),
        "## Ethical considerations",
        pages.said(spec.card.ethics) if spec.card.ethics else SILENT,
        *_personal(origin, spec),
        "## Caveats and recommendations",
        pages.said(spec.card.limits) if spec.card.limits else SILENT,
        _caveats(evaluation, spec),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _last(type: str, spec: Spec, holds: Callable[[dict[str, Any]], bool]) -> "Recorded | None":
    """The latest event of a type of which this holds."""
    found = read.events(open_store(), types=(type,), spec=spec.name)
    return next((event for event in found if event.payload and holds(event.payload)), None)


def _made(type: str, spec: Spec, wanted: dict[str, Any] | None, at: str | None = None) -> "Recorded | None":
    """The latest event that tells of making the dataset version `wanted`."""
    if wanted is None:
        return None

    def holds(told: dict[str, Any]) -> bool:
        made = (told.get(at) if at else told) or {}
        return (made.get("digest"), made.get("of") or made.get("name")) == (wanted["digest"], wanted["of"])

    return _last(type, spec, holds)


def _verdict(model: ModelVersion, evaluation: Evaluation, origin: Origin) -> Iterator[str]:
    """What became of the model, before all else, and step by step."""
    yield f"**{model.name} v{model.version} {standing(origin.steps)}** as of {_minute(timestamp(datetime.now(UTC)))}."
    yield f"{in_a_line(model, evaluation, origin.steps).partition(' · ')[2]}."
    yield frames.as_markdown([_step(step) for step in origin.steps if step.payload])


def _step(step: "Recorded") -> dict[str, str]:
    said = step.payload
    to = f" to {said['environment']}" if step.type == "model.promoted" else ""
    by = str(Approver(**said["approver"])) if said.get("approver") else ""
    return {
        "when": _minute(step.time),
        "what": step.type.removeprefix("model.").replace("_", " ") + to,
        "why": str(said.get("note") or said["reason"]),
        "by whom": by,
    }


def _details(model: ModelVersion, origin: Origin, spec: Spec) -> Iterator[str]:
    trained, run = origin.trained, origin.run
    told: dict[str, str] = {"owner": pages.plain(spec.card.owner) if spec.card.owner else SILENT}
    told |= {"predicts": f"{pages.plain(spec.target.column)} ({spec.target.kind})"}
    told |= {"model": f"{model.name} v{model.version}, `{model.digest}`", "spec": f"`{spec_digest(spec)}`"}
    if trained and origin.trained_by:
        told |= {
            "estimator": _estimator(trained, spec),
            "features": ", ".join(map(pages.plain, trained.features)),
            "trained": f"{_minute(origin.trained_by.time)}, in {trained.seconds:.1f} s, event {origin.trained_by.id}",
            "because of": f"event {trained.cause}" if trained.cause else "",
            "seeds": ", ".join(f"{seed.name} {seed.value}" for seed in trained.seeds),
            "versions": ", ".join(f"{library.name} {library.value}" for library in trained.libraries),
        }
    if run and run.code:
        dirty = ", with changes that were not committed" if run.code.dirty else ""
        told["code"] = f"commit {run.code.commit or UNKNOWN}{dirty}"
    if run and run.surroundings:
        told["ran on"] = f"{run.surroundings.platform}, Prefect {run.surroundings.prefect}"
    yield _list(told)
    if not trained:
        yield f"The training is {UNKNOWN}."


def _estimator(trained: TrainingFacts, spec: Spec) -> str:
    known = {given.name: given.value for given in trained.hyperparameters}
    chosen = ", ".join(f"{pages.plain(name)} {pages.plain(str(known.get(name)))}" for name in spec.estimator.parameters)
    return f"{pages.plain(trained.estimator)} with {chosen or 'no hyperparameter of its own'}, else as by default"


def _factors(spec: Spec) -> Iterator[str]:
    protected, others = spec.protected(), [name for name in spec.sliced_by() if name not in spec.protected()]
    if not spec.sliced_by():
        yield f"Figures by group: {SILENT}."
        return
    yield _list(
        {
            "protected": ", ".join(map(pages.plain, protected)) + ". No model sees them." if protected else SILENT,
            "other groups": ", ".join(map(pages.plain, others)),
        }
    )


def _metrics(evaluation: Evaluation, spec: Spec) -> Iterator[str]:
    yield (
        f"Judged first by {called(evaluation.main)}. Intervals are 95 % ones, from {RESAMPLES} resamples of the test "
        f"rows, seed {SEED}. {_rule(spec)}"
    )
    gates = [(gate.name, frames.found(gate), gate.limit, "yes" if gate.held else "**no**") for gate in evaluation.gates]
    yield "### Gates"
    yield frames.markdown_table(("gate", "found", "wanted", "held"), gates) if gates else SILENT


def _rule(spec: Spec) -> str:
    """How a prediction becomes a decision."""
    threshold = spec.deciding_threshold()
    if threshold is None:
        what = "the predicted number" if spec.target.kind == "regression" else "the likeliest class"
        return f"The decision is {what}."
    if spec.target.kind == "multiclass":
        return f"The decision is the likeliest class; less probable than {threshold:g}, it is left open."
    return f"A row is decided positive from {threshold:g} on."


def _evaluation_data(evaluation: Evaluation, origin: Origin) -> Iterator[str]:
    test, split = evaluation.tested_on, origin.split
    told = {"rows": f"{test.rows:,} of {test.name} version {test.version}, `{test.digest}`"}
    told |= {"parted by": pages.plain(split.by) if split else UNKNOWN}
    told |= {"left out": "; ".join(map(pages.plain, split.transformations)) if split else ""}
    yield _list(told)


def _training_data(origin: Origin, spec: Spec) -> Iterator[str]:
    if origin.trained:
        learnt = origin.trained.trained_on
        yield f"{origin.trained.rows:,} rows of {learnt.of} version {learnt.version}, `{learnt.digest}`."
    if not origin.ingested:
        yield f"Where they come from is {UNKNOWN}."
        return
    ingested, checked, masked = origin.ingested, origin.validated, origin.masked
    told = {"window": ingested.window or frames.ALL, "read": f"{ingested.rows:,} rows, `{ingested.digest}`"}
    if masked:
        told |= {
            "dropped before anything was written": ", ".join(map(pages.plain, masked.dropped)),
            "dropped, for the spec does not know them": ", ".join(map(pages.plain, masked.undeclared)),
            "kept as a keyed hash": ", ".join(map(pages.plain, masked.hashed)),
            "made coarser": ", ".join(map(pages.plain, masked.generalised)),
        }
    if checked:
        held = sum(outcome.held for outcome in checked.expectations)
        told |= {
            "validation": f"{held} of {len(checked.expectations)} rules held",
            "set aside": f"{checked.rejected_rows:,} of {checked.rows:,} rows{_kept(checked.rejected)}",
            "rules that did not hold": "; ".join(pages.plain(str(o)) for o in checked.expectations if not o.held),
        }
    yield _list(told)
    yield frames.as_markdown(
        [
            {"source": source.name, "rows": f"{source.rows:,}", "address": source.address, "digest": source.digest}
            for source in ingested.sources or ()
        ]
    )
    derived = origin.features.transformations if origin.features else []
    yield f"Derived columns:\n\n{_bullets(*map(pages.plain, derived))}" if derived else ""


def _figures(evaluation: Evaluation, spec: Spec) -> Iterator[str]:
    champion = evaluation.champion
    against = {metric.name: with_interval(metric, signed=True) for metric in evaluation.difference}
    yield "### Figures"
    if champion:
        compared = evaluation.against_champion() or "not comparable: it wants other features, or is of another kind"
        yield f"Against the champion v{champion.version} on the same rows: {compared}."
    head = ("figure", "all rows", *([f"minus v{champion.version}"] if champion else []))
    yield frames.markdown_table(
        head,
        [
            (called(metric.name), with_interval(metric), *([against.get(metric.name, "")] if champion else []))
            for metric in evaluation.metrics
        ],
    )
    yield f"### {OUTCOMES[spec.target.kind]}"
    yield _calibrated(evaluation)


def _calibrated(evaluation: Evaluation) -> str:
    error = frames.figure("calibration_error", evaluation.metrics)
    if error:
        return f"Stated probabilities are {with_interval(error)} away from what came, on average."
    bias = frames.figure("bias", evaluation.metrics)
    return f"Predicted values are {with_interval(bias, signed=True)} too high on average." if bias else ""


def _by_group(evaluation: Evaluation, frame: "pl.DataFrame", spec: Spec) -> Iterator[str]:
    if not spec.sliced_by():
        return
    yield f"### {GROUPS}"
    yield frames.as_markdown(frames.by_slice(evaluation.slices)) or f"No group has {SLICE_ROWS} rows."
    yield _bullets(
        *(
            f"{pages.plain(column)}: {count:,} with fewer than {SLICE_ROWS} rows, which cannot be judged"
            for column, count in too_small(frame, spec).items()
        )
    )
    gaps = list(_gaps(evaluation.slices, spec))
    if gaps:
        yield "#### Widest gaps"
        yield frames.as_markdown(gaps)


def _gaps(sliced: Sequence[Metric], spec: Spec) -> Iterator[dict[str, str]]:
    """Of each column, the protected ones first, how far its groups are apart in each figure."""
    for column in spec.sliced_by():
        of_it = [metric for metric in sliced if column_of(metric) == column]
        for name in dict.fromkeys(metric.name for metric in of_it):
            if gap := widest_gap(of_it, name):
                yield _gap(gap, protected=column in spec.protected())


def _gap(gap: Gap, *, protected: bool) -> dict[str, str]:
    return {
        "column": gap.column,
        "protected": "yes" if protected else "",
        "figure": called(gap.low.name),
        "gap": f"{gap.value:.3f}",
        "lowest": f"{gap.low.slice} {with_interval(gap.low)}",
        "highest": f"{gap.high.slice} {with_interval(gap.high)}",
    }


def _personal(origin: Origin, spec: Spec) -> Iterator[str]:
    """What in the data is about persons, and that what a model does not see may still reach it."""
    kept = [c.name for c in spec.columns if c.pii != "none" and spec.handling(c) in ("keep", "generalise")]
    if kept:
        yield f"Columns about persons that are kept: {', '.join(map(pages.plain, kept))}."
    if spec.protected():
        yield "No model sees a protected column; what goes along with one may stand in for it."


def _caveats(evaluation: Evaluation, spec: Spec) -> str:
    how = f"later by {pages.plain(spec.event_time)} than those it learnt from" if spec.event_time else "drawn by chance"
    return _bullets(
        f"The figures are of {evaluation.tested_on.rows:,} test rows, {how}; of other rows they say nothing.",
        "This card is as of its date. What the audit store has of the model since then counts: `audit models`.",
    )


def _stated(what: str, words: str | None) -> str:
    return f"### {what}\n\n{pages.said(words) if words else SILENT}"


def _kept(rejected: Used | None) -> str:
    return f", kept as {rejected.of} version {rejected.version}" if rejected else ""


def _list(told: dict[str, str]) -> str:
    """Facts by name; what is empty is left out."""
    return _bullets(*(f"**{name}**: {fact}" for name, fact in told.items() if fact))


def _bullets(*facts: str) -> str:
    return "\n".join(f"- {fact}" for fact in facts)


def _minute(time: str) -> str:
    return f"{time[:16].replace('T', ' ')} UTC"
