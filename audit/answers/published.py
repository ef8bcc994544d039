"""The check of a log where `audit publish` put it: every entry and tile is read again. No store is needed.

Payloads and older checkpoints are not looked at; a kept one counts if it is of the same size.
"""

from collections.abc import Sequence

from audit.answers import outside
from audit.answers.verdict import Fault, Verdict
from audit.errors import CouldNotTell, InconsistentTree, ProofRejected
from audit.ledger.note import VerifierKey, parse_checkpoint, verified
from audit.ledger.tiles import Progress, recompute

ENVELOPES = "Envelopes alone are published: payloads were not looked at."


def verify_published(
    url: str,
    keys: Sequence[VerifierKey],
    *,
    kept: Sequence[str] = (),
    witnesses: Sequence[VerifierKey] = (),
    progress: Progress | None = None,
) -> Verdict:
    """Whether everything that is published at `url` leads to a checkpoint that one of `keys`, the log's as they are
    known from elsewhere, signed.

    `kept`: checkpoints of the log that somebody kept; `witnesses`: keys whose cosignatures are demanded.
    """
    try:
        note = recompute(url, [*keys, *witnesses], progress=progress)
        head, believed = parse_checkpoint(note.text), verified(note, keys)
        return outside.verdict(
            outside.Trust(believed[0], kept, witnesses),
            note,
            {head.size: head.root},
            outside.Keys(keys, True, believed),
            (),
            events=head.size,
            checkpoints=1,
            later=0,
            notes=[ENVELOPES],
        )
    except CouldNotTell as lacking:
        return Verdict(unknown=(str(lacking),))
    except (ProofRejected, InconsistentTree) as bad:
        return Verdict(faults=(Fault("published log", str(bad)),))
