"""Pages for people: markdown as one HTML file that fetches nothing, runs nothing and links nowhere.

Whatever a user wrote (titles, names, a spec's words) comes in as markdown and can be no markup: the parser knows no
HTML, no link and no image. Only what we made ourselves, as `Markup`, is taken as it is.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import TYPE_CHECKING

from audit.privacy import redact

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

# A page that is opened as a file has no server to say so for it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328; --faint: #656d76; --line: #d0d7de; --wash: #f6f8fa;
  --main: #0b5cad; --other: #b35900; --good: #17692f; --bad: #a40e26 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171c; --ink: #e2e6ea; --faint: #9aa4af; --line: #3a424c; --wash: #1d2229;
    --main: #6cb0f5; --other: #f0a35e; --good: #67c587; --bad: #ff8088 } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2.5rem auto 4rem; padding: 0 1.25rem; overflow-wrap: anywhere }
p, ul, ol { max-width: 46rem }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .75rem }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line) }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem } h4 { font-size: 1rem; margin: 1.2rem 0 .3rem }
a { color: var(--main) }
code, .badge { font: .88em ui-monospace, monospace; background: var(--wash); border-radius: 4px; padding: .1em .35em }
.wide { overflow-x: auto; margin: .6rem 0 1.4rem }
table { border-collapse: collapse; font-size: .94rem; line-height: 1.4; overflow-wrap: normal }
th, td { border-bottom: 1px solid var(--line); padding: .32rem 1.4rem .32rem 0; text-align: left; vertical-align: top }
th { color: var(--faint); font-weight: 600; white-space: nowrap } td { max-width: 40rem; overflow-wrap: break-word }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.held { color: var(--good) } .broken { color: var(--bad); font-weight: 600 }
figure { margin: .8rem 0 1.6rem } figcaption { color: var(--faint); font-size: .92rem; max-width: 46rem }
svg { width: 100%; max-width: 52rem; height: auto } svg * { stroke-linejoin: round }
"""

# What markdown may take for more than a sign; at the beginning of a line also a heading, a quotation and a list.
_MARKS = re.compile(r"[\\`*\[\]<|~&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[-+=#>]|(?<=^\d)[.)]|(?<=^\d\d)[.)]")
_NUMBER = re.compile(r"[-+−]?[\d,]*\.?\d+ ?%?( \[[^\]]*\])?( of [\d,]+)?|")


@dataclass(frozen=True, slots=True)
class Markup:
    """HTML that we made: nothing of a user's stands in it unescaped."""

    html: str


def page(
    title: str, markdown: str, beneath: Mapping[str, Sequence[Markup]] | None = None, last: Markup = Markup("")
) -> str:
    """A whole page. What is `beneath` a heading of the markdown comes right after it."""
    return whole(title, Markup(_rendered(markdown, beneath or {}) + last.html))


def whole(title: str, body: Markup) -> str:
    """`body` under its title, with the style sheet."""
    shown = escape(" ".join(title.split()))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{shown}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body><main>\n<h1>{shown}</h1>\n{body.html}</main></body></html>\n"
    )


def pictures_beneath(html: str, heading: str) -> list[Markup]:
    """The pictures right beneath this heading of a page that `page` made."""
    found = re.search(rf"<h\d>{re.escape(escape(heading))}</h\d>\n((?:<figure>.*?</figure>\n)+)", html, re.DOTALL)
    return [Markup(found[1])] if found else []


def said(words: str) -> str:
    """What somebody wrote in a spec, as paragraphs of markdown in which nothing is markup."""
    paragraphs = re.split(r"\n\s*\n", words.strip())
    return "\n\n".join(plain(redact.text(paragraph)) for paragraph in paragraphs)


def plain(words: str) -> str:
    """`words` in one line of markdown, where no sign means more than itself."""
    return _MARKS.sub(r"\\\g<0>", " ".join(words.split()))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A table of HTML; columns of figures stand to the right."""
    numbers = [_is_number(column) for column in zip(*rows, strict=True)] if rows else [False] * len(head)
    heads = "".join(f'<th scope="col"{_aligned(n)}>{escape(name)}</th>' for name, n in zip(head, numbers, strict=True))
    lines = "\n".join(
        f"<tr>{''.join(f'<td{_aligned(n)}>{escape(cell)}</td>' for cell, n in zip(row, numbers, strict=True))}</tr>"
        for row in rows
    )
    return Markup(f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>\n{lines}</tbody></table></div>\n')


def _rendered(markdown: str, beneath: Mapping[str, Sequence[Markup]]) -> str:
    parser = _parser()
    tokens = list(_with_markup(_with_scopes(parser.parse(markdown)), beneath))
    return str(parser.renderer.render(tokens, parser.options, {}))


@cache
def _parser() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    return parser.disable(["link", "image", "autolink", "reference", "html_inline", "html_block"])


def _with_markup(tokens: "Sequence[Token]", beneath: Mapping[str, Sequence[Markup]]) -> "Iterator[Token]":
    """`tokens`, and after each heading what belongs there. Tables can be scrolled sideways."""
    heading = ""
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and following:
            heading = following.content
        if token.type == "table_open":
            yield _raw('<div class="wide">')
        yield token
        if token.type == "table_close":
            yield _raw("</div>\n")
        if token.type == "heading_close":
            yield from (_raw(markup.html) for markup in beneath.get(heading, ()))


def _raw(html: str) -> "Token":
    from markdown_it.token import Token

    return Token("html_block", "", 0, content=html)


def _with_scopes(tokens: "Sequence[Token]") -> "Sequence[Token]":
    """Every head cell says that it heads its column, and columns of figures stand to the right."""
    cells: list[Token] = []  # of one table, each followed in the text by what it holds
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type in ("th_open", "td_open") and following:
            token.meta = {"text": following.content}
            cells.append(token)
        if token.type == "table_close":
            _align(cells)
            cells = []
    return tokens


def _align(cells: "Sequence[Token]") -> None:
    width = sum(cell.type == "th_open" for cell in cells)
    for at in range(width):
        head, *column = cells[at::width]
        head.attrSet("scope", "col")
        if _is_number([cell.meta["text"] for cell in column]):
            for cell in (head, *column):
                cell.attrSet("class", "number")


def _is_number(column: Sequence[str]) -> bool:
    """Whether these cells are figures, whole numbers, shares or figures with an interval; some may be empty."""
    return any(column) and all(_NUMBER.fullmatch(cell) for cell in column)


def _aligned(number: bool) -> str:
    return ' class="number"' if number else ""
