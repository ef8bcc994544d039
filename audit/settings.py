"""Every AUDIT_* variable, read once into one frozen record.

AUDIT_HOME           where the store, keys, artifacts and logs live; default: `var/` beside the project
AUDIT_DATABASE_URL   another database than AUDIT_HOME/audit.db
AUDIT_ARTIFACTS_URL  another root for artifacts than AUDIT_HOME/artifacts (a folder, s3://, gs://, az://)
AUDIT_MODE           `spool` (default): a store that fails never stops the pipeline; `strict`: no audit, no run
AUDIT_ALERT_URL      any apprise address that alerts go to by default; none: no alert is sent
AUDIT_ALERT_URL_<X>  the same for a target that a spec calls <x>
AUDIT_SOURCE_URL_<X> SQLAlchemy URL of the database that a spec calls <x>
AUDIT_ESTIMATORS     dotted paths of your own estimators that a spec may name, with commas between them
AUDIT_EVIDENTLY_URL  where Evidently's own UI shows AUDIT_HOME/evidently; `make ui` sets it
AUDIT_REPORTS_URL    where reports and Data Docs are served; `make ui` sets it
AUDIT_LOG_KEY        the log's signing key itself; default: AUDIT_HOME/keys/log.key
AUDIT_LOG_KEY_BLOCK  the Prefect Secret block that holds it
AUDIT_TSA_URL        a time stamp authority (RFC 3161) that checkpoints are stamped by
AUDIT_TSA_ROOTS      PEM file of the authorities' roots that are believed
AUDIT_WITNESSES      file of witnesses, a line each: verifier key, space, URL (c2sp.org/tlog-witness)
AUDIT_RETENTION      how long payloads of events of no spec are kept: `25 months`, `2 years`; default: `forever`
AUDIT_PUBLISH_URL    a folder, s3://, gs:// or az:// that the log is published to (c2sp.org/tlog-tiles)
"""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, cast

from audit.errors import AuditError, UserError

Mode = Literal["spool", "strict"]
_KEPT = re.compile(r"forever|[1-9][0-9]{0,2} (month|year)s?")  # as in a spec's `retention`


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the record lives and how strict it is."""

    home: Path
    database_url: str | None  # None: `audit.db` in the home
    artifacts_url: str
    mode: Mode = "spool"
    alert_url: str | None = None
    alert_urls: tuple[tuple[str, str], ...] = ()  # target name in lower case, address
    source_urls: tuple[tuple[str, str], ...] = ()  # database name in lower case, SQLAlchemy URL
    estimators: tuple[str, ...] = ()
    evidently_url: str | None = None
    reports_url: str | None = None
    log_key: str | None = field(default=None, repr=False)
    log_key_block: str | None = None
    tsa_url: str | None = field(default=None, repr=False)  # may hold a password
    tsa_roots: Path | None = None
    witnesses: Path | None = None
    publish_url: str | None = field(default=None, repr=False)
    retention: str = "forever"

    @property
    def spool_path(self) -> Path:
        return self.home / "spool.db"

    @property
    def lost_path(self) -> Path:
        return self.home / "spool.lost"

    @property
    def keys_path(self) -> Path:
        return self.home / "keys"

    @property
    def evidently_path(self) -> Path:
        return self.home / "evidently"

    @property
    def log_path(self) -> Path:
        return self.home / "logs" / "audit.jsonl"


@cache
def settings() -> Settings:
    """This process's settings. Tests that change the environment call `settings.cache_clear()`."""
    return read_settings(os.environ, Path.cwd())


def strict() -> bool:
    """Whether nothing may run unrecorded. Settings that cannot be read, of which each event warns, may mean it too."""
    try:
        return settings().mode == "strict"
    except AuditError:
        return os.environ.get("AUDIT_MODE") not in (None, "", "spool")  # a word that is not known may mean strict


def read_settings(environ: Mapping[str, str], start: Path) -> Settings:
    """Settings that `environ` gives; the default home is sought upwards from `start`.

    Raises UserError if the home would be a temporary folder or the mode is unknown.
    """
    home = Path(environ["AUDIT_HOME"]).absolute() if environ.get("AUDIT_HOME") else _default_home(start)
    mode = environ.get("AUDIT_MODE") or "spool"
    if mode not in ("spool", "strict"):
        raise UserError(f"AUDIT_MODE is {mode!r}.", hint="Set it to spool or strict.")
    return Settings(
        home=home,
        database_url=environ.get("AUDIT_DATABASE_URL") or None,
        artifacts_url=environ.get("AUDIT_ARTIFACTS_URL") or (home / "artifacts").as_uri(),
        mode=cast(Mode, mode),
        alert_url=environ.get("AUDIT_ALERT_URL") or None,
        alert_urls=_named(environ, "AUDIT_ALERT_URL_"),
        source_urls=_named(environ, "AUDIT_SOURCE_URL_"),
        estimators=tuple(path.strip() for path in environ.get("AUDIT_ESTIMATORS", "").split(",") if path.strip()),
        evidently_url=environ.get("AUDIT_EVIDENTLY_URL") or None,
        reports_url=environ.get("AUDIT_REPORTS_URL") or None,
        log_key=environ.get("AUDIT_LOG_KEY") or None,
        log_key_block=environ.get("AUDIT_LOG_KEY_BLOCK") or None,
        tsa_url=environ.get("AUDIT_TSA_URL") or None,
        tsa_roots=_path(environ.get("AUDIT_TSA_ROOTS")),
        witnesses=_path(environ.get("AUDIT_WITNESSES")),
        publish_url=environ.get("AUDIT_PUBLISH_URL") or None,
        retention=_retention(environ.get("AUDIT_RETENTION") or "forever"),
    )


def _retention(written: str) -> str:
    if not _KEPT.fullmatch(written):
        raise UserError(f"AUDIT_RETENTION is {written!r}.", hint="Set it to `25 months`, `2 years` or `forever`.")
    return written


def _path(written: str | None) -> Path | None:
    return Path(written).absolute() if written else None


def _named(environ: Mapping[str, str], prefix: str) -> tuple[tuple[str, str], ...]:
    found = ((name.removeprefix(prefix).lower(), url) for name, url in environ.items() if name.startswith(prefix))
    return tuple(sorted((name, url) for name, url in found if url))


def _default_home(start: Path) -> Path:
    """`var/` beside the nearest pyproject.toml at or above `start`, else in `start` itself.

    Workers run flows in temporary folders and crash hooks in another folder still:
    a store made there would vanish, so such a home has to be named.
    """
    project = next((p for p in (start, *start.parents) if (p / "pyproject.toml").is_file()), start)
    home = project / "var"
    if home.is_relative_to(Path(tempfile.gettempdir()).resolve()):
        raise UserError(
            f"The audit store would live in {home}, a temporary folder.",
            hint="Set AUDIT_HOME to a folder that stays.",
        )
    return home
