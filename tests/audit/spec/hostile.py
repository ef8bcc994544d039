"""Tables as nobody would make them and as they still come: hypothesis draws names, types and values."""

import csv
import io
from datetime import date, datetime
from pathlib import Path

import polars as pl
from hypothesis import strategies as st

WORDS = (
    "id", "name", "e-mail", "score", "target", "", " ", "yes", "null", "~", "a: b", "- a", "#no", "[x]", "{y}", "&z",
    "*w", "!t", "%", "@", "`", "'", '"', 'say "yes"', "two\nlines", "tab\there", "שלום", "\u202etxt", "😀", "x" * 3_000,
    "\ufeffbom", "a,b", "decision", "p:a", "reason", "password", "age", "sex", "date", "zip", "1", "1.5", "2024-01-01",
    "\x85", "\u2028", "\x00nul", "rows", "_", "__index_level_0__", "é", "columns", "on", "0x1F", "1_000", "<<", "=",
)  # fmt: skip
TEXTS = (
    "", " ", "NA", "null", "-", "1", "01", "1.5", "1e400", "nan", "inf", "-inf", "true", "FALSE", "yes", "2024-01-01",
    "2024-01-01T10:00:00Z", "31.12.2023", "12/31/2023", "0000-00-00", "99999999999999999999", "-1", "999", "a@b.org",
    "+49 30 1234567", "DE89370400440532013000", "x" * 200, "שלום", "\u202e", "a: b # c", "'", "é", "😀",
    "4539578763621486",
)  # fmt: skip

names = st.one_of(st.sampled_from(WORDS), st.text(max_size=12))
texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=8))
numbers = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, -1, 999, 9999]))
KINDS = [  # a type and what may stand in it
    (pl.String, texts),
    (pl.Int64, numbers),
    (pl.UInt64, st.integers(0, 2**64 - 1)),
    (pl.Int8, st.integers(-128, 127)),
    (pl.Float64, st.floats()),
    (pl.Float32, st.floats(width=32)),
    (pl.Boolean, st.booleans()),
    (pl.Date, st.dates(date(1, 1, 1))),
    (pl.Datetime("ns"), st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1))),
    (pl.Datetime("us", "Europe/Berlin"), st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1))),
    (pl.Time, st.times()),
    (pl.Duration, st.timedeltas()),
    (pl.Decimal(20, 3), st.decimals(-(10**9), 10**9, places=3)),
    (pl.Categorical, texts),
    (pl.Binary, st.binary(max_size=4)),
    (pl.List(pl.Int64), st.lists(st.integers(0, 5), max_size=3)),
    (pl.Struct({"a": pl.Int64}), st.fixed_dictionaries({"a": st.integers(0, 5)})),
    (pl.Null, st.none()),
]


@st.composite
def frames(draw: st.DrawFn) -> tuple[pl.DataFrame, str]:
    """A few columns of any type under any name, and which of them is to be the target. Values repeat, so that there
    are classes, keys and constants; mostly there also is a number to learn from.
    """
    height = draw(st.sampled_from([150, 40, 12, 9, 1, 0]))
    named = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    made = []
    for name in named:
        dtype, values = draw(st.sampled_from(KINDS))
        pool = draw(st.lists(values, min_size=2, max_size=20)) + draw(st.lists(st.none(), max_size=2))
        made.append(pl.Series(name, [pool[place % len(pool)] for place in range(height)], dtype=dtype, strict=False))
    if draw(st.integers(0, 9)):
        made.append(pl.Series(f"{'_'.join(named)[:20]} amount", [place * place % 97 for place in range(height)]))
    return pl.DataFrame(made), draw(st.sampled_from(named))


def as_csv(frame: pl.DataFrame, path: Path) -> None:
    """The frame as text, by Python's own writer, whatever that makes of it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(frame.columns)
    writer.writerows(["" if value is None else str(value) for value in row] for row in frame.iter_rows())
    path.write_bytes(text.getvalue().encode("utf-8", "surrogatepass"))
