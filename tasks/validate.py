"""Hold a dataset against the spec's rules with Great Expectations; set aside the rows that break one.

Great Expectations is the only judge: it says which rules held and which rows broke them. It is told to keep no
unexpected value, so neither the record nor the Data Docs hold one; rules, limits and counts are all there is.
A missing value breaks a rule only where `nulls: 0` says so; a larger share is a rule about the column, not a row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from audit import record, task
from audit.artifacts import datasets, reports
from audit.errors import BadData, DatasetRejected
from audit.events.canonical import clean
from audit.events.payloads import Expectation, Named, ValidationFacts, used
from audit.events.references import DatasetVersion, Report
from audit.privacy import redact
from audit.spec.model import Column, Dtype, Spec
from tasks import _data_docs as data_docs
from tasks import _frames as frames
from tasks import _suites as suites

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import polars as pl
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation as Demand


RuleSeverity = Literal["info", "warning", "critical"]

# How a spec's dtype looks in the pandas frame that Great Expectations is given. Integers: `_typed`.
PANDAS_DTYPE: dict[Dtype, str] = {
    "float": "float64", "string": "string", "boolean": "boolean",
    "date": "datetime64[s]", "datetime": "datetime64[us]",
}  # fmt: skip

# Positions of the rows that broke a rule, never what stands in them.
RESULT_FORMAT = {
    "result_format": "COMPLETE",
    "exclude_unexpected_values": True,
    "include_unexpected_rows": False,
    "partial_unexpected_count": 0,
}
MAX_LISTED = 50  # values of a suite's list that go on record


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule and what Great Expectations is asked for it."""

    name: str  # type, nulls, range, values, unique, rows, a derived rule's own name, or an expectation's in a suite
    column: str | None
    severity: RuleSeverity
    demand: "Demand"
    limits: tuple[Named, ...] = ()
    by_row: bool = True  # rows that break it are set aside
    suite: str | None = None  # of the user's own project

    def __str__(self) -> str:
        return f"{self.name} of {self.column}" if self.column else self.name


@dataclass(frozen=True, slots=True)
class Finding:
    """How a rule came out, and which rows broke it."""

    rule: Rule
    outcome: Expectation
    broken: "np.ndarray[tuple[int], np.dtype[np.int64]]"


@dataclass(frozen=True, slots=True)
class Validation:
    """What was found in a dataset: findings in the order of the spec, rows parted, Great Expectations' own results."""

    findings: tuple[Finding, ...]
    valid: "pl.DataFrame"
    rejected: "pl.DataFrame"
    judged: "tuple[ExpectationSuiteValidationResult, ...]"

    @property
    def outcomes(self) -> list[Expectation]:
        return [finding.outcome for finding in self.findings]

    @property
    def critical(self) -> list[str]:
        """Critical rules that did not hold."""
        return [str(f.rule) for f in self.findings if not f.outcome.held and f.rule.severity == "critical"]


def check(frame: "pl.DataFrame", spec: Spec) -> Validation:
    """Findings on `frame`, rule by rule, and its rows parted into valid and rejected ones.

    Raises BadData if a declared column is missing or a rule cannot be checked on it, SpecError if a derived rule
    cannot be computed, or a suite of the user's cannot be used.
    """
    _refuse_missing_columns(frame, spec)
    findings: list[Finding] = []
    judged: list[ExpectationSuiteValidationResult] = []
    for rules, rows in _rules_and_rows(frame, spec):
        result = _run_checkpoint(rows, rules, spec)
        findings += [_finding(rule, one, spec) for rule, one in zip(rules, result.results, strict=True)]
        judged.append(result)
    valid, rejected = _parted(frame, findings)
    return Validation(findings=tuple(findings), valid=valid, rejected=rejected, judged=tuple(judged))


def _rules_and_rows(frame: "pl.DataFrame", spec: Spec) -> "Iterator[tuple[list[Rule], pl.DataFrame]]":
    """The spec's own rules, and those of the user's suite, beside them or alone; each with what they are held against.

    A suite may count columns, so it sees those that were ingested and no derived one.
    """
    if spec.expectations is None or spec.expectations.beside:
        rules = list(rules_of(spec))
        needed = {rule.demand.configuration.kwargs["column"]: None for rule in rules[1:]}  # the first: of the table
        yield rules, frames.derived(frame, spec).select(list(needed))
    if spec.expectations:
        yield list(rules_of_suite(spec, frame.columns)), frame


def rules_of(spec: Spec) -> Iterator[Rule]:
    """Every rule of the spec: the table's, then the columns', then the derived ones."""
    from great_expectations import expectations as gxe
    from great_expectations.expectations.metadata_types import FailureSeverity

    rows = gxe.ExpectTableRowCountToBeBetween(
        min_value=spec.rows.min, max_value=spec.rows.max, severity=FailureSeverity.CRITICAL
    )
    yield Rule("rows", None, "critical", rows, _limits(min=spec.rows.min, max=spec.rows.max), by_row=False)
    for column in spec.columns:
        if spec.handling(column) != "drop":
            yield from _rules_of_column(column, masked=spec.handling(column) == "hash")
    for derived in spec.derive:
        if derived.role == "rule":
            demand = gxe.ExpectColumnValuesToBeInSet(
                column=derived.name, value_set=[True], severity=FailureSeverity(derived.severity), notes=derived.sql
            )
            yield Rule(derived.name, None, derived.severity, demand, _limits(sql=derived.sql))


def rules_of_suite(spec: Spec, present: Sequence[str]) -> Iterator[Rule]:
    """What the user's suite asks of rows with the columns `present`. Raises SpecError where it cannot be asked.

    As with our own rules, a share of rows that may break it (`mostly`) is about the column, and sets no row aside.
    """
    assert spec.expectations, "asked only where the spec names a suite"
    for one in suites.asked(spec, present):
        severity = _severity(one.demand.severity.value)
        limits = {name: _short(clean(value)) for name, value in one.kwargs.items() if name not in suites.ABOUT}
        yield Rule(
            one.type,
            ", ".join(one.columns) or None,
            severity,
            one.demand,
            _limits(**limits),
            by_row=severity != "info" and one.kwargs.get("mostly", 1) == 1,
            suite=spec.expectations.suite,
        )


@task(task_run_name="validate {rows.name} {rows.version}")
def validate(rows: DatasetVersion, spec: Spec) -> DatasetVersion:
    """The rows that hold every rule. What broke one is kept as `<spec>/rejected`, with the rules in `reason`.

    Raises DatasetRejected if a critical rule did not hold.
    """
    frame = frames.read(rows)
    found = check(frame, spec)
    rejected = datasets.put(found.rejected, f"{spec.name}/rejected") if found.rejected.height else None
    valid = None if found.critical else datasets.put(found.valid, f"{spec.name}/validated")
    facts = ValidationFacts(
        spec=spec.name,
        checked=used("rows", rows),
        valid=used("return", valid) if valid else None,
        rejected=used("rejected", rejected) if rejected else None,
        expectations=found.outcomes,
        rows=rows.rows,
        rejected_rows=found.rejected.height,
        held=not found.critical,
    )
    shown = data_docs.page(facts, spec, _missing(frame, spec), found.judged)
    page = reports.put(shown.encode(), f"{spec.name} data docs")
    _put_on_record(facts.model_copy(update={"report": used("report", page)}), rows, page)
    if valid is None:
        raise DatasetRejected(
            f"{rows.name} version {rows.version} breaks critical rules: {', '.join(found.critical)}.",
            hint=f"Mend the source, or the rules in the spec {spec.name}.",
        )
    return valid


def _rules_of_column(column: Column, *, masked: bool) -> Iterator[Rule]:
    """The column's rules. Of hashed values only whether they are there and whether they differ can be asked."""
    from great_expectations import expectations as gxe
    from great_expectations.expectations.metadata_types import FailureSeverity

    name, severity, grave = column.name, column.severity, FailureSeverity(column.severity)
    if not masked:
        yield Rule("type", name, "critical", _typed(column), _limits(dtype=column.dtype), by_row=False)
    if column.nulls < 1:
        present = gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=round(1 - column.nulls, 9), severity=grave)
        yield Rule("nulls", name, severity, present, _limits(share=column.nulls), by_row=column.nulls == 0)
    if column.unique:
        yield Rule("unique", name, severity, gxe.ExpectColumnValuesToBeUnique(column=name, severity=grave))
    if masked:
        return
    if column.min is not None or column.max is not None:
        low, high = _whole(column.min), _whole(column.max)
        inside = gxe.ExpectColumnValuesToBeBetween(column=name, min_value=low, max_value=high, severity=grave)
        yield Rule("range", name, severity, inside, _limits(min=low, max=high))
    if column.values is not None:
        listed = gxe.ExpectColumnValuesToBeInSet(column=name, value_set=list(column.values), severity=grave)
        yield Rule("values", name, severity, listed, _limits(values=list(column.values)))


def _typed(column: Column) -> "Demand":
    from great_expectations import expectations as gxe
    from great_expectations.expectations.metadata_types import FailureSeverity

    if column.dtype == "integer":
        return gxe.ExpectColumnValuesToBeInTypeList(
            column=column.name, type_list=["int64", "Int64Dtype"], severity=FailureSeverity.CRITICAL
        )
    wanted = PANDAS_DTYPE[column.dtype]
    return gxe.ExpectColumnTypeToBe(column=column.name, type_=wanted, severity=FailureSeverity.CRITICAL)


def _limits(**limits: object) -> tuple[Named, ...]:
    return tuple(Named(name=name, value=_redacted(value)) for name, value in limits.items() if value is not None)


def _redacted(limit: object) -> object:
    match limit:
        case str():
            return redact.text(limit)
        case list():
            return [_redacted(item) for item in limit]
        case dict():
            return {name: _redacted(item) for name, item in limit.items()}
    return limit


def _severity(given: str) -> RuleSeverity:
    assert given in ("info", "warning", "critical"), "Great Expectations has these three"
    return cast(RuleSeverity, given)


def _short(value: object) -> object:
    """A limit as it goes on record; a long list by its length."""
    return f"{len(value):,} values" if isinstance(value, list) and len(value) > MAX_LISTED else value


def _whole(limit: float | None) -> int | float | None:
    """A limit as people wrote it: 50, not 50.0."""
    return int(limit) if limit is not None and limit.is_integer() else limit


def _refuse_missing_columns(frame: "pl.DataFrame", spec: Spec) -> None:
    missing = [c.name for c in spec.columns if spec.handling(c) != "drop" and c.name not in frame.columns]
    if missing:
        raise BadData(
            f"{spec.name}: the rows have no column {', '.join(missing)}.",
            hint="Ingest them again with the spec that they are checked by.",
        )


def _run_checkpoint(frame: "pl.DataFrame", rules: Sequence[Rule], spec: Spec) -> "ExpectationSuiteValidationResult":
    """Great Expectations' own result, its results in the order of `rules`."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    in_memory = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    context = gx.get_context(mode="ephemeral", project_config=in_memory)
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset(spec.name)
    demands = [rule.demand for rule in rules]
    for position, demand in enumerate(demands):
        demand.meta = {"position": position}
    suite = context.suites.add(gx.ExpectationSuite(name=spec.name, expectations=demands))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=spec.name, data=asset.add_batch_definition_whole_dataframe("all"), suite=suite)
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(name=spec.name, validation_definitions=[definition], result_format=RESULT_FORMAT)
    )
    run = checkpoint.run(batch_parameters={"dataframe": _for_pandas(frame)})
    (judged,) = run.run_results.values()
    judged.results.sort(key=_position)
    return judged


def _position(result: "ExpectationValidationResult") -> int:
    assert result.expectation_config is not None
    position: int = result.expectation_config.meta["position"]
    return position


def _for_pandas(frame: "pl.DataFrame") -> "pd.DataFrame":
    """`frame` in the types of PANDAS_DTYPE. NaN counts as missing here, as it does for a model."""
    import pandas as pd

    return pd.DataFrame({series.name: _column(series) for series in frame.iter_columns()})


def _column(series: "pl.Series") -> "pd.api.extensions.ExtensionArray | np.ndarray[tuple[int], np.dtype[np.generic]]":
    """Plain numpy where it can hold what is missing: Great Expectations compares all else value by value."""
    import pandas as pd
    import polars as pl

    if series.dtype.is_float():
        return series.cast(pl.Float64).to_numpy()
    if series.dtype == pl.Date:
        return series.to_numpy().astype("datetime64[s]")
    if isinstance(series.dtype, pl.Datetime):
        return series.dt.replace_time_zone(None).cast(pl.Datetime("us")).to_numpy()
    if series.dtype == pl.Boolean:
        return pd.arrays.BooleanArray(series.fill_null(False).to_numpy(writable=True), series.is_null().to_numpy())
    if series.dtype.is_integer() and not series.null_count():
        return series.to_numpy()
    if series.dtype.is_integer():
        return pd.arrays.IntegerArray(series.fill_null(0).to_numpy(writable=True), series.is_null().to_numpy())
    text = series.cast(pl.String).rechunk()
    return pd.arrays.ArrowStringArray(text.to_arrow(compat_level=pl.CompatLevel.oldest()))


def _finding(rule: Rule, result: "ExpectationValidationResult", spec: Spec) -> Finding:
    import numpy as np

    if _raised(result.exception_info):  # its message may hold a value, so it stays out of ours
        held_by = f"suite {rule.suite!r}" if rule.suite else "spec"
        raise BadData(
            f"{spec.name}: rule {rule} cannot be checked on data of this type.",
            hint=f"Mend the rule's limits in the {held_by}, or the column's dtype in the spec.",
        )
    counts = result.result
    unexpected = counts.get("unexpected_count")
    checked = counts["element_count"] - counts.get("missing_count", 0) if "element_count" in counts else None
    outcome = Expectation(
        rule=rule.name,
        column=rule.column,
        severity=rule.severity,
        held=bool(result.success),
        checked=None if checked is None else int(checked),
        unexpected=None if unexpected is None else int(unexpected),
        suite=rule.suite,
        limits=list(rule.limits),
    )
    broken = np.array(counts.get(data_docs.BROKEN) or [], dtype=np.int64)
    if rule.suite:  # a mean or a largest value that was observed may be one person's
        result.result = {name: counts[name] for name in suites.COUNTS if name in counts}
    return Finding(rule, outcome, broken)


def _raised(info: "dict[str, Any]") -> bool:
    """Whether checking failed; Great Expectations says so flatly or metric by metric."""
    return bool(info.get("raised_exception")) or any(
        isinstance(part, dict) and part.get("raised_exception") for part in info.values()
    )


def _parted(frame: "pl.DataFrame", findings: Sequence[Finding]) -> "tuple[pl.DataFrame, pl.DataFrame]":
    """Rows that broke no rule, and those that did with the rules' names."""
    import numpy as np
    import polars as pl

    breaking = [found for found in findings if found.rule.by_row and found.broken.size]
    reasons = []
    for found in breaking:
        broke = np.zeros(frame.height, dtype=bool)
        broke[found.broken] = True
        reasons.append(pl.when(pl.Series(broke)).then(pl.lit(str(found.rule))))
    if not reasons:
        return frame, frame.clear()
    reason = _free_name("reason", frame.columns)
    told = frame.with_columns(pl.concat_str(reasons, separator="; ", ignore_nulls=True).alias(reason))
    sound = pl.col(reason) == ""
    return told.filter(sound).drop(reason), told.filter(~sound)


def _free_name(name: str, taken: Sequence[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _missing(frame: "pl.DataFrame", spec: Spec) -> dict[str, int]:
    """How many values each column of the spec lacks; NaN counts as missing, as it does for a model."""
    import polars as pl
    from polars import selectors as cs

    kept = frame.select(column.name for column in spec.columns if spec.handling(column) != "drop")
    return kept.with_columns(cs.float().fill_nan(None)).select(pl.all().null_count()).row(0, named=True)


def _put_on_record(facts: ValidationFacts, rows: DatasetVersion, page: Report) -> None:
    whole = all(outcome.held or outcome.severity == "info" for outcome in facts.expectations)
    record("dataset.validated", facts, subject=frames.subject(rows), severity="info" if whole else "warning")
    if not facts.held:
        record("dataset.rejected", facts, subject=frames.subject(rows))
    table = [data_docs.row(outcome) for outcome in facts.expectations]
    frames.leave_table(f"{facts.spec}-validation", table, told(facts, page))


def told(facts: ValidationFacts, page: Report) -> str:
    """What was found, in a line of markdown."""
    verdict = "" if facts.held else "**Rejected: a critical rule did not hold.**"
    links = frames.links({"Data Docs": reports.link(page)})
    return " ".join(filter(None, (data_docs.in_a_line(facts), verdict, links)))
