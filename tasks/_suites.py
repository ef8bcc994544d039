"""A suite of the user's own Great Expectations project (1.x), read and never written.

Of the project only the store of expectations is opened, as its great_expectations.yml describes it: its data sources,
stored results and Data Docs are left alone, so none of its passwords is needed and nothing in its folder changes. No
code of the project is imported: expectations are Great Expectations' own, and so is the store.
What a suite asks is asked of rows as they were ingested, masked and with kept columns only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.errors import SpecError
from audit.spec.load import CONFIGURATION, did_you_mean, project_of, where
from audit.spec.model import Spec

if TYPE_CHECKING:
    from great_expectations.data_context.data_context import EphemeralDataContext
    from great_expectations.expectations.expectation import Expectation as Demand

STORES = "great_expectations.data_context.store"  # the module of its stores
# How an expectation says which columns it is about.
ABOUT = ("column", "column_A", "column_B", "column_list")
# What can be asked of hashes: whether they are there, and whether they differ.
OF_HASHES = (
    "expect_column_to_exist",
    "expect_column_values_to_not_be_null",
    "expect_column_values_to_be_null",
    "expect_column_values_to_be_unique",
)
# The words of Great Expectations' own conditions on rows. What is passed through to pandas is run there, as code.
CONDITIONS = ("comparison", "nullity", "and", "or")
# What may be shown of a result: counts, and no value that was observed.
COUNTS = (
    "element_count", "missing_count", "missing_percent", "unexpected_count", "unexpected_percent",
    "unexpected_percent_total", "unexpected_percent_nonmissing",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """One expectation of the suite, as it stands there, and what Great Expectations made of it."""

    type: str
    kwargs: Mapping[str, Any]
    demand: "Demand"

    @property
    def columns(self) -> list[str]:
        """The columns that it is about; none where it is about the table."""
        return list(_columns(self.kwargs))


def asked(spec: Spec, present: Sequence[str]) -> list[Asked]:
    """What the spec's suite asks of rows that have the columns `present`, in the suite's order.

    Raises SpecError, with the line of `expectations`, where the project or the suite is not there or cannot be read,
    and for an expectation that Great Expectations does not know or that no such row could meet.
    """
    assert spec.expectations, "asked only where the spec names a suite"
    each = [_built(entry, spec) for entry in _entries(spec)]
    if not each:
        raise SpecError(f"{_suite(spec)} asks for nothing.", hint="Add an expectation, or take `expectations` out.")
    for one in each:
        _refuse_columns(one, spec, present)
        _refuse_condition(one, spec, present)
    return each


def _entries(spec: Spec) -> list[dict[str, Any]]:
    """The suite's expectations as they are stored."""
    from great_expectations.data_context.types.resource_identifiers import ExpectationSuiteIdentifier

    assert spec.expectations
    wanted, store = spec.expectations.suite, _opened(spec).expectations_store
    names = sorted(".".join(key.to_tuple()) for key in store.list_keys())
    if wanted not in names:
        near = did_you_mean(wanted, names).strip() or f"It has {', '.join(names) or 'none'}."
        raise SpecError(f"{_line(spec)}: project {spec.expectations.project} has no suite {wanted!r}.", hint=near)
    try:
        return list(store.get(ExpectationSuiteIdentifier(wanted))["expectations"])
    except Exception as broken:  # its schema's own; the message may hold what was given
        raise SpecError(
            f"{_suite(spec)} cannot be read ({type(broken).__name__}).",
            hint="Save it again with Great Expectations 1.x.",
        ) from None


def _opened(spec: Spec) -> "EphemeralDataContext":
    """A context that has the project's store of expectations, and all else in memory."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

    config = DataContextConfig(store_backend_defaults=InMemoryStoreBackendDefaults(), analytics_enabled=False)
    config.stores[config.expectations_store_name] = _store(spec)
    try:
        return gx.get_context(mode="ephemeral", project_config=config)
    except Exception as refused:  # whatever a store raises that is not there; the message may hold its address
        raise SpecError(
            f"{_line(spec)}: the store of expectations cannot be opened ({type(refused).__name__}).",
            hint=f"Look at `stores` in {CONFIGURATION}.",
        ) from None


def _store(spec: Spec) -> dict[str, Any]:
    """How the project describes its store of expectations, with a folder that does not hang on where we run."""
    project = project_of(spec)
    said = f"{_line(spec)}: {CONFIGURATION} of {project.name}"
    try:
        described = _described(project)
        store = described["stores"][described["expectations_store_name"]]
        backend = dict(store["store_backend"])
    except (OSError, ValueError, KeyError, TypeError) as broken:
        raise SpecError(
            f"{said} cannot be read ({type(broken).__name__}).", hint="It must be of Great Expectations 1.x."
        ) from None
    for part in (store, backend):
        if not str(part.get("module_name", STORES)).startswith(STORES):
            raise SpecError(f"{said} names a store of its own making.", hint="Use one of Great Expectations' stores.")
    if "base_directory" in backend:
        folder = (project / str(backend["base_directory"])).absolute()
        if not folder.is_dir():  # Great Expectations would make it
            raise SpecError(f"{said} names a store that is no folder.", hint="Correct its base_directory.")
        backend["base_directory"] = str(folder)
    return {**store, "store_backend": {**backend, "suppress_store_backend_id": True}}  # an id would be written there


def _described(project: Path) -> Any:
    from yaml import YAMLError, safe_load

    try:
        return safe_load((project / CONFIGURATION).read_text(encoding="utf-8"))
    except YAMLError as broken:
        raise ValueError("not YAML") from broken


def _built(entry: Mapping[str, Any], spec: Spec) -> Asked:
    """Raises SpecError; Great Expectations itself leaves out what it does not know, with a line in the log."""
    from great_expectations.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    kind = str(entry.get("type"))
    try:
        demand = ExpectationConfiguration(
            type=kind, kwargs=dict(entry["kwargs"]), severity=entry.get("severity"), notes=entry.get("notes")
        ).to_domain_obj()
    except ExpectationNotFoundError:
        raise SpecError(
            f"{_suite(spec)} asks for {kind}, which Great Expectations does not know.",
            hint="Use its own expectations; classes of a project's plugins are not imported.",
        ) from None
    except Exception as refused:  # pydantic's and Great Expectations' own; the message may hold what was given
        raise SpecError(
            f"{_suite(spec)} asks for {kind} in a way that cannot be checked ({type(refused).__name__}).",
            hint="Mend its arguments in the suite.",
        ) from None
    kwargs = demand.configuration.kwargs
    if any(isinstance(value, dict) and "$PARAMETER" in value for value in kwargs.values()):
        raise SpecError(
            f"{_suite(spec)} asks for {kind} with a parameter, which nobody gives here.",
            hint="Write the value itself into the suite.",
        )
    return Asked(kind, kwargs, demand)


def _refuse_columns(one: Asked, spec: Spec, present: Sequence[str]) -> None:
    for name in one.columns:
        _refuse_column(name, one, spec, present, of_hashes=one.type in OF_HASHES)


def _refuse_column(name: str, one: Asked, spec: Spec, present: Sequence[str], *, of_hashes: bool) -> None:
    handled = {column.name: spec.handling(column) for column in spec.columns}
    said = f"{_suite(spec)} asks for {one.type} of column {name!r}, "
    if handled.get(name) == "drop":
        raise SpecError(f"{said}which is dropped at ingest.", hint="Keep the column, or take it out of the suite.")
    if name not in present:
        raise SpecError(f"{said}which the spec does not declare.{did_you_mean(name, present)}")
    if handled.get(name) == "hash" and not of_hashes:
        raise SpecError(
            f"{said}which is hashed at ingest.", hint="Of hashes one can ask whether they are there and differ."
        )


def _refuse_condition(one: Asked, spec: Spec, present: Sequence[str]) -> None:
    """Which rows are asked about must be said in Great Expectations' own words, and without a value of a column that is
    hashed: it would be put on record as it stands, and no hash is like it."""
    waiting = [one.kwargs["row_condition"]] if one.kwargs.get("row_condition") else []
    while waiting:
        condition = waiting.pop()
        if not isinstance(condition, Mapping) or condition.get("type") not in CONDITIONS:
            raise SpecError(
                f"{_suite(spec)} asks for {one.type} with a row_condition in pandas' words, which is run as code.",
                hint="Write it as Great Expectations' Column('x') == 1.",
            )
        waiting += condition.get("conditions", ())
        if "column" in condition:
            there = condition["type"] == "nullity"
            _refuse_column(condition["column"]["name"], one, spec, present, of_hashes=there)


def _columns(kwargs: Mapping[str, Any]) -> Iterator[str]:
    for about in ABOUT:
        match kwargs.get(about):
            case str(name):
                yield name
            case list(names):
                yield from (str(name) for name in names)


def _suite(spec: Spec) -> str:
    assert spec.expectations
    return f"{_line(spec)}: suite {spec.expectations.suite!r}"


def _line(spec: Spec) -> str:
    return where(spec, "expectations")
