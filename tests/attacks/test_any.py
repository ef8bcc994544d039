"""Any one row of any table is changed, removed or put in, as hypothesis finds it: never does the log hold then."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attacks.forging import REFUSED, contents, insert, owner, remove
from tests.attacks.victim import Victim, verdict

VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.binary(max_size=40),
)

OF_A_TYPE = {  # where a column takes no other
    int: st.integers(-(2**63), 2**63 - 1),
    str: st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    bytes: st.binary(max_size=40),
}


@given(data=st.data())
@settings(max_examples=40)
def test_no_change_of_one_row_goes_unseen(untouched: Victim, data: st.DataObject) -> None:
    before = contents(untouched.database)
    table = data.draw(st.sampled_from(sorted(before)), "table")
    row = data.draw(st.sampled_from(before[table]), "row")
    column = data.draw(st.sampled_from(sorted(row)), "column")
    values = OF_A_TYPE.get(type(row[column]), st.none()) | st.none() if untouched.url else VALUES
    other = row | {column: data.draw(values, "value")}
    how = data.draw(st.sampled_from(["change", "remove", "put in"]), "how")

    with tempfile.TemporaryDirectory() as folder:
        victim = untouched.copied(Path(folder) / "var")
        try:
            with owner(victim.database) as db:
                if how != "put in":
                    remove(db, table, row)
                if how != "remove":
                    insert(db, table, other)
        except REFUSED:
            return

        assert contents(victim.database) == before or verdict(victim).answer != "held"
