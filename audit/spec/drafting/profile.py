"""What a table holds: types, ranges, missing values, value sets; found by Polars in a few streaming scans.

Row count, missing values, ranges, value sets and uniqueness are exact, for they become rules, which must not turn rows
away that a sample has not seen. Forms of text and the number of distinct values come from a seeded sample.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from audit.errors import BadData
from audit.spec.load import cannot_be_named
from audit.spec.model import Dtype
from audit.spec.sources import MAX_EXACT, SAMPLE_ROWS, converted, in_type, polars_type

if TYPE_CHECKING:
    import polars as pl

# A frame over the data: these columns stay text, and types are guessed from so many rows (all, if None).
Read = Callable[[Collection[str], int | None], "pl.LazyFrame"]

MAX_COLUMNS = 1_000
SAMPLE, SAMPLE_CELLS, SEED = 200_000, 20_000_000, 0
BATCH = 100_000  # rows that are looked at together
FEW_TEXTS, FEW_NUMBERS = 20, 5  # values that are listed as a set
SEEN_OFTEN = 10  # times that each number of a set is there

# What people write where a number or a date is missing.
MISSING = ("NA", "N/A", "n/a", "na", "NULL", "null", "Null", "None", "none", "NaN", "nan", "#N/A", "-", "--", ".", "?")
DATE_FORMATS = (
    "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%d/%m/%y", "%m/%d/%y",
    "%d.%m.%y", "%d %b %Y", "%d-%b-%Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%Y%m%d",
)  # fmt: skip
CLOCKS = ("", " %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p")
_ISO = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
_DIGITS = "%Y%m%d"  # of integers whose name speaks of a day
_DAY_WORDS = r"(?i)(?:^|[^a-z])(?:date|day|dt|datum)(?:$|[^a-z])|Date|Day"
_SENTINELS = frozenset({99, 999, 9999, 99999, 999999, 9999999, 99999999, -1, -9, -99, -999, -9999, -99999, -999999})
_MOSTLY = 0.9  # share of the values that must have a form before the others are called exceptions
_PLACE = "\x00place"  # no column of a user's


@dataclass(frozen=True, slots=True)
class Sentinel:
    """A number that stands alone far from the others, as 999 does for "not known"."""

    value: float
    rows: int
    nearest: float  # of the other values


@dataclass(frozen=True, slots=True)
class Seen:
    """One column as it was found. `distinct` counts within the sample's `sampled` values; all else is exact."""

    name: str
    dtype: Dtype
    given: "pl.DataType"
    rows: int
    nulls: int
    sampled: int = 0
    distinct: int = 0
    low: float | None = None  # of finite numbers
    high: float | None = None
    first: datetime | None = None  # of dates
    last: datetime | None = None
    values: tuple[str | int | bool, ...] | None = None  # all there are, where they are few
    unique: bool = False
    infinite: int = 0
    date_format: str | None = None
    written: str | None = None  # how every moment of the sample is written, of the ways that ISO 8601 has
    sentinel: Sentinel | None = None
    note: str = ""  # why it has this type, where that is not plain

    @property
    def known(self) -> int:
        return self.rows - self.nulls

    @property
    def constant(self) -> bool:
        """One value in every row that has one."""
        return bool(self.known) and self.distinct == 1 and (self.values is not None and len(self.values) == 1)


@dataclass(frozen=True, slots=True)
class Profile:
    """A table's columns as they were found, and its rows in the types that were chosen."""

    rows: int
    columns: tuple[Seen, ...]
    sample: "pl.DataFrame"
    whole: "pl.LazyFrame"
    left_out: Mapping[str, str] = field(default_factory=dict)  # columns that cannot be used, and why
    missing: tuple[str, ...] = ()  # words that stand for a missing value

    def __getitem__(self, name: str) -> Seen:
        return next(seen for seen in self.columns if seen.name == name)

    @property
    def names(self) -> list[str]:
        return [seen.name for seen in self.columns]

    @property
    def is_sampled(self) -> bool:
        return self.sample.height < self.rows


@dataclass(frozen=True, slots=True)
class _Form:
    """What a column's values are taken for."""

    dtype: Dtype
    date_format: str | None = None
    written: str | None = None
    note: str = ""


def profile(read: Read, said: str, *, texts: bool) -> Profile:
    """The profile of the table that `read` gives. `texts`: its types are guessed from text, so codes are looked for.

    Raises BadData, which begins with `said`, for a table that is too wide, has no rows or cannot be read.
    """
    import polars as pl

    try:
        names = read((), SAMPLE_ROWS).collect_schema().names()
        refuse_wide(len(names), said)
        codes = _codes(read, names) if texts else set()
        look = _look(read, codes)
        if look.rows == 0:
            raise BadData(f"{said} has columns and no rows.", hint="A spec is drafted from rows.")
        left_out = dict(_unusable(look.sample.schema))
        found = [_described(look, name, code=name in codes) for name in names if name not in left_out]
        columns = _verified(look, found)
        whole = look.frame.select(cast(column) for column in columns)
        sample = look.sample.select(cast(column) for column in columns)
    except (pl.exceptions.PolarsError, ValueError, OverflowError) as error:  # a date outside of Python's years, say
        raise unreadable(error, said) from None
    missing = _missing_words(look.sample.select(c.name for c in columns if c.dtype == "string")) if texts else ()
    return Profile(look.rows, tuple(columns), sample, whole, left_out, missing)


def refuse_wide(columns: int, said: str) -> None:
    """Raise BadData for more columns than a spec can name."""
    if columns > MAX_COLUMNS:
        raise BadData(
            f"{said} has {columns:,} columns, and a spec takes {MAX_COLUMNS:,}.",
            hint="Choose those that matter with --query, or beforehand.",
        )


def unreadable(error: Exception, said: str) -> BadData:
    """A message of Polars may hold a value, so only what kind of error it is comes into ours."""
    fix = "Save it as UTF-8." if "utf" in str(error).lower() else "Look at the types of its columns."
    return BadData(f"{said} cannot be read ({type(error).__name__}).", hint=fix)


def cast(seen: Seen) -> "pl.Expr":
    """The column in its type, as ingest makes it."""
    import polars as pl

    found = pl.col(seen.name)
    if seen.written:  # one way to try and not all: a third of the time
        moments = found.str.to_datetime(seen.written, strict=False, time_unit="us")
        return moments.cast(polars_type(seen.dtype))
    return in_type(found, seen.given, seen.dtype, seen.date_format).alias(seen.name)


@dataclass(frozen=True, slots=True)
class _Look:
    """What a first scan came to: rows, a sample of them, and of each column what its own type can say."""

    frame: "pl.LazyFrame"  # in memory where the table is small
    rows: int
    sample: "pl.DataFrame"
    counts: dict[str, Any]


def _codes(read: Read, names: Sequence[str]) -> set[str]:
    """Columns of digits that are no numbers, by their first rows: 00501 and +49 would lose what they begin with."""
    import polars as pl

    first = read(names, SAMPLE_ROWS).head(SAMPLE_ROWS).collect()
    digits = pl.all().str.contains(r"^\s*\+?\d+\s*$").all(ignore_nulls=True)
    begun = pl.all().str.contains(r"^\s*(?:0\d|\+\d)").any(ignore_nulls=True)
    coded = first.select(digits & begun)
    return {name for name in names if first.height and coded[name].item()}


def _look(read: Read, codes: Collection[str]) -> _Look:
    """Types as ingest takes them: from the first rows, and where later ones do not fit from all."""
    import polars as pl

    try:
        return _first_look(read(codes, SAMPLE_ROWS))
    except pl.exceptions.PolarsError:
        return _first_look(read(codes, None))


def _first_look(frame: "pl.LazyFrame") -> _Look:
    import polars as pl

    rows = int(frame.select(pl.len()).collect(engine="streaming").item())
    schema = frame.collect_schema()
    counts = [one for place, (name, dtype) in enumerate(schema.items()) for one in _counts(place, name, dtype)]
    wanted = min(SAMPLE, max(1_000, SAMPLE_CELLS // max(1, len(schema))))
    if rows <= wanted:
        sample = frame.collect(engine="streaming")
        return _Look(sample.lazy(), rows, sample, sample.select(counts).row(0, named=True) if counts else {})
    share = int(2**64 * wanted / rows)  # the same rows whenever the table is the same
    drawn, told = [], []
    for batch in frame.with_row_index(_PLACE).collect_batches(chunk_size=BATCH, engine="streaming"):
        drawn.append(batch.filter(pl.col(_PLACE).hash(SEED) < share).drop(_PLACE))
        told.append(batch.select(counts))
    together = pl.concat(told).select(_TOGETHER[name.partition(" ")[2]](pl.col(name)) for name in told[0].columns)
    return _Look(frame, rows, pl.concat(drawn), together.row(0, named=True))


# What batches say of a column, in one number.
_TOGETHER: dict[str, Callable[["pl.Expr"], "pl.Expr"]] = {
    "nulls": lambda of: of.sum(), "infinite": lambda of: of.sum(), "low": lambda of: of.min(),
    "high": lambda of: of.max(), "first": lambda of: of.min(), "last": lambda of: of.max(),
}  # fmt: skip


def _counts(place: int, name: str, dtype: "pl.DataType") -> "Iterator[pl.Expr]":
    """Missing values, and the ends of what is a number or a time; called by the column's place, for names may clash."""
    import polars as pl

    found = pl.col(name)
    yield (found.fill_nan(None) if dtype.is_float() else found).null_count().alias(f"{place} nulls")
    if dtype.is_numeric():
        finite = found.filter(found.is_finite()) if dtype.is_float() else found
        yield from (finite.min().alias(f"{place} low"), finite.max().alias(f"{place} high"))
    if dtype.is_float():
        yield found.is_infinite().sum().alias(f"{place} infinite")
    if dtype in (pl.Date, pl.Datetime):
        yield from (found.min().alias(f"{place} first"), found.max().alias(f"{place} last"))


def _unusable(schema: "Mapping[str, pl.DataType]") -> Iterator[tuple[str, str]]:
    import polars as pl

    for name, dtype in schema.items():
        if dtype.is_nested() or dtype in (pl.Binary, pl.Object, pl.Duration):
            yield name, f"is of type {dtype.base_type().__name__.lower()}, which no column of a spec has"
        elif not name.strip():
            yield name, "has no name: mostly a row number that was written along"
        elif cannot_be_named(name):
            yield name, "has a name with a NUL in it, or one that stands for many: *, ^…$"


def _described(look: _Look, name: str, *, code: bool) -> Seen:
    """The column by the sample, and by what was counted in its own type."""
    series = look.sample[name]
    place = look.sample.columns.index(name)
    form = _Form("string", note="digits that begin with 0 or +: a code") if code else _form(series)
    counted = {key: look.counts.get(f"{place} {key}") for key in ("nulls", "low", "high", "infinite", "first", "last")}
    seen = Seen(
        name, form.dtype, series.dtype, look.rows, counted["nulls"] or 0,
        date_format=form.date_format, written=form.written, note=form.note,
        low=_number(counted["low"]), high=_number(counted["high"]), infinite=counted["infinite"] or 0,
        first=_moment(counted["first"]), last=_moment(counted["last"]),
    )  # fmt: skip
    values = look.sample.select(cast(seen)).to_series().drop_nulls()
    distinct = values.n_unique()
    return replace(
        seen, sampled=len(values), distinct=distinct, values=_few(values, distinct, form.dtype),
        unique=distinct == len(values) == look.sample.height and distinct > 1,
    )  # fmt: skip


def _few(values: "pl.Series", distinct: int, dtype: Dtype) -> tuple[str | int | bool, ...] | None:
    """The values, where they are few enough for a set that means something."""
    if dtype == "string" and 0 < distinct <= FEW_TEXTS and distinct <= max(2, len(values) // 5):
        return tuple(sorted(values.unique()))
    if dtype == "integer" and 0 < distinct <= FEW_NUMBERS:
        counts = values.value_counts(name="\x00rows")
        if distinct <= 2 or not (counts["\x00rows"] < SEEN_OFTEN).any():
            return tuple(sorted(counts[values.name]))
    return None


def _form(series: "pl.Series") -> _Form:
    """What the values are, by their type and, of text, by how they are written."""
    import polars as pl

    dtype = series.dtype
    match dtype:
        case pl.String():
            return _form_of_text(series)
        case pl.Boolean():
            return _Form("boolean")
        case pl.Date():
            return _Form("date")
        case pl.Datetime():
            return _Form("datetime")
        case pl.Null():
            return _Form("string")
    if dtype.is_float() or dtype.is_decimal():
        return _Form("float")
    if dtype.is_integer():
        return _form_of_integers(series)
    return _Form("string")


def _form_of_integers(series: "pl.Series") -> _Form:
    import polars as pl

    days = series.drop_nulls()
    ends = (days.min(), days.max())  # in Python: Polars compares a small integer with small ones only
    if re.search(_DAY_WORDS, series.name) and all(_is_digits_of_day(end) for end in ends):
        read = days.cast(pl.String).str.to_date(_DIGITS, strict=False)
        return _Form("integer") if read.null_count() else _Form("date", _DIGITS, note="a day as eight digits")
    return _Form("integer")


def _is_digits_of_day(number: object) -> bool:
    return isinstance(number, int) and 19000101 <= number <= 21001231


def _form_of_text(series: "pl.Series") -> _Form:
    """Boolean, date or number only where every value of the sample is one."""
    text = series.drop_nulls().unique().str.strip_chars()
    if text.is_empty():
        return _Form("string")
    if text.str.to_lowercase().is_in(["true", "false"]).all():
        return _Form("boolean")
    return _form_of_times(text) or _form_of_digits(text) or _Form("string")


def _form_of_times(text: "pl.Series") -> _Form | None:
    """One way of writing dates that fits all; where it takes several, the column stays text."""
    iso = _read_as(text, None)
    if iso.null_count() == 0:
        written = next((form for form in _ISO if _one_way(text, form).null_count() == 0), None)
        return _Form("datetime" if text.str.contains(":", literal=True).any() else "date", written=written)
    few = text.head(200)
    likely = [f for f in _formats() if _read_as(few, f).null_count() < len(few)]
    read = {None: iso} | {f: _read_as(text, f) for f in likely}
    fitting = [f for f in likely if read[f].null_count() == 0]
    if fitting:
        clocked = "%H" in fitting[0] or "%I" in fitting[0]
        other = f", and so would {fitting[1]}: look which is meant" if len(fitting) > 1 else ""
        return _Form("datetime" if clocked else "date", fitting[0], note=f"written as {fitting[0]}{other}")
    import polars as pl

    known = [series.is_not_null() for series in read.values()]
    best = max(int(each.sum()) for each in known)
    together = pl.select(pl.any_horizontal(pl.lit(each) for each in known)).to_series()
    if together.sum() < _MOSTLY * len(text):
        return None
    forms = sum(bool(each.any()) for each in known)
    others = len(text) - best
    told = f"but for {others:,} distinct texts" if best >= _MOSTLY * len(text) else f"in {forms} forms"
    return _Form("string", note=f"dates {told}, so it stays text")


def _one_way(text: "pl.Series", form: str) -> "pl.Series":
    return text.str.to_datetime(form, strict=False, time_unit="us")


def _read_as(text: "pl.Series", form: str | None) -> "pl.Series":
    """Text as moments; what is no year of people's is none."""
    import polars as pl

    moments = pl.select(converted(pl.lit(text), pl.String(), "datetime", form)).to_series()
    return pl.select(pl.when(pl.lit(moments).dt.year().is_between(1000, 2999)).then(pl.lit(moments))).to_series()


def _formats() -> list[str]:
    return [f"{day}{clock}" for day in DATE_FORMATS for clock in CLOCKS]


def _form_of_digits(text: "pl.Series") -> _Form | None:
    import polars as pl

    numbers = text.cast(pl.Float64, strict=False)
    wrong = numbers.null_count()
    if wrong == 0 and text.str.contains(r"^(?:0\d|\+\d)").any():
        return _Form("string", note="digits that begin with 0 or +: a code")
    if wrong == 0:
        finite = numbers.filter(numbers.is_finite())
        whole = len(finite) == len(numbers) and (finite == finite.round(0)).all() and (finite.abs() < MAX_EXACT).all()
        return _Form("integer" if whole else "float", note="numbers, written as text")
    if wrong <= (1 - _MOSTLY) * len(text):
        return _Form("string", note=f"numbers but for {wrong:,} distinct texts, so it stays text")
    return None


def _missing_words(texts: "pl.DataFrame") -> tuple[str, ...]:
    """Words that stand for a missing value: whatever else is in their column is a number or a date."""
    import polars as pl

    found: set[str] = set()
    for series in texts.iter_columns():
        if series.dtype != pl.String:
            continue
        words = series.drop_nulls().unique()
        known = words.filter(words.is_in(MISSING))
        others = words.filter(~words.is_in(MISSING))
        if len(known) and len(others) and _form_of_text(others).dtype != "string":
            found.update(known)
    return tuple(sorted(found))


def _verified(look: _Look, found: Sequence[Seen]) -> list[Seen]:
    """The columns held to every row: one that has a value of another type is text after all."""
    sound: dict[str, Seen] = {}
    doubtful = list(found)
    while doubtful:
        checked = _checked(look, doubtful)
        sound |= {name: seen for name, seen in checked.items() if seen}
        doubtful = [_milder(look, seen) for seen in doubtful if checked[seen.name] is None]
    return [sound[seen.name] for seen in found]


def _milder(look: _Look, seen: Seen) -> Seen:
    """What takes more of a column's values: moments in any way of ISO 8601, then text."""
    assert seen.dtype != "string", "whatever can be used can be text"
    if seen.written:
        return replace(seen, written=None)
    return replace(_described(look, seen.name, code=True), note=_not_all(seen))


def _not_all(seen: Seen) -> str:
    return f"not every value is {'an' if seen.dtype == 'integer' else 'a'} {seen.dtype}, so it is text"


def _checked(look: _Look, found: Sequence[Seen]) -> dict[str, Seen | None]:
    """Each column with what only a look at every row can tell; None for one that is not of its type throughout."""
    questions = {place: list(_questions(place, seen)) for place, seen in enumerate(found)}
    asked = [place for place in questions if questions[place]]
    made = [cast(found[place]).alias(f"{place} made") for place in asked]  # else Polars would convert for each question
    answers = look.frame.select(made).select(one for place in asked for one in questions[place])
    told = answers.collect(engine="streaming").row(0, named=True) if asked else {}
    return {seen.name: _answered(seen, place, look.rows, told) for place, seen in enumerate(found)}


def _is_converted(seen: Seen) -> bool:
    return seen.given != polars_type(seen.dtype)


def _questions(place: int, seen: Seen) -> "Iterator[pl.Expr]":
    import polars as pl

    made = pl.col(f"{place} made")
    if _is_converted(seen):
        yield made.null_count().alias(f"{place} nulls")
        if seen.dtype in ("integer", "float"):
            finite = made.filter(made.is_finite())
            yield from (finite.min().alias(f"{place} low"), finite.max().alias(f"{place} high"))
        if seen.dtype in ("date", "datetime"):
            yield from (made.min().alias(f"{place} first"), made.max().alias(f"{place} last"))
    if seen.values is not None:
        yield (made.is_not_null() & ~made.is_in(list(seen.values))).sum().alias(f"{place} others")
    if seen.unique:  # by 64-bit hashes: two that are taken for one can only make it not unique
        yield made.hash().n_unique().alias(f"{place} distinct")
    if seen.dtype in ("integer", "float"):
        yield from _beside(place, seen, made)


def _beside(place: int, seen: Seen, made: "pl.Expr") -> "Iterator[pl.Expr]":
    """For an end that looks like a sentinel: how often it is there, and what is next to it."""
    for end, value in (("low", seen.low), ("high", seen.high)):
        if value in _SENTINELS:
            rest = made.filter(made.is_finite() & (made != value))
            yield (rest.min() if end == "low" else rest.max()).alias(f"{place} beside {end}")
            yield (made == value).sum().alias(f"{place} at {end}")


def _answered(seen: Seen, place: int, rows: int, answers: Mapping[str, Any]) -> Seen | None:
    told = {key.partition(" ")[2]: value for key, value in answers.items() if key.partition(" ")[0] == str(place)}
    if told.get("nulls", 0) > seen.nulls:
        return None
    if "nulls" in told:
        seen = replace(
            seen, nulls=told["nulls"], low=_number(told.get("low")), high=_number(told.get("high")),
            first=_moment(told.get("first")), last=_moment(told.get("last")),
        )  # fmt: skip
    return replace(
        seen,
        values=None if told.get("others") else seen.values,
        unique=seen.unique and told["distinct"] == rows,
        sentinel=_sentinel(seen, told),
    )


def _sentinel(seen: Seen, told: Mapping[str, Any]) -> Sentinel | None:
    """The end that stands alone: farther from the next value than all others spread, or the only one below zero."""
    for end, other, value in (("high", "low", seen.high), ("low", "high", seen.low)):
        nearest = told.get(f"beside {end}")
        if nearest is None or value is None:
            continue
        far = getattr(seen, other)
        gap, spread = abs(value - nearest), abs(nearest - far)
        alone = gap > spread if abs(value) > 9 else nearest > 9 and gap * 10 > spread
        below_zero = end == "low" and nearest >= 0 and (value <= -9) and gap * 10 > spread
        if spread > 0 and (alone or below_zero):
            return Sentinel(value, told[f"at {end}"], nearest)
    return None


def _number(found: Any) -> float | None:
    return None if found is None else int(found) if isinstance(found, int) else float(found)


def _moment(found: object) -> datetime | None:
    if isinstance(found, datetime):
        return found.replace(tzinfo=None)
    return datetime(found.year, found.month, found.day) if isinstance(found, date) else None
