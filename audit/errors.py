"""Everything that can go wrong, as one family. Each kind carries its exit code; `hint` says what to do.

AuditError                 1  something did not hold
├── UserError              1  input that a person can mend
│   ├── SpecError             a use case's YAML file
│   ├── BadData               a source, a window, a column
│   │   ├── NoRows            a window in which the source has none
│   │   │   └── NotYet        and after which it has none either
│   │   └── DatasetRejected   a critical rule of validation did not hold
│   └── NotAwaiting           a model version that no person is asked about, or no more
├── NotFound               1  a run, an event, a model that is not on record
├── ProofRejected          1  a proof, a note or a bundle that does not hold
│   └── AuthorityUnknown      a time stamp or cosignature by nobody whose word is taken here
├── AnchorRefused          1  an authority or a witness that was asked and does not vouch
├── InconsistentTree       1  what the store holds does not continue what was signed
└── CouldNotTell           2  no answer, for lack of what it takes
    ├── StoreUnavailable      the store cannot be opened, read or written
    │   ├── StoreBusy         others were writing for longer than we wait
    │   ├── NotPermitted      the database's login may not do this
    │   ├── StoreRefused      the store is there, but a guard or a constraint of it refuses this
    │   └── StoreDamaged      its file is damaged, no database, or another application's
    ├── ArtifactUnavailable   bytes that an address names are gone or differ
    ├── AnchorUnavailable     an authority or a witness does not answer
    ├── KeyUnavailable        a key file is missing or open to others
    ├── PublicationUnavailable  a place that a log is published to cannot be read or written
    └── AuditUnavailable      mode strict: neither store nor spool took the event
"""


class AuditError(Exception):
    """What happened, to which thing; `hint` is what to do next, or empty."""

    exit_code = 1

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} {self.hint}".rstrip()

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.hint)


def _rebuild(kind: type[AuditError], what: str, hint: str) -> AuditError:
    return kind(what, hint=hint)


class UserError(AuditError):
    """Input that a person can mend."""


class SpecError(UserError):
    """A spec that cannot be used; the text begins with `file:line:`."""


class BadData(UserError):
    """A source, window or column that a stage cannot work on."""


class NoRows(BadData):
    """A window in which the source has no rows."""


class NotYet(NoRows):
    """A window that begins after the source's last row."""


class DatasetRejected(BadData):
    """A dataset that did not hold a rule marked critical."""


class NotAwaiting(UserError):
    """A model version that no person is asked about, or that was decided on before."""


class NotFound(AuditError):
    """Something asked for by name that is not on record."""


class ProofRejected(AuditError):
    """A proof, a signed note or a bundle that does not hold, or is none."""


class AuthorityUnknown(ProofRejected):
    """A time stamp or a cosignature by nobody whose word is taken here; whether it is right cannot be told."""


class AnchorRefused(AuditError):
    """An authority or a witness that was asked to vouch for a checkpoint and does not."""


class InconsistentTree(AuditError):
    """What the store holds does not continue what was signed before: nothing more may be signed."""


class CouldNotTell(AuditError):
    """No answer either way, for lack of what it takes to give one."""

    exit_code = 2


class StoreUnavailable(CouldNotTell):
    """The audit store cannot be opened, read or written."""


class StoreBusy(StoreUnavailable):
    """Others were writing for longer than we wait: what they decide meanwhile is not known."""


class NotPermitted(StoreUnavailable):
    """The login that AUDIT_DATABASE_URL names has no right to do this."""


class StoreRefused(StoreUnavailable):
    """The store can be written, but a guard or a constraint of it refuses just this."""


class StoreDamaged(StoreUnavailable):
    """The file is damaged, no database at all, or another application's: it is left as it is."""


class ArtifactUnavailable(CouldNotTell):
    """The bytes at an artifact's address are missing or have another digest."""


class AnchorUnavailable(CouldNotTell):
    """An authority or a witness that does not answer: whether it would vouch is not known."""


class KeyUnavailable(CouldNotTell):
    """A key file is missing, or can be read by others."""


class PublicationUnavailable(CouldNotTell):
    """The folder or bucket that a log is published to cannot be read or written, or holds no log."""


class AuditUnavailable(CouldNotTell):
    """Mode `strict`: an event could not be written anywhere, so nothing may run."""
