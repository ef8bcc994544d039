"""Every event type there is, with the shape of its payload and its usual severity."""

from dataclasses import dataclass
from typing import Literal

from audit.events import payloads as p

Severity = Literal["debug", "info", "warning", "error", "critical"]


@dataclass(frozen=True, slots=True)
class EventType:
    """What a type's payload must be, how grave it usually is, and what it means in one line."""

    payload: type[p.Payload]
    severity: Severity
    meaning: str


VOCABULARY: dict[str, EventType] = {
    "flow_run.running": EventType(p.RunState, "info", "a flow run began its first attempt"),
    "flow_run.retrying": EventType(p.RunState, "warning", "a flow run began a further attempt"),
    "flow_run.attempt_failed": EventType(p.RunState, "warning", "an attempt of a flow run raised"),
    "flow_run.completed": EventType(p.RunState, "info", "a flow run ended well"),
    "flow_run.failed": EventType(p.RunState, "error", "a flow run ended in failure"),
    "flow_run.timed_out": EventType(p.RunState, "error", "a flow run took longer than it may"),
    "flow_run.crashed": EventType(p.RunState, "critical", "a flow run's process ended or was told to"),
    "flow_run.cancelled": EventType(p.RunState, "warning", "somebody cancelled a flow run"),
    "flow_run.paused": EventType(p.RunState, "info", "a flow run waits in its process for somebody to resume it"),
    "flow_run.suspended": EventType(p.RunState, "info", "a flow run left its process until somebody resumes it"),
    "flow_run.resumed": EventType(p.RunState, "info", "a paused or suspended flow run went on, in the same attempt"),
    "task_run.scheduled": EventType(p.RunState, "info", "a task run was handed over to whoever serves its task"),
    "flow_run.reconciled": EventType(p.RunState, "warning", "only Prefect saw how a flow run ended"),
    "flow_run.abandoned": EventType(p.RunState, "error", "a flow run's process is gone, and nobody saw its end"),
    "task_run.running": EventType(p.RunState, "info", "a task run began its first attempt"),
    "task_run.retrying": EventType(p.RunState, "warning", "a task run began a further attempt"),
    "task_run.attempt_failed": EventType(p.RunState, "warning", "an attempt of a task run raised"),
    "task_run.completed": EventType(p.RunState, "info", "a task run ended well"),
    "task_run.cached": EventType(p.RunState, "info", "a task run's result came from the cache"),
    "task_run.failed": EventType(p.RunState, "error", "a task run ended in failure"),
    "task_run.timed_out": EventType(p.RunState, "error", "a task run took longer than it may"),
    "task_run.crashed": EventType(p.RunState, "critical", "a task run was ended by an exit or a signal"),
    "task_run.not_ready": EventType(p.RunState, "warning", "a task never ran, for its upstream failed"),
    "task_run.cancelled": EventType(p.RunState, "warning", "a task run was cancelled"),
    "task_run.rolled_back": EventType(p.RunState, "warning", "a transaction undid a task run"),
    "task_run.reconciled": EventType(p.RunState, "warning", "only Prefect saw how a task run ended"),
    "task_run.abandoned": EventType(p.RunState, "error", "nobody saw a task run's end, and nobody will"),
    "dataset.ingested": EventType(p.DatasetFacts, "info", "sources were read, handled and stored"),
    "dataset.validated": EventType(p.ValidationFacts, "info", "a dataset was held against its rules"),
    "dataset.rejected": EventType(p.ValidationFacts, "error", "a critical rule did not hold"),
    "dataset.transformed": EventType(p.DatasetFacts, "info", "features were derived and selected"),
    "dataset.split": EventType(p.SplitFacts, "info", "rows were parted into training and test"),
    "drift.checked": EventType(p.DriftFacts, "info", "current data were compared with the reference"),
    "drift.detected": EventType(p.DriftFacts, "warning", "the spec's drift rule fired"),
    "performance.checked": EventType(p.OutcomeFacts, "info", "outcomes were held against decisions"),
    "performance.decayed": EventType(p.OutcomeFacts, "warning", "a model does worse than when it was promoted"),
    "anomaly.detected": EventType(p.AnomalyFacts, "warning", "a figure is far from this spec's own history"),
    "model.trained": EventType(p.TrainingFacts, "info", "an estimator was fitted"),
    "model.evaluated": EventType(p.EvaluationFacts, "info", "a model was judged on held-out rows"),
    "model.registered": EventType(p.StageFacts, "info", "a model got a version number"),
    "model.approval_requested": EventType(p.ApprovalFacts, "info", "a person was asked about a candidate"),
    "model.approved": EventType(p.ApprovalFacts, "info", "a person let a candidate in"),
    "model.promoted": EventType(p.StageFacts, "info", "a model version moved up an environment"),
    "model.rejected": EventType(p.StageFacts, "warning", "a model version was turned away, by its gates or a person"),
    "model.deployed": EventType(p.StageFacts, "info", "a model version now makes the decisions"),
    "model.retired": EventType(p.StageFacts, "info", "a model version no longer makes decisions"),
    "retraining.requested": EventType(p.RetrainingFacts, "info", "an event asked for a new model"),
    "retraining.completed": EventType(p.RetrainingFacts, "info", "a retraining came to its end"),
    "predictions.scored": EventType(p.ScoringFacts, "info", "a window was decided on"),
    "predictions.failed": EventType(p.ScoringFacts, "warning", "rows could not be scored"),
    "pipeline.changed": EventType(p.ChangeFacts, "warning", "spec, code or environment changed"),
    "alert.raised": EventType(p.AlertFacts, "info", "a finding became a message"),
    "alert.sent": EventType(p.AlertFacts, "info", "a message reached its target"),
    "alert.failed": EventType(p.AlertFacts, "error", "a message could not be delivered"),
    "alert.held": EventType(p.AlertFacts, "info", "a finding was held back: one of its kind had gone out"),
    "privacy.masked": EventType(p.Masking, "info", "personal columns were handled at ingest"),
    "store.opened": EventType(p.StoreFacts, "info", "the audit store was made"),
    "store.spooled": EventType(p.StoreFacts, "warning", "events went to the spool, the store being away"),
    "store.replayed": EventType(p.StoreFacts, "info", "spooled events reached the store"),
    "store.dropped": EventType(p.StoreFacts, "critical", "events were lost: store and spool both failed"),
    "completeness.stated": EventType(p.CompletenessFacts, "info", "task runs were counted, and those on record"),
    "key.created": EventType(p.KeyFacts, "info", "a key was made"),
    "key.rotated": EventType(p.KeyFacts, "warning", "the log's key handed over to a new one"),
    "key.lost": EventType(p.KeyFacts, "critical", "the log's key was declared lost"),
    "checkpoint.signed": EventType(p.CheckpointFacts, "info", "the log's head was signed"),
    "checkpoint.anchored": EventType(p.AnchorFacts, "info", "somebody outside vouched for a checkpoint"),
    "checkpoint.published": EventType(p.PublishFacts, "info", "a checkpoint was put where others can read it"),
    "retention.expired": EventType(p.ExpiryFacts, "warning", "payloads were exported and withdrawn by their policy"),
    "retention.held": EventType(p.HoldFacts, "warning", "somebody had payloads kept, whatever their policy says"),
    "retention.released": EventType(p.ReleaseFacts, "warning", "somebody let the policy have its way again"),
}
