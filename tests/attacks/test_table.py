"""docs/attacks.md has every attack that is tested here, and no other."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "attacks.md"


def test_the_page_names_every_attack_and_no_other() -> None:
    here = {
        name
        for file in Path(__file__).parent.glob("test_*.py")
        if file.name != Path(__file__).name
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }

    assert set(re.findall(r"`(test_\w+)`", PAGE.read_text())) == here
