"""The report server: what is on record as a report, as it was kept, in a sandbox, and nothing else of the machine."""

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import polars as pl
import pytest
import uvicorn

from audit import record
from audit.artifacts import blobs, datasets, reports
from audit.events.payloads import (
    AlertFacts,
    ColumnDrift,
    DriftFacts,
    EvaluationFacts,
    RunState,
    Used,
    ValidationFacts,
    used,
)
from audit.events.references import DatasetVersion, Report
from deployments.reports import application
from tasks._pages import Markup, whole

HTML = "<!DOCTYPE html><html><body><script>document.title = 'Evidently'</script></body></html>"
MARKDOWN = "# Evaluation\n\n| gate | held |\n| --- | --- |\n| auc | yes |\n\n<script>alert(1)</script>\n"
ROWS = Used(name="rows", kind="dataset", of="loans/ingested", version=1, address="artifact://x", digest="sha256:y")


@pytest.fixture
def server(home: Path) -> Iterator[httpx.Client]:
    """The real server on a port of its own."""
    uvicorns = uvicorn.Server(uvicorn.Config(application(), port=0, log_level="error"))
    thread = threading.Thread(target=uvicorns.run)
    thread.start()
    while not uvicorns.started:
        time.sleep(0.01)
    port = uvicorns.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        yield client
    uvicorns.should_exit = True
    thread.join()


@pytest.fixture
def dataset(home: Path) -> DatasetVersion:
    return datasets.put(pl.DataFrame({"income": [1, 2]}), "loans/ingested")


def validation(page: Report, spec: str = "loans") -> None:
    record(
        "dataset.validated",
        ValidationFacts(
            spec=spec, checked=ROWS, expectations=[], rows=2, rejected_rows=0, held=True, report=used("report", page)
        ),
        subject="dataset/loans/ingested/1",
    )


def came_to(*outputs: Report | DatasetVersion) -> None:
    """A task run on record that came to these."""
    told = [used("return", output) for output in outputs]
    record("task_run.completed", RunState(run_name="write", of="write_card", outputs=told), subject="task_run/1")


def drift(report: Report, snapshot: Report, *types: str, page: Report | None = None) -> None:
    column = ColumnDrift(name="income", method="jensenshannon", score=0.3, threshold=0.2, drifted=True)
    facts = DriftFacts(
        spec="loans", window="2024-07", reference=ROWS, current=ROWS, report=used("report", report),
        page=used("page", page) if page else None,
        snapshot=used("snapshot", snapshot), sample_rows=1, seed=0, columns=[column], watched=1, drifted=1,
        share=1, rule="any", detected=True,
    )  # fmt: skip
    for type in types:
        record(type, facts, subject="dataset/loans/features/1")


def evaluation(page: Report) -> None:
    record(
        "model.evaluated",
        EvaluationFacts(
            spec="loans", model=ROWS, tested_on=ROWS, metrics=[], gates=[], held=True, seed=0,
            report=used("report", page),
        ),
        subject="model/loans/unregistered",
    )  # fmt: skip


def path_of(reference: Report | DatasetVersion) -> str:
    return reference.address.removeprefix(blobs.SCHEME)


def test_every_report_on_record_is_listed_by_spec_and_opens(server: httpx.Client) -> None:
    validation(reports.put(HTML.encode(), "loans data docs"))
    drifted = reports.put(b"<p>drift</p>", "loans drift 2024-07")
    drift(drifted, reports.put(b"{}", "loans drift", "application/json"), "drift.checked", "drift.detected")
    evaluation(reports.put(MARKDOWN.encode(), "loans/evaluation", "text/markdown"))
    validation(reports.put(b"<p>other</p>", "visits data docs"), spec="visits")

    listed = server.get("/").text

    assert re.findall(r"<h2>(\w+)</h2>", listed) == ["loans", "visits"]
    found = re.findall(r'href="(/\w+)">([^<]+)</a></td><td>([\w.]+)<', listed)
    assert [(name, type) for _, name, type in found] == [
        ("loans/evaluation", "model.evaluated"),
        ("loans drift 2024-07", "drift.detected"),
        ("loans data docs", "dataset.validated"),
        ("visits data docs", "dataset.validated"),
    ]
    assert [server.get(link).status_code for link, _, _ in found] == [200] * 4


def test_a_page_is_served_as_it_was_kept_and_may_ask_for_nothing(server: httpx.Client) -> None:
    page = reports.put(HTML.encode(), "loans data docs")
    validation(page)

    answer = server.get(path_of(page))

    assert answer.text == HTML
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    rules = dict(rule.strip().partition(" ")[::2] for rule in answer.headers["content-security-policy"].split(";"))
    assert rules["default-src"] == rules["form-action"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert rules["sandbox"] == "allow-scripts"
    sources = {word for name, words in rules.items() if name.endswith("-src") for word in words.split()}
    assert sources == {"'none'", "'unsafe-inline'", "data:", "blob:"}, "nothing that names a host"


def test_a_page_without_a_script_may_run_none(server: httpx.Client) -> None:
    page = reports.put(whole("Validation", Markup("<p>held</p>")).encode(), "loans data docs")
    validation(page)

    policy = server.get(path_of(page)).headers["content-security-policy"]

    assert "script" not in policy and policy.endswith("; sandbox")
    assert "style-src 'unsafe-inline'" in policy, "its style sheet and its pictures' styles stand in it"


def test_a_page_that_only_a_task_run_tells_of_is_listed_with_its_use_case(server: httpx.Client) -> None:
    card = reports.put(b"<p>card</p>", "loans/card v1")
    came_to(card)

    assert re.findall(r"<h2>(\w+)</h2>", server.get("/").text) == ["loans"]
    assert server.get(path_of(card)).text == "<p>card</p>"


def test_a_page_that_both_an_event_and_a_task_run_tell_of_is_listed_once_as_the_event_s(server: httpx.Client) -> None:
    page = reports.put(MARKDOWN.encode(), "loans/evaluation", "text/markdown")
    evaluation(page)
    came_to(page)

    assert re.findall(r"</a></td><td>([\w.]+)<", server.get("/").text) == ["model.evaluated"]


def test_a_message_that_links_to_a_page_is_none_itself(server: httpx.Client) -> None:
    found = AlertFacts(alert="1", kind="drift", severity="warning", title="t", body="b", report="http://elsewhere/page")
    record("alert.raised", found, subject="spec/loans")

    assert "None is on record yet." in server.get("/").text


def test_the_drift_page_of_ours_is_served_beside_evidently_s(server: httpx.Client) -> None:
    evidently, ours = reports.put(HTML.encode(), "loans drift"), reports.put(b"<p>in short</p>", "loans drift in short")
    drift(evidently, reports.put(b"{}", "loans drift", "application/json"), "drift.checked", page=ours)

    assert [server.get(path_of(page)).status_code for page in (evidently, ours)] == [200, 200]


def test_markdown_is_rendered_and_a_tag_in_it_stays_text(server: httpx.Client) -> None:
    page = reports.put(MARKDOWN.encode(), "loans/evaluation", "text/markdown")
    evaluation(page)

    answer = server.get(path_of(page))

    assert "<td>auc</td>" in answer.text
    assert "<script>" not in answer.text
    assert "script-src" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "how", ["{dataset}", "{unrecorded}", "{snapshot}", "..%2f..%2faudit.db", "../audit.db", "x" * 64, "%00"]
)
def test_what_is_no_report_on_record_is_not_served(how: str, server: httpx.Client, dataset: DatasetVersion) -> None:
    snapshot = reports.put(b'{"kept": "beside the page"}', "loans drift", "application/json")
    drift(reports.put(b"<p>drift</p>", "loans drift"), snapshot, "drift.checked")
    came_to(dataset)
    unrecorded = reports.put(b"<p>nobody named this one</p>", "stray")

    asked = how.format(dataset=path_of(dataset), unrecorded=path_of(unrecorded), snapshot=path_of(snapshot))

    assert server.get(f"/{asked}").status_code == 404


def test_another_sites_name_is_not_answered(server: httpx.Client) -> None:
    assert server.get("/", headers={"Host": "rebound.example"}).status_code == 400


def test_a_page_whose_bytes_differ_is_refused_in_words(server: httpx.Client) -> None:
    page = reports.put(HTML.encode(), "loans data docs")
    validation(page)
    kept = blobs.local_path(page.address)
    assert kept
    kept.write_text(HTML.replace("Evidently", "somebody else"))

    answer = server.get(path_of(page))

    assert answer.status_code == 404
    assert "have another SHA-256" in answer.text


def test_without_a_store_it_says_how_to_make_one(server: httpx.Client) -> None:
    answer = server.get("/")

    assert answer.status_code == 503
    assert "There is no audit store" in answer.text and "audit init" in answer.text
