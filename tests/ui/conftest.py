"""A real browser, Debian's, that sees nothing but this machine: whatever a page asks for elsewhere fails its test."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from deployments.where import CLONE

log = logging.getLogger("browser")
SIZE = {"width": 1280, "height": 800}
SCREENSHOTS = CLONE / "docs" / "screenshots"
HERE = {"127.0.0.1", "localhost"}
FLAGS = [
    "--no-sandbox",  # Chromium refuses to run as root with it
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]


@pytest.fixture
def browser() -> Iterator[Browser]:
    """One for each test: Playwright leaves an event loop running, in which no asynchronous test could start."""
    found = shutil.which("chromium")
    if found is None and os.environ.get("PREFECT_AUDIT_BROWSER") == "required":
        pytest.fail("PREFECT_AUDIT_BROWSER says that there is a browser, and there is no `chromium` on the PATH.")
    if found is None:
        pytest.skip("no browser: install Debian's chromium")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=found, args=FLAGS)


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """An empty page. Its errors and the last thing it showed are there to look at when a test fails."""
    context = browser.new_context(viewport=SIZE, device_scale_factor=1, locale="en-GB", timezone_id="UTC")
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    context.on("console", lambda said: said.type == "error" and log.error("%s (%s)", said.text, said.page.url))
    context.on("weberror", lambda failed: log.error("%s", failed.error))
    page = context.new_page()
    page.on("websocket", lambda socket: asked.append(socket.url))
    yield page
    for number, shown in enumerate(context.pages):
        shown.screenshot(path=tmp_path / f"last-seen-{number}.png")
    context.close()
    assert [url for url in asked if leaves_this_machine(url)] == []


def leaves_this_machine(url: str) -> bool:
    """Whether asking for it would."""
    asked = urlsplit(url)
    return asked.scheme not in {"data", "blob", "about"} and asked.hostname not in HERE


@pytest.fixture
def screenshot(page: Page, tmp_path: Path) -> Callable[[str], None]:
    """Keep what the page shows, for the docs when PREFECT_AUDIT_SCREENSHOTS=1 says so, else beside the test's files."""
    folder = SCREENSHOTS if os.environ.get("PREFECT_AUDIT_SCREENSHOTS") == "1" else tmp_path
    folder.mkdir(parents=True, exist_ok=True)

    def keep(name: str) -> None:
        page.wait_for_timeout(1_000)  # its parts come in one after the other, and nothing tells of the last
        page.screenshot(path=folder / f"{name}.png", animations="disabled")

    return keep
