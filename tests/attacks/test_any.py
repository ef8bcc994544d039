"""Any one row of any table is changed, removed or put in, as hypothesis finds it: never does the log hold then."""

import sqlite3
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attacks.forging import contents, insert, owner, remove
from tests.attacks.victim import Victim, verdict

VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.binary(max_size=40),
)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_change_of_one_row_goes_unseen(untouched: Victim, data: st.DataObject) -> None:
    before = contents(untouched.database)
    table = data.draw(st.sampled_from(sorted(before)), "table")
    row = data.draw(st.sampled_from(before[table]), "row")
    other = row | {data.draw(st.sampled_from(sorted(row)), "column"): data.draw(VALUES, "value")}
    how = data.draw(st.sampled_from(["change", "remove", "put in"]), "how")

    with tempfile.TemporaryDirectory() as folder:
        victim = untouched.copied(Path(folder) / "var")
        try:
            with owner(victim.database) as db:
                if how != "put in":
                    remove(db, table, row)
                if how != "remove":
                    insert(db, table, other)
        except sqlite3.IntegrityError:  # there is such a row, or no number where there must be one
            return

        assert contents(victim.database) == before or verdict(victim).answer != "held"
