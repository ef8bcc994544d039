"""A spec drafted from data: what it guesses and why, what it refuses, and that whatever is written can be used."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from audit.errors import UserError
from audit.settings import settings
from audit.spec import draft
from audit.spec.check import problems
from audit.spec.draft import Drafted, Wish
from audit.spec.drafting import profile
from audit.spec.load import parse_spec
from audit.spec.model import Column, Generalised, Spec
from tests.audit.spec.hostile import as_csv, frames

ROWS = 400
Values = Callable[[int], object]


def write(folder: Path, columns: Mapping[str, Sequence[object]], name: str = "loans.csv") -> Path:
    path = folder / name
    frame = pl.DataFrame(dict(columns), strict=False)
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
    return path


def loans(**more: Values) -> dict[str, list[object]]:
    """Rows with a target and something to learn it from, beside `more`."""
    rows: dict[str, list[object]] = {
        "amount": [place * 37 % 101 + place / 1000 for place in range(ROWS)],
        "bad": [int(place * 37 % 101 + place % 13 > 60) for place in range(ROWS)],
    }
    return rows | {name: [value(place) for place in range(ROWS)] for name, value in more.items()}


def drafted(data: Path, target: str = "bad", **wished: Any) -> Drafted:
    return draft.draft(Wish(data=(str(data),), out=data.parent / "loans.yaml", target=target, **wished))


def column(made: Drafted, name: str) -> Column:
    return next(column for column in made.spec.columns if column.name == name)


def remark(made: Drafted, name: str) -> str:
    """What the text says of the column's entry, behind or above it."""
    lines = made.text.splitlines()
    begins = (f"  - {{name: {name},", f"  - name: {name}")
    place = next(place for place, line in enumerate(lines) if line.startswith(begins))
    above = takewhile(lambda line: line.startswith("  # "), reversed(lines[:place]))
    behind = lines[place].partition("  # ")[2]
    return behind or " ".join(line.removeprefix("  # ") for line in reversed([*above]))


def said(data: Path, **wished: Any) -> str:
    """The one line that refuses a draft."""
    with pytest.raises(UserError) as refused:
        drafted(data, **wished)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# What a column is taken for


@pytest.mark.parametrize(
    ("name", "value", "expected", "reason"),
    [
        ("e-mail", lambda i: f"p{i}@example.org", {"pii": "direct", "role": "info"}, "an e-mail address, by its name"),
        ("contact", lambda i: f"p{i}@example.org", {"pii": "direct"}, "e-mail addresses, by the form of 100% of"),
        ("reach", lambda i: f"+49 30 {1000000 + i}", {"pii": "direct"}, "telephone numbers, by the form"),
        ("pay_to", lambda i: f"DE89 3704 0044 0532 0{i:03d} 00", {"pii": "direct"}, "bank accounts (IBAN)"),
        ("from_host", lambda i: f"10.0.{i // 200}.{i % 200}", {"pii": "direct"}, "internet addresses, by the form"),
        ("paid_with", lambda i: 4539578763621486, {"role": "info"}, "card numbers, by the check digit of 100% of"),
        ("link", lambda i: f"https://x.org/{i}", {"pii": "direct"}, "web addresses"),
        ("trace", lambda i: f"{i:08x}-0000-4000-8000-000000000000", {"pii": "quasi", "handling": "hash"}, "UUIDs"),
        ("last_name", lambda i: f"Miller{i}", {"pii": "direct"}, "a name, by its name; dropped"),
        ("productName", lambda i: f"lamp {i % 7}", {"pii": "none", "role": "feature"}, ""),
        ("phone", lambda i: ["yes", "no"][i % 2], {"pii": "none", "role": "feature"}, ""),
        ("password", lambda i: f"x{i}", {"pii": "secret"}, "a secret, by its name; dropped"),
        ("tin", lambda i: f"ghp_16C7e42F292c6912E7{i}", {"pii": "secret"}, "keys to some service"),
        ("postcode", lambda i: f"{i:05d}", {"pii": "quasi", "role": "info"}, "a postcode, by its name; coarsened"),
        ("birthDate", lambda i: f"19{50 + i % 40}-01-0{1 + i % 9}", {"pii": "quasi"}, "a date of birth"),
        ("age", lambda i: 18 + i % 60, {"role": "protected", "pii": "quasi"}, "age, by its name; figures are taken"),
        ("plane_age", lambda i: i % 30, {"role": "feature"}, "seen 0 to 29"),
        ("Sex", lambda i: "mf"[i % 2], {"role": "protected"}, "sex, by its name"),
        ("notes", lambda i: f"the customer {i} said that they would pay it back", {"pii": "direct"}, "free text"),
        ("remark", lambda i: "ask bob@example.org" if i == 7 else "-", {"pii": "direct"}, "text with e-mail addresses"),
        ("comment", lambda i: ["", "he calls", "Eva", "ok"][i % 4], {"pii": "direct"}, "free text"),
        ("said", lambda i: ["", f"{i} wants to pay it all by the end of May"][i % 2], {"pii": "direct"}, "free text"),
        ("reply", lambda i: ["no", f"call 0664 8843{i:03d}"][i % 2], {"pii": "direct"}, "telephone numbers in"),
        ("vorname", lambda i: ["Ada", "Eva"][i % 2], {"pii": "direct"}, "a name, by its name; dropped"),
        ("doctor_name", lambda i: ["Ada Smith", "Eva Eder"][i % 2], {"pii": "direct"}, "a name, by its name"),
        ("spouse_name", lambda i: f"Eva {i % 40}", {"pii": "direct"}, "a name, by its name"),
        ("salesperson", lambda i: f"{'ABCDE'[i % 5]}nna M{'abcdefg'[i % 7]}ier", {"pii": "direct"}, "people's names"),
        ("job", lambda i: ["Sales Manager", "Data Scientist"][i % 2], {"role": "feature"}, ""),
        ("city_name", lambda i: ["Graz", "Linz"][i % 2], {"role": "feature"}, ""),
        ("geburtsdatum", lambda i: f"19{50 + i % 40}-01-0{1 + i % 9}", {"generalise": Generalised(to="year")}, "birth"),
        ("model", lambda i: ["van", "car"][i % 2], {"role": "info"}, "a name that decisions have"),
        ("dealer", lambda i: f"dealer no. {i % 300}", {"role": "info", "handling": "drop"}, "300 values in the rows"),
        ("country", lambda i: "DE", {"role": "info"}, "one value in every row"),
        ("rowid", lambda i: i + 7, {"role": "info"}, "called a row number"),
        ("counter", lambda i: i + 1, {"role": "info"}, "it counts the rows from 1"),
        ("nothing", lambda i: None, {"role": "info", "handling": "drop"}, "no row has a value"),
        ("rarely", lambda i: i if i < 3 else None, {"role": "info"}, "a value in 3 rows only"),
        ("paid_back_on", lambda i: date(2024, 1, 1), {"dtype": "date", "role": "info"}, "one value in every"),
        ("branch", lambda i: f"{i % 30:03d}", {"dtype": "string", "role": "feature"}, "digits that begin with 0 or +"),
        ("zone", lambda i: "nsew"[i % 4], {"values": ("e", "n", "s", "w")}, ""),
        ("rooms", lambda i: 1 + i % 3, {"values": (1, 2, 3)}, ""),
        ("flag", lambda i: ["True", "False"][i % 2], {"dtype": "boolean", "nulls": 0}, ""),
        ("speed", lambda i: i % 60 if i % 50 else 999, {"max": 90}, '8 rows have 999 for "not known"'),
        ("debt", lambda i: 100 + i % 60 if i % 50 else -999, {"min": 70}, '8 rows have -999 for "not known"'),
        ("load", lambda i: i % 60 if i % 5 else 999, {"max": 1500}, 'guess: 999 in 80 rows may stand for "not known"'),
        ("heat", lambda i: float("inf") if i == 3 else i / 7, {"max": 90}, "1 infinite value, set aside"),
        ("mixed", lambda i: "x" if i == 3 else i % 40, {"dtype": "string"}, "numbers but for 1 distinct texts"),
        ("sent", lambda i: "soon" if i == 3 else f"0{1 + i % 9}-01-2024", {"pii": "none"}, "dates but for 1 distinct"),
        ("some", lambda i: i % 50 if i % 10 else None, {"nulls": 0.17}, "seen 1 to 49"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)  # fmt: skip
def test_a_column_is_taken_for_what_it_looks_like_with_the_reason_beside_it(
    tmp_path: Path, name: str, value: Values, expected: dict[str, object], reason: str
) -> None:
    made = drafted(write(tmp_path, loans(**{name: value})))

    found = column(made, name)
    assert {key: getattr(found, key) for key in expected} == expected
    assert reason in remark(made, name)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("age", lambda i: 18 + i % 60, {"width": 5}),
        ("zip", lambda i: f"{i:05d}", {"prefix": 2}),
        ("dob", lambda i: f"{1 + i % 28:02d}.01.1970", {"to": "year"}),
        ("lat", lambda i: 52 + i / 1000, {"width": 0.1}),
    ],
)  # fmt: skip
def test_what_a_person_could_be_found_by_is_made_coarser(
    tmp_path: Path, name: str, value: Values, expected: dict[str, object]
) -> None:
    coarse = column(drafted(write(tmp_path, loans(**{name: value}))), name).generalise

    assert coarse and coarse.model_dump(exclude_none=True) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (lambda i: f"2024-01-{1 + i % 28:02d}", ("date", None)),
        (lambda i: f"2024-01-{1 + i % 28:02d}T10:{i % 60:02d}:00Z", ("datetime", None)),
        (lambda i: f"{1 + i % 28:02d}/01/2024", ("date", "%d/%m/%Y")),
        (lambda i: f"01/{1 + i % 28:02d}/2024", ("date", "%m/%d/%Y")),
        (lambda i: f"{1 + i % 28}.1.2024 1{i % 10}:30", ("datetime", "%d.%m.%Y %H:%M")),
        (lambda i: f"{1 + i % 28:02d} Jan 2024", ("date", "%d %b %Y")),
        (lambda i: int(f"202401{1 + i % 28:02d}"), ("date", "%Y%m%d")),
    ],
    ids=["iso", "iso with time", "day first", "month first", "points and clock", "month in letters", "eight digits"],
)  # fmt: skip
def test_a_date_is_found_in_whatever_single_form_it_has(
    tmp_path: Path, value: Values, expected: tuple[str, str | None]
) -> None:
    found = column(drafted(write(tmp_path, loans(pay_day=value)), event_time="none"), "pay_day")

    assert (found.dtype, found.date_format) == expected


def test_dates_in_five_forms_stay_text_and_say_so(tmp_path: Path) -> None:
    forms = ("%Y-%m-%d", "%d/%m/%Y", "%d.%m.%Y", "%b %d, %Y", "%Y%m%d")
    made = drafted(
        write(tmp_path, loans(opened=lambda i: (date(2023, 1, 1) + timedelta(i)).strftime(forms[i % len(forms)])))
    )

    assert column(made, "opened").dtype == "string"
    assert remark(made, "opened").startswith("dates in ")


def test_a_date_that_two_forms_fit_is_marked_as_in_doubt(tmp_path: Path) -> None:
    made = drafted(write(tmp_path, loans(due=lambda i: f"0{1 + i % 9}/0{1 + i % 8}/2024")))

    assert "written as %d/%m/%Y, and so would %m/%d/%Y: look which is meant" in remark(made, "due")


def test_what_stands_for_missing_among_numbers_is_read_as_that(tmp_path: Path) -> None:
    made = drafted(write(tmp_path, loans(income=lambda i: "NA" if i % 10 == 0 else "?" if i == 5 else str(i % 90))))

    assert made.spec.sources["loans"].null_values == ("?", "NA")
    assert column(made, "income").dtype == "integer"
    assert "# guess: what is missing is written ?, NA, among numbers or dates." in made.text


# What gives the target away


@pytest.mark.parametrize(
    ("value", "role", "reason"),
    [
        (lambda bad, i: ["fine", "defaulted"][bad], "info", "each of its values goes with one value of the target"),
        (lambda bad, i: "2024-05-01" if bad else None, "info", "one value in every row that has one"),
        (lambda bad, i: i % 7 if bad else None, "info", "it is missing exactly where the target has one of its values"),
        (lambda bad, i: bad * 1000 + i % 300, "feature", "its size alone tells the target in nearly every row"),
        (lambda bad, i: "abc"[i % 3] if not bad or i == 250 else "x", "feature", "it tells the target in 99."),
    ],
    ids=["a code", "one date", "missing or not", "its size", "nearly"],
)
def test_a_column_that_gives_a_class_away_is_told(
    tmp_path: Path, value: Callable[[int, int], object], role: str, reason: str
) -> None:
    rows = loans()
    rows["hint"] = [value(int(str(bad)), place) for place, bad in enumerate(rows["bad"])]

    made = drafted(write(tmp_path, rows))

    assert column(made, "hint").role == role
    assert reason in remark(made, "hint")


def test_the_target_in_another_unit_is_no_feature_of_a_number(tmp_path: Path) -> None:
    rows = loans(price=lambda i: i * 17 % 401)
    prices = [int(str(price)) for price in rows["price"]]
    rows |= {"in_cents": [p * 100 for p in prices], "size": [p + i % 30 for i, p in enumerate(prices)]}

    made = drafted(write(tmp_path, rows), target="price")

    assert column(made, "in_cents").known_at == "outcome"
    assert "in the same or another unit" in remark(made, "in_cents")
    assert column(made, "size").role == "feature"
    assert "it goes along with the target (correlation 0.99" in remark(made, "size")


# The target


@pytest.mark.parametrize(
    ("value", "kind", "positive"),
    [
        (lambda i: i % 2, "binary", 1),
        (lambda i: float(i % 2), "binary", 1),
        (lambda i: bool(i % 3), "binary", True),
        (lambda i: ["no", "Yes"][i % 2], "binary", "Yes"),
        (lambda i: "ab"[i % 5 == 0], "binary", "b"),
        (lambda i: "abc"[i % 3], "multiclass", True),
        (lambda i: i % 7, "multiclass", True),
        (lambda i: i % 97, "regression", True),
        (lambda i: i % 2 + 0.5, "regression", True),
        (lambda i: i / 7, "regression", True),
    ],
)
def test_the_kind_of_target_is_guessed_from_its_values(
    tmp_path: Path, value: Values, kind: str, positive: object
) -> None:
    made = drafted(write(tmp_path, loans(y=value), "loans.parquet"), target="y").spec.target

    assert (made.kind, made.positive) == (kind, positive)


def test_what_is_said_of_the_target_wins_over_guesses(tmp_path: Path) -> None:
    data = write(tmp_path, loans(quality=lambda i: 3 + i % 6))

    assert drafted(data, target="quality", kind="regression").spec.target.kind == "regression"
    assert drafted(data, positive="0").spec.target.positive == 0


def test_rows_without_a_target_and_classes_of_one_row_are_told(tmp_path: Path) -> None:
    made = drafted(write(tmp_path, loans(y=lambda i: None if i < 40 else "z" if i == 41 else "ab"[i % 2])), target="y")

    said = " ".join(line.removeprefix("# ") for line in made.text.splitlines() if line.startswith("# "))
    assert "40 of 400 rows have none: they are decided on, not learnt from." in said
    assert "1 of its classes have one row only" in said


# The time and the entity


def by_day(i: int, start: date = date(2023, 1, 1)) -> str:
    return (start + timedelta(i)).isoformat()


def test_a_year_of_cases_is_walked_through_by_months(tmp_path: Path) -> None:
    made = drafted(write(tmp_path, loans(updated_on=lambda i: by_day(i + 5), applied_on=by_day)))

    schedule = made.spec.schedule
    assert made.spec.event_time == "applied_on"
    assert schedule and (schedule.train_from, schedule.train_months) == (date(2023, 3, 1), 7)
    assert schedule.until is None and "Months go on" in made.text, "the table grows"
    assert made.spec.rows.min == 15


@pytest.mark.parametrize(
    ("value", "time"),
    [
        (lambda i: by_day(i % 70), "when"),
        (lambda i: by_day(i * 20), "when"),
        (lambda i: by_day(i) if i else None, None),
        (lambda i: by_day(i) if i else "garbage", None),
    ],
    ids=["too few months", "too thin months", "nulls", "garbage"],
)
def test_a_time_that_cannot_be_walked_by_months_parts_rows_or_is_left(
    tmp_path: Path, value: Values, time: str | None
) -> None:
    spec = drafted(write(tmp_path, loans(when=value))).spec

    assert (spec.event_time, spec.schedule) == (time, None)


def test_a_time_that_would_part_the_classes_is_no_event_time(tmp_path: Path) -> None:
    made = drafted(write(tmp_path, {"at": [by_day(i) for i in range(400)], "x": [i % 7 for i in range(400)],
                                    "y": [int(i > 300) for i in range(400)]}), target="y")  # fmt: skip

    assert made.spec.event_time is None
    assert "'at' would part the classes, so rows are parted by a seeded draw." in made.text


def test_a_column_that_is_empty_until_after_the_training_is_no_feature(tmp_path: Path) -> None:
    made = drafted(write(tmp_path, loans(at=by_day, late_field=lambda i: i % 9 if i > 300 else None)))

    assert made.spec.schedule
    assert remark(made, "late_field") == "no value in the rows that the first training sees"


@pytest.mark.parametrize(
    ("columns", "key"),
    [
        ({"loan_id": lambda i: i * 3 + 1, "customer_id": lambda i: f"c{i % 90}"}, "customer_id"),
        ({"loan_id": lambda i: i * 3 + 1}, "loan_id"),
        ({"number_of_rooms": lambda i: i % 90}, None),
        ({"group_id": lambda i: i % 4}, None),
    ],
)
def test_the_entity_is_what_repeats_then_what_is_called_a_key(
    tmp_path: Path, columns: dict[str, Values], key: str | None
) -> None:
    spec = drafted(write(tmp_path, loans(**columns))).spec

    assert spec.entity_key == key
    assert not {"loan_id", "customer_id"}.intersection(spec.features())


def test_what_is_said_of_time_and_entity_wins_over_guesses(tmp_path: Path) -> None:
    data = write(tmp_path, loans(at=by_day, other=lambda i: by_day(i * 2), customer=lambda i: f"c{i % 90}"))

    told = drafted(data, event_time="other", key="none").spec
    none = drafted(data, event_time="none", key="customer").spec

    assert (told.event_time, told.entity_key) == ("other", None)
    assert (none.event_time, none.schedule, none.entity_key) == (None, None, "customer")


# What a spec may hold


def test_no_value_of_a_personal_column_comes_into_the_spec(tmp_path: Path) -> None:
    rows = loans(
        email=lambda i: f"planted{i % 3}@x.org",
        sex=lambda i: ["planted_m", "planted_f"][i % 2],
        zip=lambda i: f"planted{i % 9}",
        token=lambda i: f"planted{i % 4}",
        salary_band=lambda i: "kept"[i % 4],
    )

    made = drafted(write(tmp_path, rows))

    assert "planted" not in made.text
    assert "values: [e, k, p, t]" in made.text


def test_rules_hold_in_the_rows_that_the_sample_did_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "SAMPLE", 100)
    _, seen = draft.examine([str(write(tmp_path, loans(i=lambda i: i)))], tmp_path, table=None, query=None)
    hidden = next(place for place in range(ROWS) if place not in seen.sample["i"])
    data = write(
        tmp_path,
        loans(
            zone=lambda i: "hidden" if i == hidden else "ab"[i % 2],
            price=lambda i: 5_000 if i == hidden else i % 50,
            code=lambda i: "x7" if i == hidden else i % 50,
            gap=lambda i: None if i == hidden else i % 90,
            moment=lambda i: "2024-01-02" if i == hidden else f"2024-01-01 10:{i % 60:02d}:00",
        ),
    )

    made = drafted(data)

    assert "of 400 rows, seed 0; all else is exact." in made.text.replace("\n# ", " ")
    assert column(made, "zone").values is None
    assert column(made, "price").max and column(made, "price").max > 5_000  # type: ignore[operator]
    assert column(made, "code").dtype == "string" and remark(made, "code").startswith("not every value is an integer")
    assert column(made, "gap").nulls > 0
    assert column(made, "moment").dtype == "datetime", "another way of ISO 8601 is one too"


def test_the_same_data_make_the_same_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "SAMPLE", 100)
    data = write(tmp_path, loans(zone=lambda i: "nsew"[i * 7 % 4], at=by_day))

    assert drafted(data).text == drafted(data).text


# Where data come from


def test_a_path_is_relative_to_the_specs_folder(tmp_path: Path) -> None:
    (tmp_path / "specs").mkdir()
    data = write(tmp_path, loans())

    made = draft.draft(Wish(data=(str(data),), out=tmp_path / "specs" / "loans.yaml", target="bad"))

    assert made.spec.sources["loans"].file == "../loans.csv"


def test_a_folder_a_separator_and_a_suffix_that_says_nothing_are_understood(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    pl.DataFrame(loans()).write_parquet(tmp_path / "parts" / "0.parquet")
    pl.DataFrame(loans()).write_csv(tmp_path / "loans.txt", separator=";")

    assert drafted(tmp_path / "parts").rows == ROWS
    assert drafted(tmp_path / "loans.txt").spec.sources["loans"].separator == ";"


def test_several_files_are_joined_by_a_query(tmp_path: Path) -> None:
    people = write(tmp_path, {"id": range(40), "rich": [i % 2 for i in range(40)]}, "people.csv")
    data = write(tmp_path, loans(person=lambda i: i % 40))
    wish = Wish(data=(str(data), str(people)), out=tmp_path / "s.yaml", target="bad",
                query="SELECT l.*, p.rich FROM loans AS l JOIN people AS p ON l.person = p.id")  # fmt: skip

    made = draft.draft(wish)
    draft.write(made, wish.out)

    assert "rich" in made.spec.features()
    assert problems(wish.out) == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT * FROM loans JOIN", "--query: sql parser error"),
        ("SELECT nothing FROM loans", "--query: "),
        ("SELECT * FROM loan", "--query: relation 'loan' was not found. Its tables are loans"),
        ("SELECT * FROM read_csv('/etc/passwd')", "--query: it may read only what stands under `sources`"),
    ],
)
def test_a_query_that_does_not_work_is_one_line(tmp_path: Path, query: str, expected: str) -> None:
    assert said(write(tmp_path, loans()), query=query).startswith(expected)


def test_a_table_of_a_database_is_found_or_asked_for(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/bank.db"
    pl.DataFrame(loans()).write_database("loans", url)

    assert drafted(tmp_path / "bank.db").spec.sources["loans"].table == "loans"

    pl.DataFrame(loans()).write_database("other", url)
    assert said(tmp_path / "bank.db").endswith("It has 'loans', 'other'.")
    assert drafted(tmp_path / "bank.db", table="other").spec.sources["other"].database == "sqlite:///bank.db"

    monkeypatch.setenv("AUDIT_SOURCE_URL_BANK", url)
    settings.cache_clear()
    wish = Wish(data=("bank",), out=tmp_path / "x.yaml", target="bad", query="SELECT * FROM loans WHERE amount > 20")
    assert draft.draft(wish).spec.sources["bank"].database == "bank"
    settings.cache_clear()


# What is refused


def broken(folder: Path, content: bytes, name: str = "loans.csv") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (b"", "loans.csv", "DATA: loans.csv is empty."),
        (b"a,bad\n", "loans.csv", "loans.csv has columns and no rows."),
        (b"a,bad\n1,2\n", "loans.csv", "--target bad has a value in 1 row, and it takes 10."),
        (b"a,bad\n1,2\n3\n", "loans.csv", "DATA: loans.csv, line 3 has 1 field, the header has 2."),
        (b"a,bad\n1,2,3\n", "loans.csv", "DATA: loans.csv, line 2 has 3 fields, the header has 2."),
        (b"bad,bad\n1,2\n", "loans.csv", "DATA: loans.csv: columns 1 and 2 have the same name."),
        (b"a,bad\n\xff,2\n", "loans.csv", "DATA: loans.csv, line 2 is not UTF-8."),
        (b"PAR1....", "loans.csv", "DATA: loans.csv is a Parquet file, not CSV."),
        (b"PK\x03\x04..", "loans.csv", "DATA: loans.csv is a zip archive or an Excel file, not CSV."),
        (b"a,bad\n1,2\n", "loans.parquet", "DATA: loans.parquet is no Parquet file."),
        (b"a,bad\n1,2\n", "loans.xlsx", "DATA: loans.xlsx is neither .csv nor .parquet."),
        (b"1.5,anna@x.org\n" * 20, "loans.csv", "loans.csv has no header: its first line looks like a row."),
        (b"bad," + b",".join(b"c%d" % i for i in range(1_000_000)) + b"\n", "loans.csv", "loans.csv has 1,000,001 col"),
    ],
)
def test_a_file_that_no_spec_can_be_drafted_from_is_one_line(
    tmp_path: Path, content: bytes, name: str, expected: str
) -> None:
    assert said(broken(tmp_path, content, name)).startswith(expected)


@pytest.mark.parametrize(
    ("columns", "wished", "expected"),
    [
        ({}, {"target": "badd"}, "--target badd: there is no such column. Did you mean 'bad'?"),
        ({"bad": lambda i: 1}, {}, "--target bad has one value only."),
        ({"bad": lambda i: None}, {}, "--target bad has a value in 0 rows"),
        ({"bad": lambda i: f"v{i}"}, {}, "--target bad has too many values to be classes."),
        ({"bad": by_day}, {}, "--target bad is a date."),
        ({}, {"positive": "7"}, "--positive: bad has no such value."),
        ({}, {"kind": "binary", "target": "amount"}, "--target amount has too many values to be classes."),
        ({"y": lambda i: "ab"[i % 2]}, {"kind": "regression", "target": "y"}, "--target y is a string and no number."),
        ({}, {"event_time": "att"}, "--event-time att: there is no such column."),
        ({}, {"event_time": "amount"}, "--event-time amount is a float."),
        ({}, {"key": "customr"}, "--key customr: there is no such column."),
        ({"amount": lambda i: 3}, {}, "No column of loans.csv is left for a model to learn from beside bad."),
        ({"score": lambda i: i % 2}, {"target": "score"}, "--target score is the name of the model's output."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wish_that_the_data_cannot_grant_is_one_line(
    tmp_path: Path, columns: dict[str, Values], wished: dict[str, Any], expected: str
) -> None:
    assert said(write(tmp_path, loans(**columns)), **wished).startswith(expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("lons.csv", "lons.csv does not exist, and AUDIT_SOURCE_URL_LONS_CSV is not set. Did you mean 'loans.csv'?"),
        ("postgresql://anna:hunter2@db/bank", "A password has no place in a spec, nor on a command line."),
        ("postgresql://127.0.0.1:1/bank", "DATA: postgresql://127.0.0.1:1/bank cannot be reached."),
        ("sqlite:///none.db", "DATA: the SQLite file none.db does not exist."),
    ],
)
def test_data_that_are_not_there_are_one_line_without_a_password(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, given: str, expected: str
) -> None:
    monkeypatch.chdir(write(tmp_path, loans()).parent)

    with pytest.raises(UserError) as refused:
        draft.draft(Wish(data=(given,), out=Path("x.yaml"), target="bad", table="t" if "://" in given else None))

    assert str(refused.value).startswith(expected)
    assert "hunter2" not in str(refused.value)


def test_columns_that_no_spec_can_have_are_left_out_and_said(tmp_path: Path) -> None:
    rows = loans() | {"tags": [[1]] * ROWS, "score": [1] * ROWS, "": list(range(ROWS)), "a\x00b": [1] * ROWS}

    made = drafted(write(tmp_path, rows, "loans.parquet"))

    assert {c.name for c in made.spec.columns} == {"amount", "bad"}
    for name in (
        "'tags' is of type list",
        "'' has no name",
        "'score' has the name of the model's output",
        "'a b' has a name with a NUL",
    ):
        assert f"# left out, so dropped: {name}" in made.text


# Whatever comes


@hypothesis_settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(frames(), st.booleans())
def test_whatever_the_table_a_spec_is_refused_in_a_line_or_written_and_holds(
    drawn: tuple[pl.DataFrame, str], parquet: bool
) -> None:
    frame, target = drawn
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, f"t.{'parquet' if parquet else 'csv'}"), Path(folder, "spec.yaml")
        frame.write_parquet(data) if parquet else as_csv(frame, data)
        try:
            made = draft.draft(Wish(data=(str(data),), out=out, target=target))
        except UserError as refused:
            assert "\n" not in str(refused).replace(target, "")
            return
        draft.write(made, out)

        assert problems(out) == []
        assert same_names(parse_spec(out.read_text(encoding="utf-8"), str(out)), made.spec)


def same_names(one: Spec, other: Spec) -> bool:
    return [column.name for column in one.columns] == [column.name for column in other.columns]


@given(st.text(min_size=1, max_size=30))
@example("two\nlines")
@example("evil\u202etxt")
def test_any_name_comes_back_from_a_file_as_it_was_and_hides_nothing(name: str) -> None:
    from audit.spec.drafting.layout import Remarked, comment, flow, items
    from audit.spec.load import _composed, _constructed

    text = f"{comment(name)}\ncolumns:\n{items([Remarked({'name': name, 'dtype': 'string'}, name)])}\n"

    read = _constructed(_composed(text, "t.yaml"), "t.yaml")
    assert read == {"columns": [{"name": name, "dtype": "string"}]}
    assert all(line.isprintable() for line in text.splitlines())
    assert len(flow(name).splitlines()) == 1


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    made = drafted(write(tmp_path, loans()))
    (tmp_path / "taken").mkdir()

    with pytest.raises(UserError, match="cannot be written"):
        draft.write(made, tmp_path / "taken")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["loans.csv", "taken"]


def test_numbers_with_a_decimal_comma_are_numbers(tmp_path: Path) -> None:
    lines = [f"{i},5;{1000 + i};{i % 2}" for i in range(100)]
    (tmp_path / "wine.csv").write_text("\n".join(["acid;sugar;good", *lines]))

    made = drafted(tmp_path / "wine.csv", target="good")
    assert made.spec.sources["wine"].decimal_comma
    assert (column(made, "acid").dtype, column(made, "acid").role) == ("float", "feature")

    mixed = [line.replace(",5", ".5") if place == 7 else line for place, line in enumerate(lines)]
    (tmp_path / "wine.csv").write_text("\n".join(["acid;sugar;good", *mixed]))
    assert not drafted(tmp_path / "wine.csv", target="good").spec.sources["wine"].decimal_comma


def test_a_date_beyond_python_s_years_is_a_line_and_no_traceback(tmp_path: Path) -> None:
    far = pl.DataFrame({"when": [4_000_000] * 50, "bad": [0, 1] * 25}).with_columns(pl.col("when").cast(pl.Date))
    far.write_parquet(tmp_path / "far.parquet")
    assert "cannot be read" in said(tmp_path / "far.parquet")
