"""A spec's errors: one line that names the file's line, the thing and the fix."""

import pickle
from pathlib import Path

import pytest
import yaml

from audit.errors import SpecError
from audit.spec.load import line_of, load_spec, parse_spec, spec_digest, spec_errors, where
from audit.spec.model import Spec

FLIGHTS = Path(__file__).parents[3] / "flows" / "specs" / "flights.yaml"

TRIPS = """\
name: trips
title: Trips that take too long
sources:
  trips: {file: trips.csv}
event_time: started
entity_key: rider
columns:
  - {name: started, dtype: datetime, role: time}
  - {name: rider, dtype: string, role: key, pii: quasi}
  - {name: phone, dtype: string, pii: direct, role: info}
  - {name: miles, dtype: float, min: 0}
  - {name: minutes, dtype: float, role: info, known_at: outcome}
  - {name: zone, dtype: string}
derive:
  - {name: late, sql: minutes > 30, dtype: boolean, role: target, known_at: outcome}
  - {name: hour, sql: EXTRACT(hour FROM started), dtype: integer}
target: {column: late}
drift:
  watch: [miles, zone, score]
  share: 0.5
slices: [zone]
schedule: {train_from: 2024-01-01, train_months: 3}
alerts:
  on: [drift]
"""


def changed(old: str, new: str) -> str:
    assert TRIPS.count(old) == 1, old
    return TRIPS.replace(old, new)


def error_of(text: str) -> str:
    with pytest.raises(SpecError) as raised:
        parse_spec(text, "/home/anna/trips.yaml")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_spec_that_ships_is_without_error() -> None:
    assert spec_errors(FLIGHTS) == []
    assert "arr_delay" not in load_spec(FLIGHTS).features()


def test_a_good_spec_knows_its_sections_and_reads_on_as_a_word() -> None:
    spec = parse_spec(TRIPS, "trips.yaml")

    assert spec.features() == ["miles", "zone", "hour"]
    assert spec.alerts.on == ("drift",)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("on: [drift]", "to: ['json://s3cr3t@x']", "trips.yaml:24: alerts.to.1: a target goes by name, never"),
        ("title: Trips", "titel: Trips", "trips.yaml:2: 'titel' is no key that a spec knows. Did you mean 'title'?"),
        ("title: Trips that take too long\n", "", "trips.yaml:1: title is missing."),
        (
            "name: miles, dtype",
            "name: miles, dtpye",
            "trips.yaml:11: 'dtpye' is no key that a spec knows. Did you mean",
        ),
        (
            "{file: trips.csv}",
            "{fiel: trips.csv}",
            "trips.yaml:4: 'fiel' is no key that a spec knows. Did you mean 'file'",
        ),
        ("dtype: float, min: 0", "dtype: flaot, min: 0", "trips.yaml:11: columns.4.dtype: 'flaot' is none of"),
        ("  share: 0.5\n", "  share: 2\n", "trips.yaml:20: drift.share: input should be less than or equal to 1."),
        ("event_time: started", "event_time: startet", "trips.yaml:5: column 'startet' is not declared. Did you mean"),
        ("entity_key: rider", "entity_key: ridr", "trips.yaml:6: column 'ridr' is not declared. Did you mean 'rider'?"),
        ("{column: late}", "{column: lat}", "trips.yaml:17: column 'lat' is not declared. Did you mean 'late'?"),
        ("[miles, zone, score]", "[mils, zone, score]", "trips.yaml:19: column 'mils' is not declared. Did you mean"),
        ("slices: [zone]", "slices: [zon]", "trips.yaml:21: column 'zon' is not declared. Did you mean 'zone'?"),
        ("slices: [zone]", "slices: [phone]", "trips.yaml:21: column 'phone' is dropped at ingest."),
        ("FROM started)", "FROM startd)", "trips.yaml:16: sql of 'hour': column 'startd' is not declared before it."),
        ("FROM started)", "FROM phone)", "trips.yaml:16: sql of 'hour': column 'phone' is dropped at ingest."),
        ("FROM started)", "FROM started) - AVG(miles) OVER ()", "trips.yaml:16: sql of 'hour' looks at other rows"),
        ("sql: EXTRACT(hour FROM started)", "sql: COLUMNS('m.*')", "trips.yaml:16: sql of 'hour' picks columns by"),
        ("sql: minutes > 30", "sql: minutes >", "trips.yaml:15: sql of 'late': unable to parse"),
        ("name: hour, sql", "name: model, sql", "trips.yaml:16: 'model' is a column of ours in the decisions."),
        ("name: zone, dtype", "name: miles, dtype", "trips.yaml:13: column 'miles' is declared twice."),
        ("name: hour, sql", "name: score, sql", "trips.yaml:16: 'score' is the name of the model's output."),
        ("name: zone, dtype", "name: '*', dtype", "trips.yaml:13: no column can be called '*'. Rename it"),
        ("name: zone, dtype", "name: ^pho.*$, dtype", "trips.yaml:13: no column can be called '^pho.*$'."),
        ("name: zone, dtype", "name: '', dtype", "trips.yaml:13: no column can be called ''."),
        ("name: hour, sql", 'name: "\\0bad miles", sql', "trips.yaml:16: no column can be called '\\x00bad miles'."),
        ("{column: late}", "{column: late, positive: 'true'}", "trips.yaml:17: no boolean is 'true'. Let `positive`"),
        ("{column: late}", "{column: late, positive: 2}", "trips.yaml:17: no boolean is 2."),
        (
            "{column: late}",
            "{column: late, kind: regression}",
            "trips.yaml:17: a regression is of a number, and 'late'",
        ),
        ("min: 0}", "min: 9, max: 1}", "trips.yaml:11: min of 'miles' is above its max."),
        ("dtype: datetime", "dtype: string", "trips.yaml:8: the event time 'started' must be a date or datetime."),
        ("name: trips\n", "name: Trips\n", "trips.yaml:1: name: use small letters, digits"),
        ("trips: {file: trips.csv}", "trips: {file: a.csv}\n  b: {file: b.csv}", "trips.yaml:3: more than one source"),
        ("train_months: 3", "train_months: x", "trips.yaml:22: schedule.train_months: input should be a valid integer"),
        ("title: Trips", "title: [Trips", "trips.yaml:3: not YAML that a spec may use"),
        ("title: Trips", "title: !!python/object:os.system Trips", "trips.yaml:2: not YAML that a spec may use"),
        ("2024-01-01", "2024-02-30", "trips.yaml:22: not YAML that a spec may use: day is out of range for month."),
        ("title: Trips", "name: twice\ntitle: Trips", "trips.yaml:2: 'name' stands twice. Remove one."),
    ],
    ids=lambda value: value[:40],
)
def test_an_error_names_line_thing_and_fix(old: str, new: str, expected: str) -> None:
    assert error_of(changed(old, new)).startswith(expected)


@pytest.mark.parametrize(
    ("old", "new", "leaking"),
    [
        (
            "name: minutes, dtype: float, role: info",
            "name: minutes, dtype: float, role: feature",
            "'minutes' is known only",
        ),
        ("sql: EXTRACT(hour FROM started), dtype: integer", "sql: minutes * 2, dtype: float", "'hour' uses 'minutes'"),
        (
            "  - {name: hour, sql: EXTRACT(hour FROM started), dtype: integer}",
            "  - {name: half, sql: minutes, dtype: float, role: info}\n  - {name: hour, sql: half + 1, dtype: float}",
            "'hour' uses 'minutes'",
        ),
        ("role: target, known_at: outcome}", "known_at: outcome}", "'late' is known only at the outcome"),
    ],
    ids=["declared", "derived", "derived through another", "the target"],
)
def test_what_is_known_only_afterwards_is_no_feature(old: str, new: str, leaking: str) -> None:
    assert leaking in error_of(changed(old, new))


def test_a_target_must_be_declared_as_known_only_afterwards() -> None:
    spec = TRIPS.replace("role: info, known_at: outcome", "role: info").replace(
        "role: target, known_at: outcome", "role: target"
    )

    assert "the target 'late' is known only afterwards" in error_of(spec)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELEC * FROM trips", "query: sql parser error"),
        ("SELECT * FROM trip", "query: 'trip' is no source. Did you mean 'trips'?"),
        ("SELECT miels FROM trips", None),
        ("SELECT a.miles FROM trips a JOIN trips b ON a.rider = b.rider WHERE b.miles > 3", None),
        ("SELECT miles FROM trips -- read_csv (", None),
        ("SELECT miles FROM trips WHERE zone <> 'read_csv --'", None),
        ("SELECT * FROM read_csv/**/('/etc/passwd')", "query: it may read only what stands under `sources`"),
        ("SELECT * FROM `read_csv`('/etc/passwd')", "query: it may read only what stands under `sources`"),
        ("SELECT * FROM READ_CSV('/etc/passwd')", "query: it may read only what stands under `sources`"),
    ],
)
def test_a_query_is_parsed_and_reads_only_the_sources(query: str, expected: str | None) -> None:
    text = changed("event_time:", f'query: "{query}"\nevent_time:')

    if expected is None:
        assert parse_spec(text, "trips.yaml").query == query
    else:
        assert error_of(text).startswith(f"trips.yaml:5: {expected}")


@pytest.mark.parametrize(
    "sql",
    [
        "miles * 2 - 1", "ROUND(miles, 1)", "miles / 3 % 2", "SQRT(ABS(miles))", "COALESCE(miles, 0)",
        "NULLIF(miles, 0)",
        "CASE WHEN zone = 'a' OR NOT miles > 3 THEN 1 ELSE 0 END", "CASE zone WHEN 'a' THEN 1 ELSE miles END",
        "zone IN ('a', 'b')", "zone LIKE 'a%'", "miles BETWEEN 1 AND 2", "zone || 'x'", "UPPER(LEFT(zone, 2))",
        "LENGTH(zone)", "GREATEST(miles, 3)", "CAST(miles AS INT)", "-miles", "zone IS NOT NULL", "POW(miles, 2)",
        "STRFTIME(started, '%H')", "SPLIT_PART(zone, '-', 1)", "REPLACE(zone, 'a', 'b')", "LN(miles)",
    ],
)  # fmt: skip
def test_an_expression_over_its_own_row_is_no_look_at_others(sql: str) -> None:
    text = changed("sql: EXTRACT(hour FROM started), dtype: integer", f'sql: "{sql}", dtype: string')

    assert parse_spec(text, "trips.yaml").derive[1].sql == sql


def test_a_source_that_is_not_there_is_an_error_of_the_spec(tmp_path: Path) -> None:
    file = tmp_path / "trips.yaml"
    file.write_text(TRIPS)

    (error,) = spec_errors(file)

    assert error.startswith("trips.yaml:")
    assert "does not exist. Correct `file`, or put it there." in error


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ((), "gx is no Great Expectations project. Name the folder that holds great_expectations.yml"),
        (("great_expectations.yml", "expectations/trip.json"), "has no suite 'trips'. Did you mean 'trip'?"),
        (("great_expectations.yml", "expectations/trips.json"), None),
        (("great_expectations.yml",), None),  # its suites lie elsewhere
    ],
    ids=["no project", "no suite", "both", "another store"],
)
def test_a_project_or_a_suite_that_is_not_there_is_an_error_of_the_spec(
    tmp_path: Path, made: tuple[str, ...], says: str | None
) -> None:
    (tmp_path / "gx" / "expectations").mkdir(parents=True)
    (tmp_path / "trips.csv").touch()
    for name in made:
        (tmp_path / "gx" / name).touch()
    file = tmp_path / "trips.yaml"
    file.write_text(TRIPS + "expectations: gx/trips\n")
    errors = spec_errors(file)
    assert len(errors) == (says is not None)
    assert all(error.startswith("trips.yaml:25: ") and says in error for error in errors)


def test_all_errors_are_told_in_the_files_order_and_the_first_says_how_many_more(tmp_path: Path) -> None:
    file = tmp_path / "trips.yaml"
    file.write_text(changed("slices: [zone]", "slices: [zon, mile]").replace("{column: late}", "{column: lat}"))

    errors = spec_errors(file)

    assert [error.split(":")[1] for error in errors] == ["17", "21", "21"]
    with pytest.raises(SpecError, match=r"^trips\.yaml:17: .*\(and 2 more\)$"):
        load_spec(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n- b\n", "a spec is a mapping"),
        ("just text", "a spec is a mapping"),
        (
            "a: &a [1]\nb: &b [*a, *a]\n"
            + "".join(f"c{i}: &c{i} [{f'*c{i - 1}, ' * 9 if i else '*b, '}]\n" for i in range(9)),
            "multiply",
        ),
        ("a: &a [*a]\n", "multiply"),
        ("[" * 5_000, "not YAML"),
        ("a: \x00", "not YAML"),
    ],
    ids=["empty", "comment", "list", "text", "billion laughs", "itself", "deep", "NUL"],
)
def test_a_file_that_is_no_spec_is_refused_in_one_line(text: str, expected: str) -> None:
    assert expected in error_of(text)


def test_a_missing_file_and_one_that_is_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"title: caf\xe9")

    with pytest.raises(SpecError, match=r"nothing\.yaml does not exist"):
        load_spec(tmp_path / "nothing.yaml")
    with pytest.raises(SpecError, match=r"latin\.yaml is not UTF-8"):
        load_spec(tmp_path / "latin.yaml")
    with pytest.raises(SpecError, match="cannot be read"):
        load_spec(tmp_path)


ZONE = "name: zone, dtype: string"
MILES = "name: miles, dtype: float, min: 0"
FILE = "{file: trips.csv}"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (ZONE, f"{ZONE}, generalise: {{prefix: 2, width: 5}}", "13: 'zone' is generalised in one way: width, edges"),
        (ZONE, f"{ZONE}, generalise: {{width: 5}}", "13: 'width' is for integer or float, 'zone' is none."),
        (ZONE, f"{ZONE}, generalise: {{prefix: 2}}, handling: hash", "13: 'zone' is both generalised and to hash."),
        (ZONE, f"{ZONE}, generalise: {{prefix: 2}}, values: [abc]", "13: of 'zone' 2 letters are left, and `values`"),
        (ZONE, f"{ZONE}, generalise: {{prefix: 2}}, unique: true", "13: generalised values of 'zone' are not unique."),
        (ZONE, f"{ZONE}, handling: generalise", "13: say how 'zone' is generalised, under `generalise`."),
        (MILES, f"{MILES}, generalise: {{edges: [1, 1]}}", "11: the edges of 'miles' must rise."),
        (MILES, f"{MILES}, generalise: {{edges: []}}", "11: the edges of 'miles' must rise."),
        (MILES, f"{MILES}, generalise: {{width: 0}}", "11: columns.4.generalise.width: input should be greater than 0"),
        (MILES, f"{MILES}, date_format: '%d'", "11: 'miles' is a float, date_format is for dates."),
        ("dtype: datetime", "dtype: datetime, date_format: '%d.%m.%y %H'", "8: date_format of 'started' tells no"),
        ("dtype: datetime", "dtype: datetime, date_format: day", "8: date_format of 'started' tells no whole moment."),
        ("pii: direct, role: info", "pii: direct, role: protected", "10: column 'phone' is dropped at ingest."),
        (FILE, "{file: a, database: b, table: c}", "4: source 'trips' is a `file` or comes from a `database`."),
        (FILE, "{database: b}", "4: source 'trips' needs a `table` or a `query` of its database, one of them."),
        (FILE, "{file: a, table: b}", "4: `table` and `query` of source 'trips' need a `database`."),
        (FILE, "{database: b, table: c, format: csv}", "4: `package`, `format` and `null_values` of source"),
        (FILE, "{database: 'mysql://a:b@c/d', table: t}", "4: a password has no place in a spec. Write `database: t"),
        (FILE, "{database: 'mysql://c/d?ssl=1&Password=x', table: t}", "4: a password has no place in a spec."),
        (FILE, "{database: 'mysql://a:b/c?d#e@f/g', table: t}", "4: a password has no place in a spec."),
        (FILE, "{database: 'mssql://c/?odbc=Driver=x;PWD=x', table: t}", "4: a password has no place in a spec."),
        (FILE, "{database: 'mssql://c/?odbc=Driver%3Dx%3BPWD%3Dx', table: t}", "4: a password has no place in a spec."),
        (FILE, "{database: 'mysql:a:secret@c/d', table: t}", "4: the database of source 'trips' is no URL. Write"),
        (FILE, "{file: ''}", "4: source 'trips' is a `file` or comes from a `database`. Give one of them."),
        (FILE, "{file: a.csv, separator: ab}", "4: sources.trips.separator: 'ab' is none of"),
    ],
    ids=lambda value: value[-40:],
)  # fmt: skip
def test_what_is_wrong_with_a_source_or_with_masking_is_told(old: str, new: str, expected: str) -> None:
    assert error_of(changed(old, new)).startswith(f"trips.yaml:{expected}")


@pytest.mark.parametrize(
    ("dtype", "positive", "taken"),
    [("integer", "1", True), ("integer", "true", True), ("integer", "'1'", False), ("float", "1", True),
     ("float", "'yes'", False), ("string", "'1'", True), ("string", "1", True), ("string", "true", False),
     ("boolean", "1", True), ("boolean", "false", True), ("date", "2024-01-01", False)],
)  # fmt: skip
def test_the_positive_value_is_one_that_the_target_can_have(dtype: str, positive: str, taken: bool) -> None:
    declared = changed("dtype: boolean, role: target", f"dtype: {dtype}, role: target")
    text = declared.replace("{column: late}", f"{{column: late, positive: {positive}}}")
    if taken:
        assert parse_spec(text, "trips.yaml").target.column == "late"
    else:
        assert error_of(text).startswith("trips.yaml:17: ")


@pytest.mark.parametrize("path", ["os.system\\n", "sklearn.ensemble:Forest", "..os", "a.b.", "a/b.c"])
def test_an_estimator_that_is_no_dotted_path_is_told(path: str) -> None:
    assert "nor the dotted path of a class of yours" in error_of(TRIPS + f'estimator: {{kind: "{path}"}}\n')


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%Y%m%d", "%d.%m.%y %H:%M", "%m-%d-%Y %I:%M %p", "%d %b %Y", "%Y-%m"])
def test_a_date_format_that_tells_a_moment_is_taken(form: str) -> None:
    assert parse_spec(changed("dtype: datetime", f"dtype: datetime, date_format: '{form}'"), "trips.yaml")


def test_no_error_tells_the_folder() -> None:
    assert "anna" not in error_of(changed("title: Trips", "titel: Trips"))


def test_the_digest_counts_content_not_layout() -> None:
    spec = parse_spec(TRIPS, "trips.yaml")
    reordered = yaml.safe_dump(yaml.safe_load(TRIPS.replace("  on: [", "  'on': [")), sort_keys=True)

    assert spec_digest(parse_spec(reordered, "elsewhere/trips.yaml")) == spec_digest(spec)
    assert spec_digest(parse_spec(changed("share: 0.5", "share: 0.4"), "trips.yaml")) != spec_digest(spec)


def test_a_spec_travels_as_json_without_its_file_and_by_pickle_with_it() -> None:
    spec = parse_spec(TRIPS, "/home/anna/trips.yaml")

    assert "anna" not in spec.model_dump_json() + repr(spec)
    assert Spec.model_validate_json(spec.model_dump_json()).model_dump() == spec.model_dump()
    assert pickle.loads(pickle.dumps(spec)).file == "/home/anna/trips.yaml"


def test_lines_are_found_by_keys_and_stop_at_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "trips.yaml"
    file.write_text(TRIPS)

    assert line_of(file, "columns", 3, "name") == 11
    assert line_of(file, "columns", 3, "assumption") == 11
    assert line_of(file, "drift", "share") == 20
    assert where(load_spec(file), "slices", 0) == "trips.yaml:21"
    assert where(Spec.model_validate_json(load_spec(file).model_dump_json()), "slices") == "trips"


def retained(**said: object) -> str:
    return TRIPS + yaml.safe_dump({"retention": said})


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"regimes": ["eu-ai-act"], "runs": "5 months"}, "for 6 months at least, by Articles 19(1) and 26(6)"),
        ({"regimes": ["reg-b"], "lineage": "2 years"}, "lineage: 2 years is too short. Keep them for 25 months"),
        ({"regimes": ["eu-ai-act", "reg-b"], "runs": "1 year"}, "by 12 CFR 1002.12(b)(1), Regulation B."),
        ({"regimes": ["part-11"]}, "21 CFR 11.10(c) and (e) has an audit trail kept as long as the records"),
        ({"regimes": ["part-11"], "records": "7 years", "runs": "83 months"}, "by `records`, the life of the records"),
        ({"records": "forever", "runs": "99 years"}, "runs: 99 years is too short. Keep them for ever"),
        ({"decisions": "2 years", "findings": "1 year"}, "findings: 1 year is shorter than decisions: 2 years"),
        ({"runs": "6 weeks"}, "retention.runs: '6 weeks' is no time. Write `25 months`"),
        ({"regimes": ["gdpr"]}, "'gdpr' is none of eu-ai-act, reg-b, part-11"),
    ],
)  # fmt: skip
def test_a_time_below_the_law_is_refused_with_its_clause(said: dict[str, object], error: str) -> None:
    assert error in error_of(retained(**said))


@pytest.mark.parametrize(
    "said",
    [
        {}, {"runs": "1 month"}, {"regimes": ["eu-ai-act"], "runs": "6 months"},
        {"regimes": ["reg-b"], "decisions": "25 months", "findings": "25 months"},
        {"regimes": ["part-11"], "records": "7 years", "runs": "7 years"}, {"records": "forever"},
    ],
)  # fmt: skip
def test_a_time_that_the_law_allows_is_taken(said: dict[str, object]) -> None:
    assert parse_spec(retained(**said), "trips.yaml").retention.model_dump(exclude_unset=True).keys() == said.keys()


def test_where_nothing_is_said_everything_is_kept() -> None:
    kept = parse_spec(TRIPS, "trips.yaml").retention
    assert {kept.decisions, kept.runs, kept.findings, kept.lineage} == {"forever"}
