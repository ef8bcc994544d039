"""Asking those outside over HTTP: one POST, an answer of bounded size in bounded time, no redirects, no telemetry.

Addresses may hold passwords: they go out as basic authentication, and are named by scheme, host and port alone.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from audit.errors import AnchorRefused, AnchorUnavailable, AuditError, UserError

if TYPE_CHECKING:
    from httpx import AsyncClient, Response

PATIENCE_SECONDS = 20.0  # for one answer, all of it
MAX_ANSWER = 1 << 16  # bytes; a time stamp with its chain of certificates has 3 to 10 thousand
LAST_PORT = 65_535
MAX_FILE = 1 << 20  # bytes of roots or of witnesses; a system's whole store of roots has a quarter of that
CHECK = "Check its address, and that it is one."
LATER = "Try again later."


class Answer(NamedTuple):
    """What was answered; what of it is wanted is for the asker to say."""

    status: int
    type: str  # of its content, without parameters
    body: bytes


def ask(url: str, content: bytes, type: str, who: str) -> Answer:
    """What a POST is answered, in PATIENCE_SECONDS however slowly it comes. Raises AnchorUnavailable, AnchorRefused."""
    with ThreadPoolExecutor(1) as own:  # a loop of its own: the caller may be inside one
        return own.submit(asyncio.run, _posted(url, content, type, who)).result()


def refusal(status: int, who: str) -> AuditError:
    """What a status says that nobody wanted."""
    if status >= 500 or status in (408, 429):
        return AnchorUnavailable(f"{who} answered {status}.", hint=LATER)
    if 300 <= status < 400:
        return AnchorRefused(f"{who} sends us elsewhere ({status}), where nobody goes.", hint="Name the other address.")
    return AnchorRefused(f"{who} answered {status}.", hint=CHECK)


def demand_address(url: str, what: str) -> None:
    """Raises UserError, which does not show the address, if it is none."""
    import httpx

    with suppress(httpx.InvalidURL, UnicodeError):
        parsed = httpx.URL(url)
        if parsed.scheme in ("http", "https") and parsed.host and 0 <= (parsed.port or 0) <= LAST_PORT:
            return
    raise UserError(f"{what} is none.", hint="One begins with https:// or http://.")


def shown(url: str) -> str:
    """Scheme, host and port: what may be seen of an address."""
    import httpx

    parsed = httpx.URL(url)
    return f"{parsed.scheme}://{parsed.netloc.decode()}"


def content_of(path: Path) -> bytes:
    """A file that names whom to ask or to believe. Raises UserError if it cannot be read or is too long."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    if len(content) > MAX_FILE:
        raise UserError(f"{path} has more than {MAX_FILE:,} bytes.")
    return content


def line_of(error: Exception) -> str:
    """A library's words, as much of them as fits in a line."""
    return str(error).partition("\n")[0].strip()[:160]


async def _posted(url: str, content: bytes, type: str, who: str) -> Answer:
    import httpx

    headers = {"Content-Type": type, "Accept-Encoding": "identity", "User-Agent": "prefect-audit"}
    address = httpx.URL(url).copy_with(userinfo=b"")  # httpx logs the address that it is given
    try:
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            client_for(url) as client,
            client.stream("POST", address, content=content, headers=headers) as response,
        ):
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            return Answer(response.status_code, kind, await _body(response, who))
    except TimeoutError:  # ours: httpx would begin anew with every byte
        raise AnchorUnavailable(f"{who} gave no answer in {PATIENCE_SECONDS:g} s.", hint=LATER) from None
    except httpx.HTTPError as failed:
        why = line_of(failed) or failed.__class__.__name__
        raise AnchorUnavailable(f"{who} cannot be reached ({why}).", hint=LATER) from None


async def _body(response: "Response", who: str) -> bytes:
    """As it came: what is packed may be far larger than it looks."""
    found = b""
    async for part in response.aiter_raw():
        found += part
        if len(found) > MAX_ANSWER:
            raise AnchorRefused(f"{who} answers with more than {MAX_ANSWER:,} bytes.", hint=CHECK)
    return found


def client_for(url: str) -> "AsyncClient":
    """A client that knows the password in `url`. Proxies are the environment's; UserError if those cannot be used."""
    import httpx

    parsed = httpx.URL(url)
    auth = httpx.BasicAuth(parsed.username, parsed.password) if parsed.userinfo else None
    try:
        return httpx.AsyncClient(auth=auth, timeout=None)  # noqa: S113  # who calls it has one for all
    except (ValueError, ImportError, OSError) as unusable:
        raise UserError(
            f"The proxy or the certificates that the environment names cannot be used ({type(unusable).__name__}).",
            hint="See HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE.",
        ) from None
