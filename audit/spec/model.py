"""The spec: one YAML file is one use case. Everything a stage needs to know about the data stands here."""

from collections.abc import Iterator
from datetime import date, timedelta
from itertools import takewhile
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from audit.events.references import Window

Pii = Literal["none", "quasi", "direct", "secret"]
Handling = Literal["keep", "drop", "hash", "generalise"]
Dtype = Literal["integer", "float", "string", "boolean", "date", "datetime"]
Role = Literal["feature", "target", "key", "time", "protected", "info"]
TargetKind = Literal["binary", "multiclass", "regression"]

# What happens to a column of each class where the spec does not say otherwise.
HANDLING_OF: dict[Pii, Handling] = {"none": "keep", "quasi": "keep", "direct": "drop", "secret": "drop"}


class Part(BaseModel):
    """Base of every section: frozen, and a key that we do not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceTable(Part):
    """One named table: a file, a folder of Parquet files, a data file inside an installed package, or rows of a
    database."""

    file: str | None = None  # a file or a folder, relative to the spec's folder or to `package`
    package: str | None = None  # an installed Python package that holds `file`
    format: Literal["csv", "parquet"] | None = None  # by default from the file's name; a .zip holds one file
    separator: Literal[",", ";", "|", "\t"] | None = None  # of CSV: by default a comma, a tab in .tsv
    decimal_comma: bool = False  # of CSV: 3,14 is a number; the separator is another one then
    null_values: tuple[str, ...] = ()  # of CSV: texts that stand for a missing value
    # An SQLAlchemy URL without a password, or the name x of one that AUDIT_SOURCE_URL_X holds.
    database: str | None = None
    table: str | None = None  # of the database, `schema.table` where it needs one
    query: str | None = None  # or what it is to be asked, in its own SQL


class Generalised(Part):
    """How a quasi-identifier loses its precision before anything is written. One of these."""

    width: float | None = Field(default=None, gt=0)  # numbers: the lower edge of the band of this width
    edges: tuple[float, ...] | None = None  # numbers: the edge below, the first one for what lies under it
    prefix: int | None = Field(default=None, ge=1)  # text: its first letters
    to: Literal["month", "year"] | None = None  # dates: their first day


class Column(Part):
    """One column of the joined table: what it means, how it is handled, when it is known."""

    name: str  # as the source or the `query` calls it
    dtype: Dtype  # what its values are read as; one that cannot be stops the run
    # `feature`: the model sees it. `key`: with the event time it tells one row from another. `protected`: figures are
    # taken apart by it, and no model sees it. `target`, `time`, `info`: no model sees it.
    role: Role = "feature"
    # Whether it points at a person: `quasi` along with others, `direct` by itself; `secret` is a password or the like.
    # By default direct and secret ones are dropped, all others kept.
    pii: Pii = "none"
    handling: Handling | None = None  # by default from `pii`; the entity key is hashed
    generalise: Generalised | None = None  # implies the handling of that name
    date_format: str | None = None  # of a date that is not written as ISO 8601 does, for example %d/%m/%Y
    known_at: Literal["decision", "outcome"] = "decision"  # `outcome`: known only afterwards, never a feature
    assumption: str | None = None  # what is taken for granted about it, in words that go on record
    min: float | None = None  # of a number: the least value allowed
    max: float | None = None  # of a number: the greatest value allowed
    values: tuple[str | int | bool, ...] | None = None  # the only values allowed
    nulls: float = 1.0  # the largest share of missing values allowed; with 0, rows without one are set aside
    unique: bool = False  # no value stands in two rows
    severity: Literal["warning", "critical"] = "warning"  # of `min` to `unique`; a broken critical one stops the run


class Derived(Part):
    """A column computed from others by one Polars SQL expression."""

    name: str  # of the new column; of a rule, what it is called on record
    sql: str  # over columns and what is derived before it; a row's own values only
    dtype: Dtype  # what the result is
    role: Literal["feature", "target", "protected", "info", "rule"] = "feature"  # `rule`: rows must hold it
    known_at: Literal["decision", "outcome"] = "decision"  # `outcome`: known only afterwards, never a feature
    severity: Literal["warning", "critical"] = "warning"  # of a rule: a boolean that must be true
    assumption: str | None = None  # what is taken for granted about it, in words that go on record


class Target(Part):
    """What is predicted: a column, and of a binary one the value that counts as positive."""

    column: str  # declared or derived, with `known_at: outcome`
    kind: TargetKind = "binary"  # one value or not, one of several, or a number
    positive: str | int | bool = True  # of a binary one; all other values are negative


class Rows(Part):
    """How many rows a window must have; less or more is a critical finding."""

    min: int = 1  # rows at least
    max: int | None = None  # rows at most


class Drift(Part):
    """When current data count as drifted against the reference."""

    watch: tuple[str, ...] = Field(min_length=1)  # columns; `score` is the model's own output
    share: float = Field(gt=0, le=1)  # fires when at least this share of watched columns drifted
    # How the distance of a column's values is measured; for categories jensenshannon in place of wasserstein.
    method: Literal["jensenshannon", "wasserstein", "psi", "hellinger"] = "jensenshannon"
    margin: float = Field(default=1.5, ge=1)  # threshold = margin times the largest distance within the reference
    floor: float = Field(default=0.05, ge=0)  # and never under this
    sample: int = Field(default=5_000, ge=100)  # rows compared of either side; of more so many are drawn
    seed: int = 0  # of what is drawn


ESTIMATORS: dict[str, tuple[TargetKind, ...]] = {
    "hist_gradient_boosting": ("binary", "multiclass", "regression"),
    "random_forest": ("binary", "multiclass", "regression"),
    "explainable_boosting": ("binary", "multiclass", "regression"),
    "logistic_regression": ("binary", "multiclass"),
    "linear_regression": ("regression",),
}


class Estimator(Part):
    """What is fitted, and with which hyperparameters (scikit-learn's own names)."""

    # One of ESTIMATORS, or the dotted path of a class of yours that AUDIT_ESTIMATORS allows.
    kind: str = "hist_gradient_boosting"
    parameters: dict[str, int | float | str | bool | None] = Field(default_factory=dict)  # all others are its defaults
    seed: int = 0  # its `random_state`


class Gates(Part):
    """What a challenger must reach to be promoted; the champion is judged on the same rows."""

    min_auc: float | None = None  # under the ROC curve; of several classes the mean of each against the others
    min_accuracy: float | None = None  # share of rows decided right
    max_calibration_error: float | None = None  # mean distance of stated probability from what came, by bins
    min_r2: float | None = None  # of a number: R², the share of its variance that is foretold
    max_mae: float | None = None  # of a number: mean absolute error, in its unit
    max_rmse: float | None = None  # of a number: root of the mean squared error, in its unit
    min_rows: int | None = None  # test rows that it was judged on
    # Of the main figure (AUC, or R² of a number) over the champion; slightly below zero lets equals pass.
    min_gain: float | None = -0.005
    max_slice_gap: float | None = None  # of the main figure, between any two values of one slice column
    max_selection_gap: float | None = None  # of the share decided positive: demographic parity
    max_recall_gap: float | None = None  # of the share found among the positive: equal opportunity


class Split(Part):
    """Training and test rows: the last `test_share` by event time is for the test; without one, a seeded draw that
    keeps the rows of one entity together."""

    test_share: float = Field(default=0.2, gt=0, lt=1)  # of the rows whose outcome is known
    seed: int = 0  # of the draw


class Schedule(Part):
    """How the composed pipeline walks through the data, by calendar month."""

    train_from: date  # any day of the first month to train on
    train_months: int = Field(ge=1)  # months that the first training learns from
    until: date | None = None  # the data's last month, by its first day; without it there is no last

    def training_window(self) -> Window:
        """The months of the first training."""
        return Window.months(self.train_from, self.train_months)

    def months_after_training(self) -> Iterator[Window]:
        """The months to decide on, one by one, up to the data's last."""
        month = Window.months(self.training_window().end, 1)
        while self.until is None or month.start <= self.until:
            yield month
            month = Window.months(month.end, 1)

    def months_to_decide(self, until: date | None = None) -> list[Window]:
        """The months after training up to the one that `until` falls in, else the first two."""
        last = until or Window.months(self.training_window().end, 2).end - timedelta(days=1)
        return list(takewhile(lambda month: month.start <= last, self.months_after_training()))

    def everything_before(self, end: date) -> Window:
        """All that is known at `end`: what a retraining learns from."""
        return Window(start=self.train_from, end=end)


AlertKind = Literal[
    "drift", "prediction_drift", "decay", "rejected", "gate", "scoring", "anomaly", "approval", "maintenance", "failed"
]


class Alerts(Part):
    """Which findings are told, to which targets by name, how often. Addresses come from blocks or the environment."""

    on: tuple[AlertKind, ...] = get_args(AlertKind)  # the kinds that are told
    # `default` is AUDIT_ALERT_URL, `oncall` AUDIT_ALERT_URL_ONCALL, `slack-webhook/oncall` a Prefect block: type/name.
    to: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}(/[a-z0-9][a-z0-9_-]{0,99})?$")], ...] = ("default",)
    quiet_minutes: float = Field(default=720, ge=0)  # after a message of one kind further ones are held back: a night
    failed_share: float = Field(default=0.01, ge=0, le=1)  # `scoring`: more rows than this could not be scored


class Approval(Part):
    """How long a person may take to decide on a candidate, and what becomes of it when nobody did."""

    hours: float = Field(default=72, gt=0)  # from when it is asked for
    unanswered: Literal["rejected", "awaiting"] = "rejected"  # `awaiting`: `audit approve` can still let it in


class Performance(Part):
    """When outcomes that came in later say that the model has decayed."""

    delay_days: int = Field(default=0, ge=0)  # a window's outcomes are complete so long after its end
    min_known: float = Field(default=0.5, gt=0, le=1)  # share of decisions whose outcome must be known
    # Of the main figure: of its interval's upper end, against the evaluation at promotion.
    max_loss: float = Field(default=0.05, gt=0)


TIME = r"^(forever|[1-9][0-9]{0,2} (month|year)s?)$"  # `25 months`
Kept = Annotated[str, Field(pattern=TIME)]
Regime = Literal["eu-ai-act", "reg-b", "part-11"]

# Months that a law has records kept for at least, and where it says so. The EU AI Act has providers and deployers of
# high-risk systems keep the logs for a period that suits the system's purpose, of at least six months. Regulation B has
# a creditor keep applications, and what was used in evaluating them, for 25 months after an applicant was told of the
# action taken (12 months where the credit is for business). 21 CFR Part 11 names no time: an audit trail is kept at
# least as long as the records that it is about.
FLOORS: dict[Regime, tuple[int, str]] = {
    "eu-ai-act": (6, "Articles 19(1) and 26(6) of the EU AI Act, Regulation (EU) 2024/1689"),
    "reg-b": (25, "12 CFR 1002.12(b)(1), Regulation B"),
}
PART_11 = "21 CFR 11.10(c) and (e)"


def months_kept(kept: str) -> int | None:
    """`25 months` and `2 years` in months; None for `forever`."""
    if kept == "forever":
        return None
    count, unit = kept.split()
    return int(count) * (12 if unit.startswith("year") else 1)


class Retention(Part):
    """How long payloads are kept, counted from the end of the month in which they were recorded: `25 months`,
    `10 years` or `forever`. Then `audit retention run` exports and withdraws them; envelopes stay. Where nothing is
    said nothing goes."""

    decisions: Kept = "forever"  # of batches of decisions: `predictions.*`, `decision.*`
    runs: Kept = "forever"  # of flow and task runs: their parameters, inputs, outputs and errors
    findings: Kept = "forever"  # `drift.*`, `performance.*`, `anomaly.*`, `alert.*`; at least as long as decisions
    # `dataset.*`, `model.*`, `retraining.*`, `privacy.masked`; what a model in use rests on stays in any case.
    lineage: Kept = "forever"
    # Laws that this use case is under, none of whose times may be undercut: `eu-ai-act` has logs of high-risk systems
    # kept for six months, `reg-b` records of US consumer credit for 25, `part-11` for as long as `records` says.
    regimes: tuple[Regime, ...] = ()
    records: Kept | None = None  # how long the records that the decisions go into are kept; nothing goes before them


KEPT_BY = ("decisions", "runs", "findings", "lineage")  # the classes of payloads, each with a time of its own


class Expectations(Part):
    """A Great Expectations project of the user's, as a folder beside the spec, and which of its suites to hold."""

    project: str  # the folder that holds `great_expectations.yml`, relative to the spec's
    suite: str  # its name in the project
    beside: bool = True  # the spec's own rules are held as well; false: the suite stands alone

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, given: Any) -> Any:
        """`gx/loans`: suite `loans` of the project in `gx`."""
        if isinstance(given, str):
            project, _, suite = given.rpartition("/")
            return {"project": project, "suite": suite}
        return given


class Card(Part):
    """What a model card says beyond what is on record, in the words of those who answer for the model
    (Mitchell et al. 2019, Model Cards for Model Reporting)."""

    intended_use: str | None = None  # what the model is meant for
    out_of_scope: str | None = None  # what it must not be used for
    limits: str | None = None  # what to beware of, under caveats and recommendations
    ethics: str | None = None  # whom it may harm, and what is done about it
    owner: str | None = None  # who answers for the model


class Spec(Part):
    """One use case. Without a `schedule` there are no months: all rows are one window, and what the model has not
    learnt from is decided on."""

    # What its datasets and models are called by: up to 40 of a-z, 0-9, _ and -, a letter first.
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
    title: str  # heads the pages about it
    sources: dict[str, SourceTable] = Field(min_length=1)
    query: str | None = None  # Polars SQL over the source tables; needed when there is more than one
    # The column that says when: windows, months and test rows go by it, and rows without one are left out.
    event_time: str | None = None
    entity_key: str | None = None  # the column of whom or what a row is about; hashed unless `handling` differs
    columns: tuple[Column, ...]
    derive: tuple[Derived, ...] = ()
    target: Target
    rows: Rows = Rows()
    drift: Drift
    split: Split = Split()
    estimator: Estimator = Estimator()
    gates: Gates = Gates()
    slices: tuple[str, ...] = ()  # columns that figures are taken apart by, beside the protected ones
    # Binary: a score at or above it is decided positive, 0.5 by default. Several classes: a best class less probable
    # than this is left undecided. A number: at or above it is decided positive; without one the decision is the number.
    threshold: float | None = None
    schedule: Schedule | None = None
    expectations: Expectations | None = None  # in short `gx/loans`: suite `loans` of the project in `gx`
    card: Card = Card()
    alerts: Alerts = Alerts()
    approval: Literal["automatic", "manual"] = "automatic"  # `manual`: a person decides on every candidate
    approval_time: Approval = Approval()
    performance: Performance = Performance()
    retention: Retention = Retention()
    _file: str | None = PrivateAttr(default=None)

    @property
    def file(self) -> str | None:
        """The file that this was loaded from, for messages and relative paths; no part of the content."""
        return self._file

    def loaded_from(self, file: str) -> Self:
        """The same spec, knowing its file."""
        copy = self.model_copy()
        copy._file = file
        return copy

    def features(self) -> list[str]:
        """Names of the columns that a model may see, in the spec's order."""
        seen = ("keep", "generalise")
        declared = [c.name for c in self.columns if c.role == "feature" and self.handling(c) in seen]
        derived = [d.name for d in self.derive if d.role == "feature"]
        return declared + derived

    def protected(self) -> list[str]:
        """Names of the columns that figures are taken apart by, and that no model sees."""
        declared = [c.name for c in self.columns if c.role == "protected"]
        return declared + [d.name for d in self.derive if d.role == "protected"]

    def sliced_by(self) -> list[str]:
        """Every column that figures are taken apart by: the protected ones first."""
        return list(dict.fromkeys([*self.protected(), *self.slices]))

    def deciding_threshold(self) -> float | None:
        """The threshold that decisions are made by; of a binary target there always is one."""
        return 0.5 if self.threshold is None and self.target.kind == "binary" else self.threshold

    def row_keys(self) -> list[str]:
        """The columns that, with the event time, tell one row from another: key columns that ingest does not drop."""
        named = [c for c in self.columns if c.role == "key" or c.name == self.entity_key]
        return [c.name for c in named if self.handling(c) != "drop"]

    def handling(self, column: Column) -> Handling:
        """What is done to `column` before anything is written."""
        if column.generalise:
            return "generalise"
        if column.handling:
            return column.handling
        return "hash" if column.name == self.entity_key else HANDLING_OF[column.pii]
