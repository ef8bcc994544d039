"""A validation as a page: what was found, how many rows were set aside for what, and Great Expectations' own account.

Great Expectations says what it found as a tree of titles, sentences and tables; its own page of that fetches styles,
scripts and a logo from eight hosts, and takes a column's name for HTML. So the tree is written down here.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from string import Template
from typing import TYPE_CHECKING, Any

from audit.events.payloads import Expectation, ValidationFacts
from audit.privacy import redact
from audit.spec.model import Spec
from tasks import _frames as frames
from tasks import _pages as pages
from tasks import _pictures as pictures
from tasks._pages import Markup
from tasks._pictures import Bar

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult

SHOWN = 20  # bars of one picture, the longest
BROKEN = "unexpected_index_list"
POSITIONS = (BROKEN, "unexpected_index_query")
ACCOUNT = "Great Expectations"
SET_ASIDE, MISSING = "Rows that break a rule", "Missing values"
_SIGNS = {"✅": '<span class="held">held</span>', "❌": '<span class="broken">broken</span>'}


def page(
    facts: ValidationFacts, spec: Spec, nulls: Mapping[str, int], judged: "Sequence[ExpectationSuiteValidationResult]"
) -> str:
    """What was found as a whole page; `nulls` are the missing values of each column that was checked."""
    parts = [
        verdict(facts),
        "## Rules",
        frames.as_markdown([_row_in_bold(outcome) for outcome in facts.expectations]),
        f"## {SET_ASIDE}",
        _of_whole(facts),
        f"## {MISSING}",
        "" if any(nulls.values()) else "No column has any.",
        f"## {ACCOUNT}",
        "What it says of each suite, in its own words: rules, limits and counts. It was told to keep no value.",
    ]
    beneath = {SET_ASIDE: _set_aside(facts), MISSING: _missing(facts, spec, nulls)}
    account = Markup("".join(_suite(one) for one in judged))
    title = f"Validation of {redact.text(spec.title)}"
    return pages.page(title, "\n\n".join(filter(None, parts)) + "\n", beneath, last=account)


def verdict(facts: ValidationFacts) -> str:
    """Whether the dataset was taken, in markdown; that it was not comes first."""
    if facts.held:
        return f"**Accepted.** {in_a_line(facts)}"
    broken = [each for each in facts.expectations if not each.held and each.severity == "critical"]
    named = ", ".join(pages.plain(str(each)) for each in broken)
    return f"**Rejected: no row was passed on, for critical rules did not hold: {named}.**\n\n{in_a_line(facts)}"


def in_a_line(facts: ValidationFacts) -> str:
    """`12 of 13 rules held on loans/ingested version 2, 3 of 360 rows set aside as loans/rejected version 1.`"""
    held = sum(outcome.held for outcome in facts.expectations)
    kept = f" as {facts.rejected.of} version {facts.rejected.version}" if facts.rejected else ""
    return (
        f"{held} of {len(facts.expectations)} rules held on {facts.checked.of} version {facts.checked.version}, "
        f"{facts.rejected_rows:,} of {facts.rows:,} rows set aside{kept}."
    )


def row(outcome: Expectation) -> dict[str, str | int | None]:
    """One rule and how it came out, as a row for people."""
    counted = outcome.unexpected is not None and outcome.checked is not None
    return {
        "rule": outcome.rule,
        "column": outcome.column,
        "held": "yes" if outcome.held else "no",
        "unexpected": f"{outcome.unexpected:,} of {outcome.checked:,}" if counted else None,
        "severity": outcome.severity,
    }


def _row_in_bold(outcome: Expectation) -> dict[str, str | int | None]:
    return row(outcome) | {"held": "yes" if outcome.held else "**no**"}


def _of_whole(facts: ValidationFacts) -> str:
    if any(outcome.unexpected for outcome in facts.expectations):
        return ""
    return "There is none."


def _set_aside(facts: ValidationFacts) -> list[Markup]:
    broken = [outcome for outcome in facts.expectations if outcome.unexpected]
    broken.sort(key=lambda outcome: -(outcome.unexpected or 0))
    shown = [
        Bar(str(each), (each.unexpected or 0) / facts.rows, beyond=not each.held and each.severity == "critical")
        for each in broken[:SHOWN]
    ]
    told = f"Share of the {facts.rows:,} rows that break each rule{_up_to(len(broken))}; a row may break several."
    return [pictures.bars(shown, SET_ASIDE, "share of rows", told, percent=True)] if shown else []


def _missing(facts: ValidationFacts, spec: Spec, nulls: Mapping[str, int]) -> list[Markup]:
    allowed = {column.name: column.nulls for column in spec.columns if column.nulls < 1}
    some = sorted((name for name, count in nulls.items() if count), key=lambda name: -nulls[name])
    shown = [
        Bar(name, share := nulls[name] / facts.rows, allowed.get(name), share > allowed.get(name, 1.0))
        for name in some[:SHOWN]
    ]
    told = (
        f"Share of the {facts.rows:,} rows in which each column has no value{_up_to(len(some))}. A stroke stands at "
        "the largest share that the spec allows."
    )
    return [pictures.bars(shown, MISSING, "share of rows", told, percent=True)] if shown else []


def _up_to(number: int) -> str:
    return f", the {SHOWN} largest of {number}" if number > SHOWN else ""


def _suite(judged: "ExpectationSuiteValidationResult") -> str:
    """Great Expectations' sections of one suite, but for the first: that says what stands on our page already, and has
    a fingerprint of the rows in it, which can be guessed back."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer

    for result in judged.results:
        for positions in POSITIONS:
            result.result.pop(positions, None)
    sections = ValidationResultsPageRenderer().render(judged).sections[1:]
    return "".join(_block(block) for section in sections for block in section.to_json_dict()["content_blocks"])


def _block(block: Mapping[str, Any]) -> str:
    """A title or a table of a section; pictures and what folds away are left out."""
    match block["content_block_type"]:
        case "header":
            return f"<h3>{_told(block['header'])}</h3>\n"
        case "table":
            return _table(block)
    return ""


def _table(block: Mapping[str, Any]) -> str:
    heads = "".join(f'<th scope="col">{_told(head)}</th>' for head in block.get("header_row", ()))
    lines = "\n".join(f"<tr>{''.join(f'<td>{_told(cell)}</td>' for cell in line)}</tr>" for line in block["table"])
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>\n{lines}</tbody></table></div>\n'


def _told(content: Any) -> str:
    """A sentence of Great Expectations' as HTML, with whatever was filled in marked out."""
    match content:
        case list():
            return " ".join(_told(part) for part in content)
        case {"string_template": {"template": str(words), "params": dict(params)}}:
            return _filled(words, params)
        case {"string_template": {"template": str(words)}}:
            return escape(redact.text(words))
        case {"content_block_type": "table"}:
            return _table(content)
        case dict():
            return ""  # a picture
    return escape(redact.text(str(content)))


def _filled(words: str, params: Mapping[str, Any]) -> str:
    return Template(escape(redact.text(words))).safe_substitute(dict(_parameters(params))).strip()


def _parameters(params: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    sign = _SIGNS.get(str(params.get("markdown_status_icon")), "could not be checked")
    for name, value in params.items():
        yield name, sign if name == "icon" else f'<span class="badge">{escape(redact.text(str(value)))}</span>'
