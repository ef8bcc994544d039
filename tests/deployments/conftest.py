"""A use case that trains in a second, for flows on a worker; the containers' files."""

import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from deployments.where import CLONE
from tests.deployments.visits import write_visits


@pytest.fixture
def visits(tmp_path: Path) -> Path:
    """The spec's file."""
    return write_visits(tmp_path)


@pytest.fixture(scope="session")
def compose() -> dict:
    """compose.yaml, its `<<` merged."""
    return yaml.safe_load((CLONE / "deployments/containers/compose.yaml").read_text())


@pytest.fixture(scope="session")
def final_image() -> list[tuple[str, list[str]]]:
    """The Dockerfile's last stage: each instruction with its words."""
    text = (CLONE / "deployments/containers/Dockerfile").read_text().replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.rpartition("\nFROM ")[2].splitlines()[1:]]
    return [(line[0], line[1:]) for line in lines if line]


@pytest.fixture(scope="session")
def image_environment(final_image: list[tuple[str, list[str]]]) -> dict[str, str]:
    return dict(pair.split("=", 1) for name, pairs in final_image if name == "ENV" for pair in pairs)


@pytest.fixture
def image_folder(tmp_path: Path, final_image: list[tuple[str, list[str]]]) -> Path:
    """/app as the image has it, made of what the Dockerfile copies from the clone."""
    folder = tmp_path / "app"
    for name, words in final_image:
        if name == "COPY" and not words[0].startswith("--"):
            for source in words[:-1]:
                place = CLONE / source
                copied = folder / words[-1] / ("" if place.is_dir() else place.name)
                copied.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if place.is_dir() else shutil.copy2)(place, copied)
    return folder
