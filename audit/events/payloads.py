"""What an event says beyond its envelope: one pydantic model for each shape.

Names that a user chose (columns, parameters) are values in `{name, value}` lists, never keys.
Everything here has passed `privacy/` before it is built: no value of a masked column, no secret.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from audit.events.references import Environment, Reference


class Payload(BaseModel):
    """Base of all payloads; absent fields are left out of the bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)


class Named(Payload):
    """One named value, for example a parameter, a hyperparameter or a version."""

    name: str
    value: Any = None


class Used(Payload):
    """A reference that went into a run or came out of it."""

    name: str  # the parameter's name, or `return`
    kind: str  # dataset, model, report
    of: str  # the reference's own name, for example flights/validated
    version: int | None = None
    rows: int | None = None  # of a dataset
    address: str
    digest: str


def used(name: str, reference: Reference) -> Used:
    """`reference` as it goes on record under the name of a parameter or result."""
    known = reference.model_dump()
    return Used(
        name=name,
        kind=known["kind"],
        of=known["name"],
        version=known.get("version"),
        rows=known.get("rows"),
        address=reference.address,
        digest=reference.digest,
    )


class RunError(Payload):
    """An exception, redacted."""

    kind: str  # qualified class name
    message: str
    traceback: str | None = None


class Code(Payload):
    """Which code ran: commit, whether the tree was dirty, digest of the flow's own file."""

    commit: str | None = None
    dirty: bool | None = None
    source: str | None = None  # dotted entrypoint
    source_digest: str | None = None


class Process(Payload):
    """Which process it was: numbers are given anew, in each container, and from the start after a reboot."""

    started: int | None = None  # clock ticks since the machine's start
    boot: str | None = None  # id of that start
    namespace: int | None = None  # in which the number counts
    machine: str | None = None  # digest of the machine's own id


class Surroundings(Payload):
    """What it ran on."""

    python: str
    platform: str
    prefect: str
    lock_digest: str | None = None  # over name==version of every installed distribution, sorted
    host: str
    process_id: int
    process: Process | None = None  # what tells it from others of its number
    principal: str  # user@host: the person behind the envelope's `actor`


class Recording(Payload):
    """How the process that ran it recorded, and what it could not see."""

    plugin: bool  # True: every flow and task, False: those that say so themselves
    unbound: list[str] = Field(default_factory=list)  # Prefect's private points that are not where they were


class DeploymentOfRun(Payload):
    """Where a deployed run came from."""

    id: str | None = None
    name: str | None = None
    version: str | None = None
    work_pool: str | None = None
    worker: str | None = None


class RunState(Payload):
    """A state that a flow run or task run entered, or an attempt of it that failed."""

    run_name: str
    of: str  # the flow's or task's name
    state_id: str | None = None
    state: str | None = None  # Prefect's state name
    message: str | None = None
    attempt: int | None = None
    flow_name: str | None = None  # of the flow run around a task run
    parent_flow_run_id: str | None = None
    tags: list[str] = Field(default_factory=list)
    parameters: list[Named] | None = None
    inputs: list[Used] | None = None
    outputs: list[Used] | None = None
    error: RunError | None = None
    code: Code | None = None
    surroundings: Surroundings | None = None
    recording: Recording | None = None
    deployment: DeploymentOfRun | None = None
    became: str | None = None  # of reconciled: the state that it came to
    known_by: str | None = None  # of reconciled and abandoned: who says so, and when
    started_at: str | None = None  # of reconciled: as Prefect has it, UTC
    ended_at: str | None = None


class Column(Payload):
    """A column as it stands in a dataset version."""

    name: str
    dtype: str
    nulls: int


class Source(Payload):
    """One table that was read: its address without any password, its bytes' digest where it is a file."""

    name: str
    address: str
    rows: int
    digest: str | None = None  # of a file's bytes, of a folder's names and bytes, of what a database gave
    changed_since: str | None = None  # the day since which the record says otherwise


class DatasetFacts(Payload):
    """A dataset version that a stage made, and what it was made from."""

    spec: str
    name: str
    version: int
    digest: str
    address: str
    rows: int
    columns: list[Column]
    window: str | None = None
    sources: list[Source] | None = None
    made_from: list[Used] = Field(default_factory=list)
    transformations: list[str] = Field(default_factory=list)
    assumptions: list[Named] = Field(default_factory=list)
    reason: str | None = None


class Masking(Payload):
    """How the columns of personal data were handled before anything was written."""

    spec: str
    dropped: list[str]
    hashed: list[str]
    generalised: list[str] = Field(default_factory=list)
    undeclared: list[str]  # treated as direct and dropped


class Expectation(Payload):
    """One rule and its outcome; counts only, never a value."""

    rule: str
    column: str | None = None
    severity: Literal["info", "warning", "critical"]  # `info`, of a suite only: nothing comes of it
    held: bool
    checked: int | None = None
    unexpected: int | None = None
    suite: str | None = None  # of the user's own Great Expectations project
    limits: list[Named] = Field(default_factory=list)

    def __str__(self) -> str:
        """`range of income`."""
        return f"{self.rule} of {self.column}" if self.column else self.rule


class ValidationFacts(Payload):
    """What a validation found, expectation by expectation."""

    spec: str
    checked: Used
    valid: Used | None = None
    rejected: Used | None = None
    report: Used | None = None
    expectations: list[Expectation]
    rows: int
    rejected_rows: int
    held: bool  # no critical expectation failed


class SplitFacts(Payload):
    """A split into training and test rows."""

    spec: str
    made_from: Used
    train: Used
    test: Used
    by: str  # for example `time: first 80 % by sched_dep`
    seed: int | None = None
    transformations: list[str] = Field(default_factory=list)  # what was left out before the split


class ColumnDrift(Payload):
    """One watched column's distance between reference and current data."""

    name: str
    of: Literal["data", "prediction", "target"] = "data"
    method: str
    score: float
    threshold: float
    within: float | None = None  # the largest distance between one period of the reference and the others
    drifted: bool


class DriftFacts(Payload):
    """A comparison of reference data with current data."""

    spec: str
    window: str | None = None
    reference: Used
    current: Used
    model: Used | None = None
    tested: Used | None = None  # whose scores show how much surer the model is of what it has learnt from
    report: Used | None = None  # Evidently's
    snapshot: Used | None = None
    page: Used | None = None  # ours: the verdict, and how the drifted columns are spread
    sample_rows: int  # at most so many of either side
    reference_rows: int | None = None
    current_rows: int | None = None
    seed: int
    columns: list[ColumnDrift]
    left_out: list[Named] = Field(default_factory=list)  # watched columns that could not be compared, and why
    watched: int
    drifted: int
    share: float
    rule: str  # the rule in words
    detected: bool


class TrainingFacts(Payload):
    """A model that was fitted."""

    spec: str
    model: Used
    trained_on: Used
    estimator: str
    hyperparameters: list[Named]
    changed: list[Named] = Field(default_factory=list)  # value: `old -> new`, since the last version
    features: list[str]
    target: str
    kind: Literal["binary", "multiclass", "regression"] = "binary"  # of the target
    classes: list[str] = Field(default_factory=list)  # of a target with several, in the model's order
    stated: list[str] = Field(default_factory=list)  # what hampers learning, in words
    seeds: list[Named]
    libraries: list[Named]
    rows: int
    seconds: float
    cause: str | None = None  # id of the event that made us retrain


# How people call a figure whose name on record is not what they say.
CALLED = {"auc": "AUC", "r2": "R²", "mae": "MAE", "rmse": "RMSE"}


def called(figure: str) -> str:
    """`AUC` of `auc`, `macro f1` of `macro_f1`."""
    return CALLED.get(figure, figure.replace("_", " "))


class Metric(Payload):
    """A figure with its bootstrap interval."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    slice: str | None = None  # `race=black`
    by: str | None = None  # the slice's column: names and values may have the sign in them
    rows: int | None = None


class Gate(Payload):
    """A condition on promotion and whether it held."""

    name: str
    limit: str
    value: float | None = None
    held: bool


class EvaluationFacts(Payload):
    """How a model did on held-out rows, against the champion where there is one."""

    spec: str
    model: Used
    tested_on: Used
    champion: Used | None = None
    metrics: list[Metric]
    champion_metrics: list[Metric] = Field(default_factory=list)
    main: str = "auc"  # the figure that gain, gaps and decay are measured in
    difference: list[Metric] = Field(default_factory=list)  # challenger minus champion, same rows
    slices: list[Metric] = Field(default_factory=list)
    gates: list[Gate]
    held: bool
    report: Used | None = None
    seed: int


class Approver(Payload):
    """Who decided about a candidate, and how far the name can be relied on."""

    name: str
    identity: Literal["asserted", "operating system"]  # a name typed into a form is asserted, nothing more
    by: Literal["form", "command"]
    account: str | None = None  # user@host of the command, where another name was typed

    def __str__(self) -> str:
        """`Jane Doe (asserted)`: never the name without how far it can be relied on."""
        return f"{self.name} ({self.identity})"


class StageFacts(Payload):
    """A model version's step between environments, and why."""

    spec: str
    model: Used
    version: int
    environment: Environment
    previous_environment: Environment | None = None
    reason: str
    cause: str | None = None
    replaces: int | None = None  # version of the former champion
    approver: Approver | None = None  # where a person decided


class RetrainingFacts(Payload):
    """A retraining and what caused it."""

    spec: str
    cause: str  # event id
    reason: str
    window: str | None = None
    model: Used | None = None
    promoted: bool | None = None


class RowFailure(Payload):
    """A row that could not be scored; its inputs are handled ones."""

    row: int
    decision_id: str
    error: str
    inputs: list[Named] = Field(default_factory=list)


class ScoringFacts(Payload):
    """A batch of decisions: one segment in Parquet, counted here."""

    spec: str
    window: str | None = None
    model: Used
    segment: Used
    inputs: Used
    kind: Literal["binary", "multiclass", "regression"] = "binary"  # of the target
    rows: int
    failed: int
    decisions: list[Named]  # decision, count; none where the decision is a number, of classes the most frequent
    others: int = 0  # decisions for classes that are not among those
    undecided: int = 0  # no class was probable enough
    mean_score: float | None = None
    scores: list[Named] = Field(default_factory=list)  # their shape: p10, p50, p90
    threshold: float | None = None
    failures: list[RowFailure] = Field(default_factory=list)
    cause: str | None = None


class ChangeFacts(Payload):
    """Something about the pipeline that is not as it was at the last run."""

    spec: str
    what: str  # spec, code, environment, source <name>, deployment <name>, automation <name>
    was: str | None = None  # digest or commit; absent the first time
    is_now: str
    details: list[Named] = Field(default_factory=list)  # what it consists of now
    differences: list[Named] = Field(default_factory=list)  # value: `old → new`


class ApprovalFacts(Payload):
    """A candidate put before a person, or what the person said of it."""

    spec: str
    model: Used
    version: int
    champion: int | None = None  # version of the one that it would replace
    reason: str  # what speaks for the candidate
    cause: str | None = None  # event that made us retrain
    answer_by: str | None = None  # time limit, UTC
    unanswered: str | None = None  # what becomes of the candidate after it
    approver: Approver | None = None
    note: str | None = None


class OutcomeFacts(Payload):
    """How a model's decisions of one window did, once their outcomes were known."""

    spec: str
    window: str | None = None
    model: Used
    decisions: Used
    outcomes: Used  # the dataset version that the outcomes were read from
    rows: int  # decisions
    known: int  # of them with an outcome
    left_out: list[Named] = Field(default_factory=list)  # why the others have none: reason, count
    metrics: list[Metric]  # none where too few outcomes are known
    main: str = "auc"  # the figure that the rule is about
    baseline: list[Metric]  # of the evaluation that the model was promoted on
    rule: str  # the rule in words
    verdict: Literal["steady", "decayed", "not known yet", "cannot be told"]
    seed: int


class AnomalyFacts(Payload):
    """A figure of one run that is far from what this spec's own history makes likely."""

    spec: str
    what: str  # rows, failed_share, mean_score, score_p10, score_p50, score_p90, positive_share, seconds
    window: str | None = None
    value: float
    usual: float  # median of the history
    low: float
    high: float
    history: int  # windows that the range was taken from


class AlertFacts(Payload):
    """A message to people. Targets are named by scheme and host, never with their secrets."""

    spec: str | None = None
    alert: str  # id of spec, kind and window: what belongs together carries the same
    kind: str  # as in the spec's alerts.on; `summary` of what was held back; `recovered`
    of: str | None = None  # the kind that a summary or a recovery is of
    about: str | None = None  # flow or model version, where each of them has a quiet time of its own
    severity: str
    title: str
    body: str
    link: str | None = None  # the run in Prefect's UI
    report: str | None = None  # the page that shows it
    window: str | None = None
    cause: str | None = None
    held: int = 0  # findings of before that nobody was told of, which this message stands for as well
    to: str | None = None  # the target's name in the spec
    target: str | None = None  # its scheme and host
    attempts: int | None = None
    error: str | None = None
    reason: str | None = None  # why it was held back
    until: str | None = None  # how long, UTC


class StoreFacts(Payload):
    """The store itself: opened by whom, what origin it carries, what was spooled or lost."""

    origin: str | None = None
    store_schema: str | None = None
    count: int | None = None
    reason: str | None = None
    principal: str | None = None


class CompletenessFacts(Payload):
    """How many task runs there were, by a count that is not the record's own, and how many of them are on record.

    Of a flow run that ended, with those nested in it, by the process that ran it; or of a window, by Prefect's server.
    What is None was not asked, or could not be told.
    """

    counted_by: Literal["process", "server"]
    where: str  # process and host; the API's address without secrets
    flow_runs: list[str] = Field(default_factory=list)  # by the process: what it is about, the outermost first
    since: str | None = None  # by the server: the window, UTC
    until: str | None = None
    counted: int | None = None  # task runs, without those that only stand for a nested flow run
    sent: int | None = None  # of them, handed to other processes, such as a pool's
    deferred: int | None = None  # handed to task workers, which begin them when they do: not among the counted
    on_record: int | None = None  # task runs of these flow runs in the store, whoever began them
    digest: str | None = None  # over those: `flow run/task run`, sorted, a line each
    exact: bool | None = None  # True: counted under the lock that it was written under, so no other stands before it
    in_spool: int | None = None  # of the counted
    elsewhere: int | None = None  # on record, begun by another process
    observed: int | None = None  # of a window: on record by what was seen of them
    reconciled: int | None = None  # on record by what Prefect says of them alone
    abandoned: int | None = None
    too_recent: int | None = None  # ended a moment ago, or running
    nested: int | None = None  # Prefect's own that only stand for a nested flow run: not among the counted
    not_in_prefect: int | None = None  # on record, and not or no more known to Prefect
    not_instrumented: list[Named] = Field(default_factory=list)  # task, count: nobody asked that they be recorded
    missing: int = 0  # of the counted, neither on record nor explained
    missing_ids: list[str] = Field(default_factory=list)  # some of them
    unknown: str | None = None  # what could not be told, and why


class KeyFacts(Payload):
    """A key by purpose and fingerprint, never its secret part."""

    purpose: str  # mask, log
    fingerprint: str  # of a log key: name and id, as its signatures have them
    vkey: str | None = None  # of a log key: the verifier key (c2sp.org/signed-note)
    was: str | None = None  # verifier key that it takes over from
    consent: str | None = None  # that key's signature, base64, over the lines `prefect-audit/handover@1` and vkey
    reason: str | None = None
    principal: str | None = None


class CheckpointFacts(Payload):
    """A tree's head that was signed. The note itself stands in the table `checkpoint`."""

    size: int  # leaves
    root: str  # base64, as in the note
    previous: int  # size of the checkpoint before
    keys: list[str]  # who signed, by name and id
    digest: str  # of the note's bytes


class AnchorFacts(Payload):
    """What somebody outside said of a checkpoint. The words themselves stand in the table `anchor`."""

    size: int  # leaves, of the checkpoint
    kind: Literal["timestamp", "cosignature"]  # RFC 3161, c2sp.org/tlog-cosignature
    by: str  # the authority's name, the witness's name and key id
    at: str  # when it says so, UTC
    digest: str  # of the evidence's bytes
    asked: str | None = None  # of a time stamp: where, by scheme and host


class PublishFacts(Payload):
    """A checkpoint that was put where others can read it, with the tiles under it (c2sp.org/tlog-tiles)."""

    size: int
    to: str  # the address without its secrets
    files: int  # that were new


class ExpiryFacts(Payload):
    """Payloads that were withdrawn, by which policy, and where they went. It can never be withdrawn itself, so nothing
    in it is about anybody."""

    spec: str  # `*`: of events that belong to none
    of: Literal["decisions", "runs", "findings", "lineage"]
    kept: str  # how long, by the policy: `25 months`
    policy: str  # id of the event that says so
    period: str  # month in which they were recorded: `2026-01`
    bundle: str  # digest of the file that holds them
    place: str  # where it was written
    events: list[str]  # ids
    leave: str | None = None  # the log's key's signature, base64, over `prefect-audit/expiry@1` and the others' digest


class HoldFacts(Payload):
    """What must be kept until somebody releases it: all that every condition names; without one, everything."""

    name: str
    reason: str
    spec: str | None = None
    model: str | None = None  # `mortgage/v2`
    runs: list[str] = Field(default_factory=list)  # ids of flow runs and task runs
    events: list[str] = Field(default_factory=list)  # ids; of a model those that tell of it
    since: str | None = None  # time of the events, UTC, inclusive
    until: str | None = None  # exclusive


class ReleaseFacts(Payload):
    """The end of a hold."""

    name: str
    reason: str
    held: str  # id of the event that put it in force
