"""A spec from its YAML file. Every error is one line that names the file's line, the thing and the fix.

YAML is read as 1.2 reads booleans (`on`, `no` and `yes` are text), without tags that make objects; a key that
stands twice is an error, and aliases cannot multiply a small file into a big one.
"""

import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, get_args, get_origin

from pydantic import BaseModel, ValidationError
from yaml import MappingNode, MarkedYAMLError, Node, SafeLoader, ScalarNode, SequenceNode, YAMLError
from yaml.constructor import ConstructorError

from audit.errors import BadData, SpecError
from audit.events.canonical import canonical, clean, digest_of
from audit.spec.model import (
    ESTIMATORS,
    FLOORS,
    KEPT_BY,
    PART_11,
    Column,
    Dtype,
    Handling,
    SourceTable,
    Spec,
    TargetKind,
    months_kept,
)

if TYPE_CHECKING:
    import polars as pl
    from pydantic_core import ErrorDetails

MAX_NODES = 20_000  # of the document with its aliases followed
MAX_DEPTH = 20
CONFIGURATION = "great_expectations.yml"  # what makes a folder a project of Great Expectations
FOR_EVER = 1 << 20  # months, longer than any time that a spec can name
SCORE = "score"  # the model's own output, among the watched columns
PROBABILITY = "p:"  # and the class: a column of the decisions on several
# What a decision has beside its inputs; nothing that is kept with it may have such a name.
DECISION = ("decision_id", "row", SCORE, "decision", "error", "model", "model_version", "model_digest")

# Polars' words for what is wrong whatever columns the tables have.
_ABOUT_SYNTAX = ("sql parser error", "unsupported", "one (and only one)")
# `user:password@` before the host, as SQLAlchemy reads it: there may be a slash in it. Or a parameter by such a name,
# also within another one, as ODBC has them; `passfile` and `sslkey` name files.
_PASSWORD = re.compile(
    r"[^:/?#]+://(?:[^:/]*:[^@]+@|.*[?&].*(?:password|passwd|passcode|pwd|secret|token|private_key)[^=&]*(?:=|%3D))",
    re.IGNORECASE,
)
_NAME_OF_DATABASE = re.compile(r"[\w-]+")
_NO_TABLE = re.compile(r"relation '([^']*)' was not found")
_READS_FILES = re.compile(r"\bread_\w+\s*\(", re.IGNORECASE)  # Polars' table functions: read_csv('...')
ONLY_SOURCES = "it may read only what stands under `sources`, so that all that is read goes on record."
_SQL_ASIDE = re.compile(r"('(?:[^']|'')*')|--[^\n]*|/\*.*?\*/|[\"`]", re.DOTALL)  # texts; comments, marks around names
_SCAN = re.compile(r"^\s*(?:[A-Z][a-z]+|PYTHON) SCAN\b", re.MULTILINE)  # in a plan: a file that is to be read

# What Polars makes of an SQL expression that looks at its own row alone; whatever else there is looks at others.
_ROW_WISE = {
    "Abs", "Atan2", "Ceil", "Clip", "Coalesce", "Exp", "FillNull", "Floor", "Log", "Log1p", "MaxHorizontal",
    "MinHorizontal", "Negate", "Pow", "Sign", "Sql", "StringExpr", "StructExpr", "TemporalExpr", "ListExpr",
    "Trigonometry",
}  # fmt: skip
_ROW_WISE_BOOLEAN = {"Not", "IsNull", "IsNotNull", "IsNan", "IsNotNan", "IsFinite", "IsInfinite", "IsIn", "IsBetween"}

Keys = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong, and the keys that lead to it."""

    keys: Keys
    what: str


def load_spec(path: str | Path) -> Spec:
    """The spec in the file at `path`. Raises SpecError with the first error and the number of others."""
    return parse_spec(_text_of(Path(path)), str(Path(path).absolute()))


def parse_spec(text: str, name: str) -> Spec:
    """The spec that `text` holds; `name` is its file. Raises SpecError with the first error."""
    spec, errors = _checked(text, name)
    if spec is None or errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise SpecError(errors[0] + more)
    return spec


def spec_errors(path: str | Path) -> list[str]:
    """Every error of the file at `path`, one line each, in the file's order; empty for a good spec.

    Where nothing else is wrong, also the sources that are not there.
    """
    try:
        spec, errors = _checked(_text_of(Path(path)), str(path))
    except SpecError as error:
        return [str(error)]
    return errors if errors or spec is None else [*_missing_sources(spec), *_missing_suite(spec)]


def source_path(table: SourceTable, folder: Path, *, said: str) -> Path:
    """The file of a source, relative to `folder` or its package; errors begin with `said`.

    Raises BadData if it, or the package that should hold it, is not there.
    """
    assert table.file, "a source of a database has no file"
    if table.package:
        try:
            found = importlib.util.find_spec(table.package)  # finds the folder, imports nothing of a top-level package
        except (ModuleNotFoundError, ValueError):
            found = None
        if found is None or not found.submodule_search_locations:
            raise BadData(
                f"{said}: package {table.package!r} is not installed.", hint=f"Run `pip install {table.package}`."
            )
        folder = Path(next(iter(found.submodule_search_locations)))
    if not (folder / table.file).exists():
        raise BadData(f"{said}: {table.file} does not exist.", hint="Correct `file`, or put it there.")
    return folder / table.file


def folder_of(spec: Spec) -> Path:
    """The folder that paths in the spec are relative to."""
    return Path(spec.file).parent if spec.file else Path()


def project_of(spec: Spec) -> Path:
    """The folder of the user's Great Expectations project. Raises SpecError if it is none."""
    assert spec.expectations, "asked only where the spec names a suite"
    project = folder_of(spec) / spec.expectations.project
    if not (project / CONFIGURATION).is_file():
        raise SpecError(
            f"{where(spec, 'expectations')}: {spec.expectations.project or '.'} is no Great Expectations project.",
            hint=f"Name the folder that holds {CONFIGURATION}, as seen from the spec.",
        )
    return project


def spec_digest(spec: Spec) -> str:
    """SHA-256 over the spec's content with every default filled in; comments and file do not count."""
    return digest_of(canonical(clean(spec.model_dump(mode="json"))))


def line_of(path: str | Path, *keys: str | int) -> int | None:
    """The line at which `keys` lead to something, for example ("columns", 3, "name"); None if it cannot be told."""
    try:
        node = _composed(_text_of(Path(path)), str(path))
    except SpecError:
        return None
    return _Lines(node).of(keys)


def where(spec: Spec, *keys: str | int) -> str:
    """`flights.yaml:14`, or the spec's name where its file is not known."""
    if spec.file is None:
        return spec.name
    line = line_of(spec.file, *keys)
    return f"{Path(spec.file).name}:{line}" if line else Path(spec.file).name


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing where no known name is near."""
    near = _nearest(name, known)
    return f" Did you mean {near!r}?" if near else ""


def _nearest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(name, list(known), n=1)), None)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path} does not exist.", hint="Name a spec, for example flows/specs/flights.yaml.") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path.name} is not UTF-8 text.", hint="Save it as UTF-8.") from None
    except OSError as error:
        raise SpecError(f"{path} cannot be read ({error.strerror}).") from None


def _missing_sources(spec: Spec) -> Iterator[str]:
    for name, table in spec.sources.items():
        try:
            if table.file:
                source_path(table, folder_of(spec), said=where(spec, "sources", name))
        except BadData as missing:
            yield str(missing)


def _missing_suite(spec: Spec) -> Iterator[str]:
    """A project that is not there, or a suite where suites lie by default; other stores are opened at validation."""
    if not spec.expectations:
        return
    try:
        suites = project_of(spec) / "expectations"
    except SpecError as missing:
        yield str(missing)
        return
    wanted, known = spec.expectations.suite, [path.stem for path in suites.glob("*.json")]
    if known and wanted not in known and "." not in wanted:
        project = f"project {spec.expectations.project}"
        yield f"{where(spec, 'expectations')}: {project} has no suite {wanted!r}.{did_you_mean(wanted, known)}"


def _checked(text: str, name: str) -> tuple[Spec | None, list[str]]:
    """The spec where its sections are well formed, and all that is wrong, in the file's order."""
    node = _composed(text, name)
    try:
        spec = Spec.model_validate(_constructed(node, name)).loaded_from(name)
        findings = list(_contradictions(spec))
    except ValidationError as error:
        spec, findings = None, list(_of_pydantic(error.errors()))
    lines = _Lines(node)
    placed = sorted({(lines.of(finding.keys), finding.what) for finding in findings})
    return spec, [f"{Path(name).name}:{line}: {what}" for line, what in placed]


class _Loader(SafeLoader):
    """PyYAML reads 1.1, where `on` and `no` are booleans; here only true and false are. A 30 February has a line."""

    def construct_yaml_timestamp(self, node: ScalarNode) -> date:
        try:
            return super().construct_yaml_timestamp(node)
        except ValueError as error:
            raise ConstructorError(None, None, str(error), node.start_mark) from None


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_yaml_timestamp)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in SafeLoader.yaml_implicit_resolvers.items()
}


def _composed(text: str, name: str) -> MappingNode:
    """The document's nodes, which know their lines; sound enough to be constructed."""
    try:
        node = _Loader(text).get_single_node()
    except (YAMLError, RecursionError) as error:
        raise _not_yaml(error, name) from None
    if node is None:
        raise SpecError(f"{Path(name).name} is empty.", hint="Begin from flows/specs/flights.yaml.")
    if not isinstance(node, MappingNode):
        raise SpecError(f"{Path(name).name}:1: a spec is a mapping.", hint="Begin with `name: ...`.")
    for keys, visited in zip(_walk(node, name), range(MAX_NODES + 1), strict=False):
        if visited == MAX_NODES or len(keys) > MAX_DEPTH:
            raise SpecError(f"{Path(name).name}: its aliases or levels multiply beyond reason.", hint="Write it out.")
    return node


def _constructed(node: MappingNode, name: str) -> object:
    try:
        return _Loader("").construct_document(node)
    except YAMLError as error:
        raise _not_yaml(error, name) from None


def _not_yaml(error: Exception, name: str) -> SpecError:
    file = Path(name).name
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return SpecError(f"{file}:{error.problem_mark.line + 1}: not YAML that a spec may use: {error.problem}.")
    return SpecError(f"{file}: not YAML that a spec may use: {str(error).splitlines()[0]}.")


def _walk(node: Node, name: str, keys: Keys = ()) -> Iterator[Keys]:
    """The keys of every node, aliases followed. Raises SpecError at a key that stands twice."""
    yield keys
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, name, (*keys, index))
    if isinstance(node, MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            text = key.value if isinstance(key, ScalarNode) else "?"
            if text in seen:
                raise SpecError(f"{Path(name).name}:{key.start_mark.line + 1}: {text!r} stands twice. Remove one.")
            seen.add(text)
            yield from _walk(value, name, (*keys, text))


class _Lines:
    """Where the keys of a document stand."""

    def __init__(self, root: MappingNode) -> None:
        self._root = root

    def of(self, keys: Sequence[str | int]) -> int:
        """Line of what `keys` lead to, or of the last of them that is there."""
        node: Node = self._root
        line = node.start_mark.line + 1
        for key in keys:
            found = _child(node, key)
            if found is None:
                break
            mark, node = found
            line = mark.start_mark.line + 1
        return line


def _child(node: Node, key: str | int) -> tuple[Node, Node] | None:
    """The node that carries the line, and the one that carries the value."""
    if isinstance(node, SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key], node.value[key]
    if isinstance(node, MappingNode):
        return next(((k, v) for k, v in node.value if isinstance(k, ScalarNode) and k.value == str(key)), None)
    return None


def _of_pydantic(details: "list[ErrorDetails]") -> Iterator[Finding]:
    """One finding for each; a key that is missing because it is misspelt is told once, as misspelt."""
    misspelt = {
        (*keys[:-1], near)
        for detail in details
        if detail["type"] == "extra_forbidden"
        and (near := _nearest(str((keys := detail["loc"])[-1]), _fields_at(keys)))
    }
    for detail in details:
        if detail["type"] != "missing" or detail["loc"] not in misspelt:
            yield _finding(detail)


def _finding(detail: "ErrorDetails") -> Finding:
    keys: Keys = detail["loc"]
    last, shown = str(keys[-1]) if keys else "", _dotted(keys)
    match detail["type"]:
        case "missing":
            return Finding(keys[:-1], f"{shown} is missing.")
        case "extra_forbidden":
            return Finding(keys, f"{last!r} is no key that a spec knows.{did_you_mean(last, _fields_at(keys))}")
        case "literal_error":
            allowed = str(detail.get("ctx", {}).get("expected", ""))
            choices = allowed.replace(" or ", ", ").replace("'", "").split(", ")
            given = str(detail["input"])
            return Finding(keys, f"{shown}: {given!r} is none of {', '.join(choices)}.{did_you_mean(given, choices)}")
        case "string_pattern_mismatch" if keys[:2] == ("alerts", "to"):
            named = "AUDIT_ALERT_URL, `oncall` of AUDIT_ALERT_URL_ONCALL, `slack-webhook/oncall` of a Prefect block"
            return Finding(keys, f"{shown}: a target goes by name, never by address: `default` is that of {named}.")
        case "string_pattern_mismatch" if keys[:1] == ("retention",):
            return Finding(keys, f"{shown}: {detail['input']!r} is no time. Write `25 months`, `2 years` or `forever`.")
        case "string_pattern_mismatch":
            return Finding(keys, f"{shown}: use small letters, digits, - and _, beginning with a letter, at most 40.")
    return Finding(keys, f"{shown}: {detail['msg'][:1].lower()}{detail['msg'][1:]}.")


def _dotted(keys: Keys) -> str:
    return ".".join(str(key + 1) if isinstance(key, int) else key for key in keys)


def _fields_at(keys: Keys) -> list[str]:
    """The keys that may stand where the last of `keys` does."""
    part: type[BaseModel] = Spec
    named_by_user = False
    for key in keys[:-1]:
        if isinstance(key, int) or named_by_user or key not in part.model_fields:
            named_by_user = False
            continue
        annotation = part.model_fields[key].annotation
        named_by_user = get_origin(annotation) is dict
        part = _section(annotation) or part
    return list(part.model_fields)


def _section(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in get_args(annotation) if (found := _section(argument))), None)


def _contradictions(spec: Spec) -> Iterator[Finding]:
    """What is well formed and cannot be meant."""
    yield from _double_names(spec)
    yield from _taken_names(spec)
    yield from _unknown_names(spec)
    yield from _bad_limits(spec)
    yield from _bad_sources(spec)
    yield from _bad_sql(spec)
    yield from _bad_target(spec)
    yield from _bad_generalising(spec)
    yield from leaks(spec)
    yield from _protected_seen(spec)
    yield from _below_the_law(spec)
    yield from _forgotten_findings(spec)


def _double_names(spec: Spec) -> Iterator[Finding]:
    seen: set[str] = set()
    for keys, name in _defined(spec):
        if name in seen:
            yield Finding(keys, f"column {name!r} is declared twice. Remove or rename one.")
        if name == SCORE:
            yield Finding(keys, f"{SCORE!r} is the name of the model's output. Rename the column.")
        if cannot_be_named(name):
            yield Finding(keys, f"no column can be called {name!r}. Rename it in the source.")
        seen.add(name)


def is_of_decisions(name: str, kind: TargetKind) -> bool:
    """Whether the decisions on a target of this kind have a column of that name."""
    return name in DECISION or (kind == "multiclass" and name.startswith(PROBABILITY))


def _taken_names(spec: Spec) -> Iterator[Finding]:
    """Features, keys and times that would stand beside a column of ours in the decisions."""
    kept = {*spec.features(), *spec.row_keys(), spec.event_time}
    for keys, name in _defined(spec):
        if name in kept and name != SCORE and is_of_decisions(name, spec.target.kind):
            yield Finding(keys, f"{name!r} is a column of ours in the decisions. Give yours another name.")


def cannot_be_named(name: str) -> bool:
    """Whether no column can have that name: Polars takes it for a pattern of names, and would read other columns, or
    it is empty, or has a NUL, which sets our own columns apart."""
    return not name or name == "*" or (name.startswith("^") and name.endswith("$")) or "\x00" in name


def _defined(spec: Spec) -> Iterator[tuple[Keys, str]]:
    for index, column in enumerate(spec.columns):
        yield ("columns", index, "name"), column.name
    for index, derived in enumerate(spec.derive):
        yield ("derive", index, "name"), derived.name


def _unknown_names(spec: Spec) -> Iterator[Finding]:
    """Names that point at no column, or at one that ingest drops."""
    declared = {column.name: spec.handling(column) for column in spec.columns}
    known = [*declared, *(derived.name for derived in spec.derive)]
    mentions: list[tuple[Keys, str]] = [(("target", "column"), spec.target.column)]
    mentions += [(("event_time",), spec.event_time)] if spec.event_time else []
    mentions += [(("slices", index), name) for index, name in enumerate(spec.slices)]
    mentions += [(("drift", "watch", i), name) for i, name in enumerate(spec.drift.watch) if name != SCORE]
    mentions += [(("columns", i), column.name) for i, column in enumerate(spec.columns) if column.role == "protected"]
    for keys, name in mentions:
        if name not in known:
            yield Finding(keys, f"column {name!r} is not declared.{did_you_mean(name, known)}")
        elif declared.get(name) == "drop":
            yield Finding(keys, f"column {name!r} is dropped at ingest. Keep or hash it, or leave it out here.")
    if spec.entity_key is not None and spec.entity_key not in declared:
        yield Finding(
            ("entity_key",), f"column {spec.entity_key!r} is not declared.{did_you_mean(spec.entity_key, declared)}"
        )
    if spec.event_time in declared:
        yield from _bad_event_time(spec)


def _bad_event_time(spec: Spec) -> Iterator[Finding]:
    index, column = next((i, c) for i, c in enumerate(spec.columns) if c.name == spec.event_time)
    if column.dtype not in ("date", "datetime"):
        yield Finding(("columns", index, "dtype"), f"the event time {column.name!r} must be a date or datetime.")
    if spec.handling(column) == "hash" or column.known_at == "outcome":
        yield Finding(("columns", index), f"the event time {column.name!r} must be kept, and known at the decision.")


def _bad_limits(spec: Spec) -> Iterator[Finding]:
    for index, column in enumerate(spec.columns):
        keys: Keys = ("columns", index)
        if not 0 <= column.nulls <= 1:
            yield Finding((*keys, "nulls"), f"nulls of {column.name!r} is a share between 0 and 1.")
        if column.min is not None and column.max is not None and column.min > column.max:
            yield Finding((*keys, "min"), f"min of {column.name!r} is above its max. Swap them.")
        if (column.min is not None or column.max is not None) and column.dtype not in ("integer", "float"):
            yield Finding((*keys, "dtype"), f"min and max need a number, {column.name!r} is a {column.dtype}.")
    if spec.rows.max is not None and spec.rows.min > spec.rows.max:
        yield Finding(("rows", "min"), "rows.min is above rows.max. Swap them.")
    if spec.schedule and spec.event_time is None:
        yield Finding(("schedule",), "a schedule walks through months, and there is no `event_time`. Name it.")
    if spec.schedule and spec.schedule.until is not None and spec.schedule.until < spec.schedule.train_from:
        yield Finding(("schedule", "until"), "schedule.until is before schedule.train_from.")
    if not spec.features():
        yield Finding(("columns",), "no column is a feature. Give one `role: feature`.")


def _bad_sources(spec: Spec) -> Iterator[Finding]:
    for name, table in spec.sources.items():
        keys: Keys = ("sources", name)
        if bool(table.file) == bool(table.database):
            yield Finding(keys, f"source {name!r} is a `file` or comes from a `database`. Give one of them.")
        elif table.database is None and (table.table or table.query):
            yield Finding(keys, f"`table` and `query` of source {name!r} need a `database`.")
        elif table.database is not None and (table.table is None) == (table.query is None):
            yield Finding(keys, f"source {name!r} needs a `table` or a `query` of its database, one of them.")
        elif table.database is not None and (table.package or table.format or table.null_values):
            yield Finding(keys, f"`package`, `format` and `null_values` of source {name!r} are for files.")
        if table.decimal_comma and (table.separator or ",") == ",":
            yield Finding((*keys, "decimal_comma"), "a comma cannot both part columns and decimals. Name `separator`.")
        if table.database and has_password(table.database):
            yield Finding(
                (*keys, "database"),
                f"a password has no place in a spec. Write `database: {name}` and put the address into "
                f"AUDIT_SOURCE_URL_{name.upper()}.",
            )
        elif table.database and "://" not in table.database and not _NAME_OF_DATABASE.fullmatch(table.database):
            fix = "Write it as SQLAlchemy does, postgresql://host/name, or the name of one in AUDIT_SOURCE_URL_<NAME>."
            yield Finding((*keys, "database"), f"the database of source {name!r} is no URL. {fix}")


def has_password(address: str) -> bool:
    """Whether an SQLAlchemy URL holds one, before the host or among its parameters."""
    return bool(_PASSWORD.match(address))


def _bad_target(spec: Spec) -> Iterator[Finding]:
    kind, estimator = spec.target.kind, spec.estimator.kind
    if estimator in ESTIMATORS and kind not in ESTIMATORS[estimator]:
        fitting = ", ".join(name for name, kinds in ESTIMATORS.items() if kind in kinds)
        yield Finding(("estimator", "kind"), f"{estimator} knows no {kind} target. Choose one of {fitting}.")
    elif estimator not in ESTIMATORS and not _is_dotted(estimator):
        yield Finding(
            ("estimator", "kind"),
            f"{estimator!r} is none of {', '.join(ESTIMATORS)}, nor the dotted path of a class of yours."
            f"{did_you_mean(estimator, ESTIMATORS)}",
        )
    if spec.threshold is not None and kind != "regression" and not 0 < spec.threshold < 1:
        yield Finding(("threshold",), "threshold is a probability between 0 and 1.")
    yield from _bad_outcome(spec)
    others = {"regression": ("min_auc", "min_accuracy", "max_calibration_error"), "binary": (), "multiclass": ()}[kind]
    others = others or ("min_r2", "max_mae", "max_rmse")
    if kind == "multiclass" or (kind == "regression" and spec.threshold is None):
        others = (*others, "max_selection_gap", "max_recall_gap")
    for gate in others:
        if getattr(spec.gates, gate) is not None:
            yield Finding(("gates", gate), f"{gate} says nothing of a {kind} target. Take it out.")


def _is_dotted(path: str) -> bool:
    return "." in path and all(part.isidentifier() for part in path.split("."))


def _bad_outcome(spec: Spec) -> Iterator[Finding]:
    """A target of a type that its kind cannot have: to find that out by its values would show them."""
    name, positive = spec.target.column, spec.target.positive
    dtypes = {column.name: column.dtype for column in spec.columns} | {one.name: one.dtype for one in spec.derive}
    dtype = dtypes.get(name)
    if dtype is None:
        return
    if spec.target.kind == "regression" and dtype not in ("integer", "float"):
        yield Finding(("target", "kind"), f"a regression is of a number, and {name!r} is a {dtype}.")
    if spec.target.kind == "binary" and not _can_be(positive, dtype):
        yield Finding(
            ("target", "positive"), f"no {dtype} is {positive!r}. Let `positive` be a value that {name!r} can have."
        )


def _can_be(positive: str | int | bool, dtype: Dtype) -> bool:
    match dtype:
        case "boolean":
            return positive in (True, False)
        case "string":
            return not isinstance(positive, bool)
        case "integer" | "float":
            return not isinstance(positive, str)
    return False


def _bad_generalising(spec: Spec) -> Iterator[Finding]:
    for index, column in enumerate(spec.columns):
        keys: Keys = ("columns", index)
        if column.date_format and column.dtype not in ("date", "datetime"):
            yield Finding((*keys, "date_format"), f"{column.name!r} is a {column.dtype}, date_format is for dates.")
        elif column.date_format and not _is_date_format(column.date_format):
            fix = "Write it as strftime does, for example %d/%m/%Y %H:%M."
            yield Finding((*keys, "date_format"), f"date_format of {column.name!r} tells no whole moment. {fix}")
        if column.generalise:
            yield from _bad_generalised((*keys, "generalise"), column, spec)
        elif column.handling == "generalise":
            yield Finding((*keys, "handling"), f"say how {column.name!r} is generalised, under `generalise`.")


def _is_date_format(form: str) -> bool:
    """Whether it reads back the moment that it writes; of hours alone, say, nobody knows the minute."""
    import polars as pl

    moment = pl.Series([datetime(2001, 1, 1)])
    try:
        return moment.dt.to_string(form).str.to_datetime(form, strict=False).to_list() == [datetime(2001, 1, 1)]
    except pl.exceptions.PolarsError:
        return False


# Which dtypes a way of generalising is for.
_GENERALISES = {
    "width": ("integer", "float"), "edges": ("integer", "float"), "prefix": ("string",), "to": ("date", "datetime"),
}  # fmt: skip


def _bad_generalised(keys: Keys, column: Column, spec: Spec) -> Iterator[Finding]:
    assert column.generalise
    ways = [way for way, value in column.generalise.model_dump().items() if value is not None]
    if len(ways) != 1:
        yield Finding(keys, f"{column.name!r} is generalised in one way: {', '.join(_GENERALISES)}.")
    elif column.dtype not in _GENERALISES[ways[0]]:
        yield Finding(keys, f"{ways[0]!r} is for {' or '.join(_GENERALISES[ways[0]])}, {column.name!r} is none.")
    if column.handling not in (None, "generalise"):
        yield Finding(keys, f"{column.name!r} is both generalised and to {column.handling}. Take one out.")
    edges, prefix = column.generalise.edges, column.generalise.prefix
    if edges is not None and (not edges or list(edges) != sorted(set(edges))):
        yield Finding((*keys, "edges"), f"the edges of {column.name!r} must rise.")
    if prefix is not None and any(len(str(value)) > prefix for value in column.values or ()):
        yield Finding(
            keys, f"of {column.name!r} {prefix} letters are left, and `values` has longer ones. Shorten them."
        )
    if column.unique:
        yield Finding(keys, f"generalised values of {column.name!r} are not unique. Take `unique` out.")
    if column.name == spec.entity_key:
        yield Finding(keys, f"the entity key {column.name!r} is hashed, not generalised.")


def _bad_sql(spec: Spec) -> Iterator[Finding]:
    if spec.query is None and len(spec.sources) > 1:
        yield Finding(("sources",), "more than one source needs a `query` that joins them.")
    if spec.query is not None and (problem := _query_problem(spec)):
        yield Finding(("query",), f"query: {problem}")
    handled = {column.name: spec.handling(column) for column in spec.columns}
    known = list(handled)
    for index, derived in enumerate(spec.derive):
        keys: Keys = ("derive", index, "sql")
        parsed = _parsed(derived.sql)
        if isinstance(parsed, str):
            yield Finding(keys, f"sql of {derived.name!r}: {parsed}.")
        else:
            yield from _bad_expression(keys, derived.name, parsed, known, handled)
        known.append(derived.name)


def _bad_expression(
    keys: Keys, name: str, parsed: "pl.Expr", known: Sequence[str], handled: Mapping[str, Handling]
) -> Iterator[Finding]:
    for used in dict.fromkeys(parsed.meta.root_names()):
        if used not in known:
            near = did_you_mean(used, known)
            yield Finding(keys, f"sql of {name!r}: column {used!r} is not declared before it.{near}")
        elif handled.get(used) == "drop":
            yield Finding(keys, f"sql of {name!r}: column {used!r} is dropped at ingest.")


def _query_problem(spec: Spec) -> str | None:
    """What the SQL parser says against the query; whether its columns exist is seen at ingest."""
    import polars as pl

    try:
        if reads_files(spec.query or "", {name: {} for name in spec.sources}):
            return ONLY_SOURCES
        pl.SQLContext({name: pl.LazyFrame() for name in spec.sources}).execute(spec.query or "").collect_schema()
    except (pl.exceptions.SQLSyntaxError, pl.exceptions.SQLInterfaceError) as error:
        said = first_line(error)
        if missing := _NO_TABLE.match(said):
            return f"{missing[1]!r} is no source.{did_you_mean(missing[1], spec.sources)}"
        return f"{said}." if said.startswith(_ABOUT_SYNTAX) else None
    except pl.exceptions.PolarsError:
        return None
    return None


def refuse_files(spec: Spec, tables: "Mapping[str, Mapping[str, pl.DataType]]") -> None:
    """Raise SpecError if the query reads a file beside `tables`, which are the declared ones with their columns."""
    if spec.query and reads_files(spec.query, tables):
        raise SpecError(f"{where(spec, 'query')}: query: {ONLY_SOURCES}")


def reads_files(query: str, tables: "Mapping[str, Mapping[str, pl.DataType]]") -> bool:
    """Whether `query` names a function that reads a file, or its plan scans anything but `tables`; they stand empty and
    in memory here."""
    import polars as pl

    if _READS_FILES.search(_SQL_ASIDE.sub(r"\1", query)):
        return True
    plan = pl.SQLContext({name: pl.LazyFrame(schema=dict(columns)) for name, columns in tables.items()}).execute(
        query, eager=False
    )
    return bool(_SCAN.search(plan.explain(optimized=False)))


def _parsed(sql: str) -> "pl.Expr | str":
    """The expression, or what the parser says against it."""
    import polars as pl

    try:
        return pl.sql_expr(sql)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        return first_line(error)


def first_line(error: Exception) -> str:
    """What Polars says before it lists all that it knows."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return said.partition("; valid columns")[0].rstrip(".")


def leaks(spec: Spec) -> Iterator[Finding]:
    """Features that are known only after the outcome, by themselves or through what they are derived from; and what
    hides it: columns picked by a pattern, sums or windows over rows, later ones too."""
    yield from _hidden_looks(spec)
    late: dict[str, str] = {column.name: column.name for column in spec.columns if column.known_at == "outcome"}
    for index, column in enumerate(spec.columns):
        if column.role == "feature" and column.name in late:
            yield Finding(
                ("columns", index, "name"),
                f"{column.name!r} is known only at the outcome, so it cannot be a feature. Give it `role: info`.",
            )
    for index, derived in enumerate(spec.derive):
        parsed = _parsed(derived.sql)
        used = [] if isinstance(parsed, str) else parsed.meta.root_names()
        source = derived.name if derived.known_at == "outcome" else next((late[u] for u in used if u in late), None)
        if source:
            late[derived.name] = source
        if source and derived.role == "feature":
            known = "is known" if source == derived.name else f"uses {source!r}, which is known"
            yield Finding(
                ("derive", index, "name"),
                f"{derived.name!r} {known} only at the outcome, so it cannot be a feature. Give it `role: info`.",
            )
    yield from _untold_target(spec, late)


def _hidden_looks(spec: Spec) -> Iterator[Finding]:
    """Expressions that name no column, and features or targets that come from other rows than their own."""
    wide: set[str] = set()
    for index, derived in enumerate(spec.derive):
        keys: Keys = ("derive", index, "sql")
        parsed = _parsed(derived.sql)
        if isinstance(parsed, str):
            continue
        beyond = set(_beyond_its_row(json.loads(parsed.meta.serialize(format="json"))))
        if "Selector" in beyond:
            yield Finding(keys, f"sql of {derived.name!r} picks columns by a pattern. Write their names.")
        elif beyond or wide.intersection(parsed.meta.root_names()):
            wide.add(derived.name)
            if derived.role in ("feature", "target"):
                yield Finding(
                    keys, f"sql of {derived.name!r} looks at other rows, later ones too. Use a row's own columns only."
                )


def _beyond_its_row(node: object) -> Iterator[str]:
    """What in an expression, as Polars serialises it, is not of one row and of columns that it names."""
    match node:
        case {"Column": _} | {"Literal": _}:
            return
        case {"BinaryExpr": {"left": left, "right": right}}:
            parts = [left, right]
        case {"Ternary": {"predicate": predicate, "truthy": truthy, "falsy": falsy}}:
            parts = [predicate, truthy, falsy]
        case {"Cast": {"expr": inner}} | {"Alias": [inner, *_]}:
            parts = [inner]
        case {"Function": {"input": list(parts), "function": function}}:
            if not _is_row_wise(function):
                yield "Function"
        case dict():
            yield from (str(kind) for kind in node)
            return
        case _:
            yield str(node)
            return
    for part in parts:
        yield from _beyond_its_row(part)


def _is_row_wise(function: object) -> bool:
    match function:
        case {"Boolean": kind}:
            return (kind if isinstance(kind, str) else next(iter(kind))) in _ROW_WISE_BOOLEAN
        case {"Bitwise": kind}:
            return bool(kind == "CountOnes")
        case {"StringExpr": {"ConcatVertical": _}}:
            return False
        case dict():
            return set(function) <= _ROW_WISE
    return function in _ROW_WISE


def _untold_target(spec: Spec, late: dict[str, str]) -> Iterator[Finding]:
    name = spec.target.column
    keys = next((keys for keys, defined in _defined(spec) if defined == name), None)
    if keys is None:
        return
    if spec.target.column in spec.features():
        yield Finding(keys, f"the target {name!r} cannot be a feature. Give it `role: target`.")
    elif name not in late:
        yield Finding(keys, f"the target {name!r} is known only afterwards. Give it `known_at: outcome`.")


def _protected_seen(spec: Spec) -> Iterator[Finding]:
    """Features that come from a protected column, which no model may see."""
    hidden = {name: name for name in spec.protected()}
    for index, derived in enumerate(spec.derive):
        parsed = _parsed(derived.sql)
        used = [] if isinstance(parsed, str) else parsed.meta.root_names()
        source = next((hidden[name] for name in used if name in hidden), None)
        if source:
            hidden.setdefault(derived.name, source)
        if source and derived.role == "feature":
            yield Finding(
                ("derive", index, "name"),
                f"{derived.name!r} uses {source!r}, which is protected, so it cannot be a feature.",
            )


def _below_the_law(spec: Spec) -> Iterator[Finding]:
    """Payloads that would go before a law that the spec is under, or the records that they are about, let them."""
    asked = spec.retention
    floors = [FLOORS[regime] for regime in asked.regimes if regime in FLOORS]
    if asked.records:
        floors.append((months_kept(asked.records) or FOR_EVER, "`records`, the life of the records themselves"))
    elif "part-11" in asked.regimes:
        what = f"{PART_11} has an audit trail kept as long as the records that it is about."
        yield Finding(("retention", "regimes"), f"{what} Say how long: `records: 10 years`.")
    for key in KEPT_BY:
        kept = getattr(asked, key)
        for least, clause in floors:
            if (months_kept(kept) or FOR_EVER) < least:
                most = "for ever" if least == FOR_EVER else f"for {least} months at least"
                yield Finding(("retention", key), f"{key}: {kept} is too short. Keep them {most}, by {clause}.")


def _forgotten_findings(spec: Spec) -> Iterator[Finding]:
    """Decisions that would be kept when it is not known any more that somebody looked at them: they would be looked at
    once more."""
    asked = spec.retention
    if (months_kept(asked.findings) or FOR_EVER) < (months_kept(asked.decisions) or FOR_EVER):
        what = f"findings: {asked.findings} is shorter than decisions: {asked.decisions}, which they are about."
        yield Finding(("retention", "findings"), f"{what} Keep them as long.")
