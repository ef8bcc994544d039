"""docs/own-data.md does what it says, word for word. PREFECT_AUDIT_DOCS=1 writes into it what its commands say now."""

import os
import re
from pathlib import Path

import pytest
import yaml

from audit.spec.load import parse_spec
from tests.docs.following import BLOCK, CLONE, Step, masked, steps, terminal_in_a_clone

PAGE = CLONE / "docs/own-data.md"
LINES = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
LOANS = """
name: loans
title: Loans that are repaid
sources: {loans: {file: loans.csv}}
columns:
  - {name: applied_at, dtype: datetime, role: time}
  - {name: amount, dtype: float}
  - {name: repaid, dtype: boolean, role: target, known_at: outcome}
target: {column: repaid}
drift: {watch: [amount], share: 0.5}
"""
REWRITE = os.environ.get("PREFECT_AUDIT_DOCS") == "1"


@pytest.mark.slow
def test_the_page_is_followed_word_for_word(tmp_path: Path) -> None:
    page = PAGE.read_text()
    with terminal_in_a_clone(tmp_path) as terminal:

        def follow(block: re.Match[str]) -> str:
            came = [terminal.follow(step) for step in steps(block[1])]
            if not REWRITE:
                assert [told(step) for step in came] == [told(step) for step in steps(block[1])]
            return f"```text\n{terminal.as_on_the_page(''.join(step.as_shown() for step in came))}```"

        rewritten = BLOCK.sub(follow, page)
    if REWRITE:
        PAGE.write_text(rewritten)


@pytest.mark.parametrize("lines", LINES, ids=lambda lines: lines.split(":")[0])
def test_a_spec_holds_with_the_lines_that_the_page_adds(lines: str) -> None:
    spec, more = yaml.safe_load(LOANS), yaml.safe_load(lines)
    parse_spec(yaml.safe_dump(spec | more | {"columns": spec["columns"] + more.get("columns", [])}), "loans.yaml")


def told(step: Step) -> list[str]:
    return [step.command, *masked(step.says)]
