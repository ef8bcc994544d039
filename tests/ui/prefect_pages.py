"""Prefect's own UI (V1), used and read as a person would: by the words on it, with mouse and keyboard.

Its labels point at nothing, so a form's field is found by the words above it. Its lists show no
more than has room, so they are read on a very tall screen.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from playwright.sync_api import Locator, Page, TimeoutError, expect

A_PAGE = 30_000  # milliseconds until it is there, on a busy machine
TRIES = 3  # under load the server's SQLite refuses
ENDED = ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut")


@dataclass(frozen=True)
class RunShown:
    """The head of a flow run's page."""

    name: str
    state: str
    tags: list[str]


@dataclass(frozen=True)
class PrefectPages:
    """The UI at `url`, in one page of a browser. What reads or waits does so on the page that is open."""

    page: Page
    url: str

    def open(self, path: str) -> None:
        """Go to a path of the UI."""
        self.page.goto(f"{self.url}{path}", timeout=A_PAGE)

    def open_deployment(self, name: str) -> None:
        """By the menu to the list, by the list to the deployment."""
        self.open("/")
        self.page.get_by_text("Deployments", exact=True).first.click(timeout=A_PAGE)
        self.page.locator("a[href^='/deployments/deployment/']").get_by_text(name, exact=True).click(timeout=A_PAGE)
        self._with_run_button()

    def quick_run(self) -> str:
        """Start a run of the deployment with two clicks; the run's id, its page open."""
        quick = self.page.get_by_role("button", name="Quick run")
        for _ in range(TRIES):
            self._run_button.click()
            if appeared(quick):
                break
            self._with_run_button(anew=True)  # the page got half of what it asked for
        return self._made_by(quick)

    def open_run_form(self) -> dict[str, str]:
        """Open the form of a custom run of the deployment: what each field says about itself."""
        self._run_button.click()
        self.page.get_by_text("Custom run", exact=True).click()
        return fields(self.page)

    def submit_run_form(self, **values: str) -> str:
        """Start a run with these values; the run's id, its page open."""
        for name, value in values.items():
            fill(self.page, name, value)
        return self._made_by(self.page.get_by_role("button", name="Submit"))

    def open_run(self, run_id: str) -> None:
        """Go to a flow run's page."""
        self.open(f"/runs/flow-run/{run_id}")
        self._head.wait_for(timeout=A_PAGE)

    def run(self) -> RunShown:
        """What the head of the run's page says."""
        name = self._head.locator(".p-bread-crumbs__crumb").last.inner_text()
        tags = self._head.locator(".p-tag-wrapper__tag .p-tag").all_inner_texts()
        return RunShown(name, self._head.locator(".state-badge").inner_text(), tags)

    def wait_for(self, *states: str, seconds: float) -> str:
        """Wait until the run's page says one of these states, as it does by itself; which one."""
        badge = self._head.locator(".state-badge").filter(has_text=re.compile("|".join(states)))
        badge.wait_for(timeout=seconds * 1000)
        return badge.inner_text()

    def task_runs(self) -> list[str]:
        """Names of the run's task runs, the latest first."""
        self._tab("Task Runs")
        return whole(self.page.locator("a[href^='/runs/task-run/']"))

    def logs(self) -> list[str]:
        """The run's log, a message each."""
        self._tab("Logs")
        return whole(self.page.locator(".log-row__content"))

    def parameters(self) -> str:
        """The run's parameters, as JSON."""
        self._tab("Parameters")
        shown = self.page.locator(".p-code-highlight, pre").filter(has_text="{").first
        shown.wait_for(timeout=A_PAGE)
        return shown.inner_text()

    def artifacts(self) -> dict[str, str]:
        """Keys of the run's and its task runs' artifacts, with their descriptions."""
        self._tab("Artifacts")
        keys = whole(self._cards.locator(".artifact-card__title"))
        return dict(zip(keys, whole(self._cards.locator(".artifact-card__description-container")), strict=True))

    def open_artifact(self, key: str) -> Locator:
        """Click on an artifact of the run: what its page shows of it, Markdown and tables rendered."""
        self._tab("Artifacts")
        title = re.compile(f"^{re.escape(key)}$")
        with tall(self.page):
            self._cards.locator(".artifact-card__title", has_text=title).first.click(timeout=A_PAGE)
        shown = self.page.locator(".artifact")
        shown.locator(".artifact-data-view").wait_for(timeout=A_PAGE)
        return shown

    def feed(self, event: str) -> list[str]:
        """The event feed's cards of one kind of event, the latest first: their words."""
        self.open(f"/events?events={event}")
        name = self.page.get_by_text(event, exact=True)
        return whole(self.page.locator(".p-timeline-item").filter(has=name))

    def automations(self) -> list[str]:
        """Names of the automations."""
        self.open("/automations")
        return whole(self.page.locator("a[href^='/automations/automation/']"))

    def open_resume_form(self) -> Locator:
        """Open the form that the paused run waits for: its fields are there, and what is said above them."""
        self.page.get_by_role("button", name="Resume").click(timeout=A_PAGE)
        form = self.page.get_by_role("dialog")
        form.locator(".schema-form-property").first.wait_for(timeout=A_PAGE)
        return form

    def answer(self, form: Locator, **values: str) -> None:
        """Fill in the form and submit it. It closes once the run goes on."""
        for name, value in values.items():
            fill(form, name, value)
        form.get_by_role("button", name="Submit").click()
        expect(form).to_have_count(0, timeout=A_PAGE)

    def follow(self, name: str) -> Page:
        """Click on a link of the page; the page it leads to, which may be a new one."""
        link = self.page.get_by_role("link", name=name, exact=True).first
        if link.get_attribute("target") == "_blank":
            with self.page.expect_popup(timeout=A_PAGE) as opened:
                link.click()
            return opened.value
        link.click()
        return self.page

    @property
    def _run_button(self) -> Locator:
        return self.page.get_by_role("button", name="Run", exact=True).first

    def _with_run_button(self, *, anew: bool = False) -> None:
        """The deployment's page with its button, asked for once more where the server was too busy for a part of it."""
        for _ in range(TRIES):
            if anew:
                self.page.reload(timeout=A_PAGE)
            if appeared(self._run_button):
                return
            anew = True

    @property
    def _head(self) -> Locator:
        return self.page.locator(".page-heading-flow-run")

    @property
    def _cards(self) -> Locator:
        return self.page.locator(".artifact-card")

    def _made_by(self, button: Locator) -> str:
        """Click, and once more where the server was too busy to take it; open the page of the run that was made."""
        for _ in range(TRIES):
            with self.page.expect_response("**/create_flow_run", timeout=A_PAGE) as made:
                button.click()
            if made.value.ok:
                break
        run_id = str(made.value.json()["id"])
        self.open_run(run_id)
        return run_id

    def _tab(self, name: str) -> None:
        self.page.locator(".p-tab").get_by_text(name, exact=True).click(timeout=A_PAGE)


def appeared(item: Locator) -> bool:
    """Whether it is there, or comes within the time that a page may take."""
    try:
        item.wait_for(timeout=A_PAGE)
    except TimeoutError:
        return False
    return True


def fields(form: Page | Locator) -> dict[str, str]:
    """What each field of a form says about itself, by the name above it."""
    form.locator(".schema-form-property").first.wait_for(timeout=A_PAGE)
    return {
        field.locator(".schema-form-property__label").inner_text().removesuffix(" (Optional)"): "".join(
            field.locator(".schema-form-property__description").all_inner_texts()
        )
        for field in form.locator(".schema-form-property").all()
    }


def fill(form: Page | Locator, name: str, value: str) -> None:
    """Give the field of that name a value: type it, or choose it where there is a list."""
    label = re.compile(rf"^{name}( \(Optional\))?$", re.IGNORECASE)
    page = form if isinstance(form, Page) else form.page
    field = form.locator(".schema-form-property").filter(
        has=page.locator(".schema-form-property__label", has_text=label)
    )
    choice = field.locator(".p-select-button__control")
    if not choice.count():
        field.locator("textarea, input").fill(value)
        return
    choice.focus()  # a click would close the list at once where the form is a dialog, which takes back the focus
    page.keyboard.press("Space")
    page.locator(".p-select-options").get_by_text(value, exact=True).click()


def whole(items: Locator) -> list[str]:
    """The words of each item of a list that shows no more than has room."""
    with tall(items.page):
        items.first.wait_for(timeout=A_PAGE)
        items.page.wait_for_load_state("networkidle")
        return [words.strip() for words in items.all_inner_texts()]


@contextmanager
def tall(page: Page) -> Iterator[None]:
    """As on a very tall screen."""
    usual = page.viewport_size
    assert usual is not None
    page.set_viewport_size({**usual, "height": 8_000})
    yield
    page.set_viewport_size(usual)
