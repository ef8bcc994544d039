"""Pages: whatever a user wrote stays words; nothing is fetched, run or led anywhere; and it can be read."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import _frames as frames
from tasks._pages import Markup, page, pictures_beneath, plain, said, table, whole
from tests.tasks.read_pages import Page

HOSTILE = {
    "a script": "<script>alert(1)</script>",
    "an image": '<img src="http://tracker.example/x.png" onerror=alert(1)>',
    "markdown's image": "![x](http://tracker.example/x.png)",
    "markdown's link": "[x](javascript:alert(1))",
    "a bare link": "<http://tracker.example>",
    "an end of everything": '"></td></table></style></title></svg><script src=//tracker.example></script>',
    "an attribute": "x' onmouseover='alert(1)",
    "a style": "</style><style>body { background: url(http://tracker.example) }</style>",
    "right to left": "\u202eevil",
    "an entity": "&lt;b&gt;",
}
REFERENCE = "[a]: http://tracker.example\n\n[a]"

# Letters, and every sign that means something in HTML, markdown or a table.
WORDS = st.text(alphabet=st.sampled_from(list("ab1é<>&\"'`*_[]()#|~!\\-+=.: \n:/{}$@")), min_size=1, max_size=40)


@pytest.mark.parametrize("words", HOSTILE.values(), ids=HOSTILE.keys())
def test_words_of_a_user_s_can_neither_fetch_nor_run_nor_lead_anywhere(words: str) -> None:
    markdown = f"{said(words)}\n\n## {words}\n\n{frames.as_markdown([{words: words}])}\n\n{words}\n"
    read = Page(page(words, markdown, {words: [table([words], [[words]])]}))
    assert read.faults == []
    assert read.count("style") == 1 and read.count("title") == 1 and read.count("script") == 0


def test_a_reference_of_markdown_s_is_no_link() -> None:
    assert Page(page("x", REFERENCE)).faults == []


@given(WORDS, WORDS, WORDS)
def test_no_words_whatever_can_leave_their_place(title: str, words: str, cell: str) -> None:
    markdown = f"{plain(words)}\n\n## {words}\n\n{frames.as_markdown([{'column': cell, 'rows': words}])}\n\n{words}"
    assert Page(page(title, markdown)).faults == []


@given(WORDS.filter(str.strip))
def test_plain_words_are_read_as_they_were_written(words: str) -> None:
    shown = Page(whole("x", Markup(""))).words
    assert Page(page("x", f"{plain(words)}\n")).words == " ".join([shown, *words.split()]).strip()


def test_a_title_stands_once_on_top_and_once_in_the_tab_escaped() -> None:
    html = page("Loans <b>\n& co", "words")
    assert "<title>Loans &lt;b&gt; &amp; co</title>" in html and "<h1>Loans &lt;b&gt; &amp; co</h1>" in html
    assert html.startswith("<!DOCTYPE html>\n") and '<html lang="en">' in html and '<meta charset="utf-8">' in html


def test_opened_as_a_file_a_page_forbids_itself_everything_but_its_style() -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page("x", "words"))
    assert policy and policy[1].startswith("default-src &#x27;none&#x27;; style-src")
    assert "script" not in policy[1]


def test_every_colour_is_defined_for_the_light_and_for_the_dark() -> None:
    html = page("x", "words")
    light, dark = re.findall(r":root \{([^}]*)\}", html)
    assert "color-scheme: light dark" in light and "prefers-color-scheme: dark" in html
    named = set(re.findall(r"(--\w+):", light))
    assert set(re.findall(r"var\((--\w+)\)", html)) <= named == set(re.findall(r"(--\w+):", dark))


def test_a_table_names_its_columns_and_sets_figures_to_the_right() -> None:
    rows = [
        {"column": "debt", "rows": "1,200", "AUC": "0.710 [0.690, 0.730]"},
        {"column": "12", "rows": "7", "AUC": ""},
    ]
    for html in (
        page("x", frames.as_markdown(rows)),
        table(list(rows[0]), [list(row.values()) for row in rows]).html,
    ):
        read = Page(html)
        assert read.count("th", scope="col") == read.count("th") == 3
        assert [found.get("class") for tag, found in read.tags if tag == "td"] == [None, "number", "number"] * 2


def test_markup_stands_right_beneath_its_heading_and_what_is_last_at_the_end() -> None:
    html = page("x", "## One\n\nfirst\n\n## Two\n\nsecond\n", {"One": [Markup("<hr>")]}, last=Markup("<br>"))
    assert re.search(r"<h2>One</h2>\s*<hr>\s*<p>first</p>\s*<h2>Two</h2>\s*<p>second</p>\s*<br>", html)


def test_pictures_can_be_taken_over_from_beneath_a_heading() -> None:
    one, two, three = (Markup(f"<figure>{n}</figure>\n") for n in "123")
    made = page("x", "## A & b\n\n## C\n\n## D\n", {"A & b": [one, two], "C": [three]})
    assert pictures_beneath(made, "A & b") == [Markup(one.html + two.html)]
    assert pictures_beneath(made, "C") == [three] and pictures_beneath(made, "D") == []
    assert pictures_beneath(page("x", "\\<h2>A\\</h2>\n\\<figure>1\\</figure>\n"), "A") == [], "words are no picture"


def test_what_somebody_wrote_keeps_its_paragraphs_and_loses_its_secrets() -> None:
    read = page("x", said("For *clerks*.\n\nAsk with ghp_16C7e42F292c6912E7710c838347Ae178B4a\nfirst."))
    assert "<p>For *clerks*.</p>\n<p>Ask with [redacted] first.</p>" in read
