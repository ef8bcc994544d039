"""Tables of markdown show what is in their cells, and let nothing of it act."""

import pytest
from markdown_it import MarkdownIt

from tasks import _frames as frames

RENDER = MarkdownIt("commonmark", {"html": True}).enable("table").render


@pytest.mark.parametrize(
    "value",
    ["a | b", "a\\|b", "![x](http://tracker/x.png)", "\\![x\\](http://tracker)", "<img src=http://tracker>",
     "<http://tracker>", "[x](http://tracker)", "[[a](b)](http://tracker)", "<!-- x", "0.75 [0.74, 0.76]", "<= 0.05"],
)  # fmt: skip
def test_a_cell_shows_its_value_and_nothing_else(value: str) -> None:
    html = RENDER(frames.as_markdown([{"slice": value, "rows": 1}]))
    shown = value.replace("<", "&lt;").replace(">", "&gt;")
    assert f"<td>{shown}</td>\n<td>1</td>" in html


def test_a_line_in_a_cell_does_not_end_the_table() -> None:
    assert frames.as_markdown([{"slice": "north\n\n# hello"}]).count("\n") == 2


def test_intervals_and_limits_stay_readable_as_text() -> None:
    assert "| 0.75 [0.74, 0.76] | <= 0.05 |" in frames.as_markdown([{"auc": "0.75 [0.74, 0.76]", "limit": "<= 0.05"}])
