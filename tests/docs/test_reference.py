"""What the docs say of events, commands and the keys of a spec is what the code says."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    found = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["events", "commands", "spec"])
def test_the_page_is_what_the_code_says(reference: ModuleType, page: str) -> None:
    assert (DOCS / f"{page}.md").read_text() == getattr(reference, page)(), "run python docs/reference.py"


def test_every_key_of_a_spec_has_a_meaning(reference: ModuleType) -> None:
    told = {path: reference.meanings(part) for path, part in reference.sections().items()}
    silent = [f"{path}: {key}" for path, keys in told.items() for key, meaning in keys.items() if not meaning]
    assert not silent, "say what it means in a comment in audit/spec/model.py"
