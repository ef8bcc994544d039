"""Where the `make ui` of this record serves: one file in AUDIT_HOME, a line for each variable that runs read."""

import os
from collections.abc import Mapping
from pathlib import Path

HOST = "127.0.0.1"
API, REPORTS, EVIDENTLY = "PREFECT_API_URL", "AUDIT_REPORTS_URL", "AUDIT_EVIDENTLY_URL"


def note(home: Path, addresses: Mapping[str, str]) -> None:
    """Write them down; the Makefile reads them too."""
    _file(home).write_text("".join(f"{name}={address}\n" for name, address in addresses.items()))


def noted(home: Path) -> dict[str, str]:
    """What is written down, empty where no `make ui` runs. One that was killed may have left it behind."""
    if not _file(home).exists():
        return {}
    lines = (line.partition("=") for line in _file(home).read_text().splitlines())
    return {name: address for name, _, address in lines}


def forget(home: Path) -> None:
    """It has ended."""
    _file(home).unlink(missing_ok=True)


def past_the_proxy() -> dict[str, str]:
    """Variables that keep what is on this machine from a company's proxy, which knows nothing of it."""
    return {name: f"{os.environ[name]},{HOST}" if os.environ.get(name) else HOST for name in ("NO_PROXY", "no_proxy")}


def _file(home: Path) -> Path:
    return home / "ui.env"
