"""docs/own-data.md does what it says, word for word. PREFECT_AUDIT_DOCS=1 writes into it what its commands say now."""

import os
import re
from pathlib import Path

import pytest

from tests.docs.following import BLOCK, CLONE, Step, masked, steps, terminal_in_a_clone

PAGE = CLONE / "docs/own-data.md"
REWRITE = os.environ.get("PREFECT_AUDIT_DOCS") == "1"


@pytest.mark.slow
@pytest.mark.xdist_group("prefect server")
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


def told(step: Step) -> list[str]:
    return [step.command, *masked(step.says)]
