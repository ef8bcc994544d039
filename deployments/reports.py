"""The pages that are on record for people, served on this machine: Data Docs, drift reports, evaluations, model cards.

Served is what an event names as its report, and nothing else: no dataset, no model, no file by its path. Some pages
come from other makers, so a browser is told to run each in a sandbox, where it can ask for nothing, from anywhere.
"""

import re
from html import escape
from itertools import groupby
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from audit.artifacts import blobs
from audit.errors import ArtifactUnavailable, AuditError
from audit.events.vocabulary import VOCABULARY
from audit.settings import settings
from audit.store import read
from audit.store.engine import open_existing
from tasks import _pages as pages
from tasks._pages import Markup

PORT = 4201  # beside Prefect's own
SHOWN = 1_000  # reports in the list, the latest
KEYS = ("report", "page")  # under which events name them
TYPES = tuple(type for type, known in VOCABULARY.items() if "report" in known.payload.model_fields)

_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'unsafe-inline'"
PLAIN = f"{_NOTHING}; sandbox"  # of pages without a script, as all of ours are
SCRIPTED = f"{_NOTHING}; script-src 'unsafe-inline'; img-src data: blob:; font-src data:; sandbox allow-scripts"
HEADERS = {"Cache-Control": "no-cache", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
_OURS = {**HEADERS, "Content-Security-Policy": PLAIN}


def main() -> None:
    """Entry of `python -m deployments.reports`."""
    typer.run(serve)


def serve(
    port: Annotated[int, typer.Option(help="The port to listen on.")] = PORT,
    host: Annotated[str, typer.Option(help="The address to listen on. There is no password.")] = "127.0.0.1",
) -> None:
    """Serve the reports that are on record.  Example: python -m deployments.reports --port 4201"""
    import uvicorn

    uvicorn.run(application(), host=host, port=port, log_level="warning")


def application() -> Starlette:
    """The server. It answers to its own names only, so that no other site's name can be led to it."""
    own_name = urlsplit(settings().reports_url or "").hostname
    names = ["127.0.0.1", "localhost", *([own_name] if own_name else [])]
    return Starlette(
        routes=[Route("/", index), Route("/health", health), Route("/{digest}", report)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=names)],
        exception_handlers={AuditError: unavailable},
    )


def index(request: Request) -> Response:
    """Every report by spec, the latest first."""
    found = sorted(read.reports(open_existing(), TYPES, keys=KEYS, limit=SHOWN), key=_spec)
    parts = [f"<h2>{escape(spec)}</h2>\n{_list(list(rows))}" for spec, rows in groupby(found, _spec)]
    return _page("Reports", "\n".join(parts) or "<p>None is on record yet.</p>")


def health(request: Request) -> Response:
    """That it is there."""
    return Response(status_code=204)


def report(request: Request) -> Response:
    """One report, as its bytes are on record; what is no HTML is Markdown."""
    address = blobs.SCHEME + request.path_params["digest"]
    found = read.reports(open_existing(), TYPES, keys=KEYS, address=address)
    if not found:
        return _page("Not found", "<p>No such report is on record.</p>", 404)
    content = blobs.get(address)
    if content.lstrip().startswith(b"<"):
        policy = SCRIPTED if b"<script" in content.lower() else PLAIN
        return HTMLResponse(content, headers={**HEADERS, "Content-Security-Policy": policy})
    return HTMLResponse(pages.page(found[0]["name"], content.decode()), headers=_OURS)


async def unavailable(request: Request, error: Exception) -> Response:
    """A store or a report that cannot be read, in its own words."""
    return _page(
        "Not available", f"<p>{escape(str(error))}</p>", 404 if isinstance(error, ArtifactUnavailable) else 503
    )


def _list(rows: list[dict[str, Any]]) -> str:
    columns = ("report", "of", "run", "made (UTC)", "on record")
    heads = "".join(f'<th scope="col">{column}</th>' for column in columns)
    lines = "\n".join(
        f'<tr><td><a href="/{row["address"].removeprefix(blobs.SCHEME)}">{escape(row["name"])}</a></td>'
        f"<td>{escape(row['type'])}</td><td>{escape(row['run'] or '')}</td>"
        f"<td>{row['time'][:16].replace('T', ' ')}</td><td>event {row['event_id']}</td></tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>\n{lines}</tbody></table></div>'


def _spec(row: dict[str, Any]) -> str:
    """The use case that a report is of; of one that only a task run tells of, by its name: `loans/card v1`."""
    return str(row["spec"] or re.split("[/ ]", row["name"])[0])


def _page(title: str, body: str, status: int = 200) -> Response:
    return HTMLResponse(pages.whole(title, Markup(body)), status, headers=_OURS)


if __name__ == "__main__":
    main()
