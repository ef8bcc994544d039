"""The small stores beside this file were made by it, run by the code of the release whose schema each is named after.

    git worktree add /srv/loans REVISION; cd /srv/loans; AUDIT_HOME=/srv/loans/var python -P make.py

A flow with a retry, a dataset, a model on its way to production, and a moment in which the store took nothing.
"""

import platform
import pwd
import socket
import sqlite3
import sys
from hashlib import sha256

socket.gethostname = lambda: "works1"
pwd.getpwuid = lambda _: pwd.struct_passwd(("jane", "", 0, 0, "", "", ""))
platform.platform = lambda *_, **__: "Linux-6.1.0-x86_64-with-glibc2.36"

from audit import flow, record, task  # noqa: E402
from audit.events import payloads as p  # noqa: E402
from audit.events.payloads import used  # noqa: E402
from audit.events.references import DatasetVersion, ModelVersion  # noqa: E402
from audit.recording import recorder  # noqa: E402
from audit.recording.initialise import initialise  # noqa: E402
from audit.settings import settings  # noqa: E402
from audit.store.engine import close_stores  # noqa: E402

ROWS, MODEL = sha256(b"rows").hexdigest(), sha256(b"model").hexdigest()
rows = DatasetVersion(
    name="loans/ingested", version=1, address=f"artifact://sha256/{ROWS}", digest=f"sha256:{ROWS}", rows=3
)
model = ModelVersion(name="loans", version=1, address=f"artifact://sha256/{MODEL}", digest=f"sha256:{MODEL}")
tries: list[str] = []


@task(retries=1)
def ingest(source: str) -> DatasetVersion:
    tries.append(source)
    if len(tries) == 1:
        raise ConnectionError("the source did not answer")
    facts = p.DatasetFacts(
        spec="loans", name=rows.name, version=1, digest=rows.digest, address=rows.address, rows=3, columns=[]
    )
    record("dataset.ingested", facts, subject="dataset/loans/ingested/1")
    return rows


@task
def train(rows: DatasetVersion) -> ModelVersion:
    step = p.StageFacts(spec="loans", model=used("model", model), version=1, environment="none", reason="evaluated")
    record("model.registered", step, subject="model/loans/v1")
    deployed = step.model_copy(update={"environment": "production", "reason": "all gates held"})
    record("model.deployed", deployed, subject="model/loans/v1")
    return model


@flow(name="training")
def training(source: str = "loans.csv") -> ModelVersion:
    return train(ingest(source))


def locked_out() -> None:
    """An event that waits in the spool and comes home."""
    close_stores()
    other = sqlite3.connect(settings().home / "audit.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    details = [p.Named(name="threshold", value="0.5")]
    facts = p.ChangeFacts(spec="loans", what="spec", is_now="sha256:" + "1" * 64, details=details)
    record("pipeline.changed", facts, subject="spec/loans")
    other.close()
    again = recorder._recorder()
    again.failed_at = None
    again.bring_home()


if __name__ == "__main__":
    initialise("acme.example/loans")
    training()
    locked_out()
    if "--seal" in sys.argv:  # of a release that can
        recorder.flow_ended()
    small = settings().home / "small.db"
    sqlite3.connect(settings().home / "audit.db").execute("VACUUM INTO ?", (str(small),))
    sqlite3.connect(small).executescript("PRAGMA page_size = 512; VACUUM")
