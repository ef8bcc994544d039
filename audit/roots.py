"""A root that files are kept under, by its URL: a folder (a plain path or file://), s3://, gs:// or az://.

What obstore says about it is cut to a line here, and no line holds a password or a query.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://[^/]*(?=/))?")
_SECRET_PARTS = re.compile(r"(?<=://)[^/\s\"@]*@|\?[^\s\"]*")  # of URLs within a text: user and password, the query
_SECRETS = re.compile(r"(?<=://)[^/?]*@|\?.*", re.DOTALL)  # of what is all an URL
_RETRIES = re.compile(r", after \d+ retries, max_retries: \d+, retry_timeout: \w+ *")
_S3_SAYS = re.compile(r"<Code>([^<]+)</Code>(?:\s*<Message>([^<]+)</Message>)?")


def scheme_of(url: str) -> str:
    """`s3`; nothing for a plain path."""
    found = _SCHEME.match(url)
    return found[1].lower() if found else ""


def folder_of(url: str) -> Path | None:
    """The folder that `url` means: a plain path or file://; None for an object store."""
    scheme = scheme_of(url)
    if scheme == "file":
        return Path(unquote(_SCHEME.sub("", url, count=1)))
    return None if scheme else Path(url).absolute()


def shown(url: str) -> str:
    """The root as it may be shown: without password or query."""
    return str(folder_of(url) or _SECRETS.sub("", url))


def opened(url: str) -> "ObjectStore":
    """The root, a folder made if need be. Raises obstore's BaseError, or OSError.

    A bucket of S3 that locks what is put into it takes nothing without a checksum.
    """
    from obstore.store import LocalStore, from_url

    folder = folder_of(url)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        return LocalStore(folder)
    try:
        return from_url(url, checksum_algorithm="SHA256") if scheme_of(url) in ("s3", "s3a") else from_url(url)
    except ValueError as no_url:
        raise OSError(str(no_url)) from None


def reason(broken: Exception) -> str:
    """Why a root could not be used, in one line: what S3 or the system said, without obstore's debug output."""
    text = str(broken)
    if said := _S3_SAYS.search(text):
        text = ": ".join(part.strip() for part in said.groups() if part)
    return _SECRET_PARTS.sub("", _RETRIES.sub(" ", text.strip().partition("\n")[0]))
