"""References: what a window is called, it is."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.events.references import Window


@given(st.dates(date(1990, 1, 1), date(2100, 1, 1)), st.integers(1, 1000))
def test_a_window_is_read_back_from_its_name(start: date, days: int) -> None:
    window = Window(start=start, end=start + timedelta(days=days))
    assert Window.parse(str(window)) == window


@pytest.mark.parametrize(("year", "month"), [(2013, 7), (2012, 2), (2013, 12)])
def test_a_month_is_read_back_too(year: int, month: int) -> None:
    assert Window.parse(str(Window.month(year, month))) == Window.month(year, month)


@pytest.mark.parametrize("text", ["", "July 2013", "2013-07…", "2013-13"])
def test_what_names_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Window.parse(text)
