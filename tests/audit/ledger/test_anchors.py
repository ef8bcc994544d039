"""Anchors: what authorities and witnesses say is kept if it holds, and whoever rewrote the log is found out by them."""

import base64
import gzip
import json
import logging
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from audit.errors import (
    AnchorRefused,
    AnchorUnavailable,
    AuditError,
    AuthorityUnknown,
    InconsistentTree,
    NotFound,
    ProofRejected,
    UserError,
)
from audit.events.canonical import digest_of, timestamp
from audit.events.event import Event, make_event
from audit.events.payloads import KeyFacts
from audit.ledger import anchors, asking
from audit.ledger.anchors import anchor
from audit.ledger.keys import read_log_key
from audit.ledger.note import Note, Signature, SigningKey, VerifierKey, cosignature, parse_note, signed
from audit.ledger.sealer import seal
from audit.ledger.timestamps import check_timestamp, read_roots
from audit.ledger.witnesses import check_cosignature, read_witnesses
from audit.recording.initialise import initialise
from audit.settings import settings
from audit.store import read
from audit.store.append import append
from audit.store.engine import AuditStore, close_stores, open_store, opened, opened_as_it_is, store_url
from tests.anchoring import A_DAY, Reply, TimestampAuthority, Witness, found_authority, replies, timestamp_authority
from tests.attacks import superuser
from tests.receivers import Quiet

ACTOR = "p:7c1e0f" + "0" * 58
PASSWORD = "hunter2-planted"
VECTORS = Path(__file__).parents[2] / "vectors"
FIRST = 6  # leaves after `log.grow()`: three events that `audit init` left, three of ours


@dataclass(frozen=True)
class Log:
    """A store and the key that seals it."""

    store: AuditStore
    key: SigningKey
    databases: list[str] = field(default_factory=list)  # that are copies of it

    def grow(self, events: int = 3, of: str = "ours") -> str:
        """Put events on record and seal them: the new checkpoint's note."""
        append(self.store, [an_event(of) for _ in range(events)])
        sealed = seal(self.store, self.key, actor=ACTOR)
        assert sealed is not None
        return sealed.note

    def anchors(self) -> list[Any]:
        with self.store.reading() as connection:
            return list(connection.execute(text("SELECT * FROM anchor ORDER BY event_seq")))

    def copied(self, to: Path) -> "Log":
        """The same log as it is now, in another file or database."""
        if self.store.is_postgres:
            self.store.close()
            self.databases.append(superuser.copied(settings().database_url or ""))
            return Log(opened_as_it_is(store_url(replace(settings(), database_url=self.databases[-1]))), self.key)
        assert self.store.path
        with closing(sqlite3.connect(self.store.path)) as here, closing(sqlite3.connect(to)) as there:
            here.backup(there)
        return Log(opened(to), self.key)


def an_event(of: str) -> Event:
    facts = KeyFacts(purpose="test", fingerprint=of)
    return make_event("key.created", facts, source="test", subject="key/test", actor=ACTOR)


@pytest.fixture
def log(home: Path) -> Iterator[Log]:
    close_stores()
    initialise("acme.example/fraud")
    made = Log(open_store(), read_log_key(home / "keys"))
    yield made
    close_stores()
    for copy in made.databases:
        superuser.dropped(copy)


def by_authority(of: TimestampAuthority) -> anchors.Authority:
    return anchors.authority(of.url, of.roots)


def by_witness(of: Witness) -> anchors.Witness:
    return anchors.Witness(of.vkey, of.url)


# Time stamps


def test_a_checkpoint_is_stamped_and_what_the_authority_said_is_on_record(
    log: Log, authority: TimestampAuthority
) -> None:
    note = log.grow()
    done = anchor(log.store, by_authority(authority), actor=ACTOR)

    (row,) = log.anchors()
    (told,) = read.events(log.store, types=("checkpoint.anchored",))
    assert check_timestamp(row.evidence, note, read_roots(authority.roots)) == done.at
    assert abs(done.at - datetime.now(UTC)) < timedelta(minutes=1)
    assert (row.event_seq, row.size, row.kind) == (told.seq, done.size, "timestamp")
    assert told.payload == {
        "size": FIRST,
        "kind": "timestamp",
        "by": "CN=Example Time Stamping",
        "at": timestamp(done.at),
        "digest": digest_of(row.evidence),
        "asked": authority.url.removesuffix("/tsr"),
    }


def test_openssl_holds_what_was_stored_true(log: Log, authority: TimestampAuthority, tmp_path: Path) -> None:
    (tmp_path / "note").write_text(log.grow())
    anchor(log.store, by_authority(authority), actor=ACTOR)
    (tmp_path / "stamp.tsr").write_bytes(log.anchors()[0].evidence)
    command = ["openssl", "ts", "-verify", "-data", "note", "-in", "stamp.tsr", "-CAfile", authority.roots]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout == "Verification: OK\n"


def test_an_authority_is_asked_once_for_a_checkpoint(log: Log, authority: TimestampAuthority) -> None:
    log.grow()
    first = anchor(log.store, by_authority(authority), actor=ACTOR)
    again = anchor(log.store, by_authority(authority), actor=ACTOR)
    assert first.event and again.event is None
    assert (again.size, again.by, again.at) == (first.size, first.by, first.at)
    log.grow()
    assert anchor(log.store, by_authority(authority), actor=ACTOR).size == FIRST + 5  # with two of checkpoint.*
    assert (len(authority.received), len(log.anchors())) == (2, 2)


def test_a_second_authority_is_asked_although_the_first_has_answered(
    log: Log, authority: TimestampAuthority, tmp_path: Path
) -> None:
    log.grow()
    with timestamp_authority(tmp_path / "other", "Other Stamps") as other:
        both = tmp_path / "both.pem"
        both.write_bytes(authority.roots.read_bytes() + other.roots.read_bytes())
        for of in (authority, other):
            anchor(log.store, anchors.authority(of.url, both), actor=ACTOR)
        assert [len(authority.received), len(other.received)] == [1, 1]


def test_a_stamp_under_roots_that_are_no_longer_believed_does_not_count(
    log: Log, authority: TimestampAuthority, tmp_path: Path
) -> None:
    log.grow()
    anchor(log.store, by_authority(authority), actor=ACTOR)
    other = found_authority(tmp_path / "other", "Other Stamps")
    with pytest.raises(AuthorityUnknown, match=r"trusted here \(unable to get local issuer certificate"):
        anchor(log.store, anchors.authority(authority.url, other.roots), actor=ACTOR)
    assert len(log.anchors()) == 1


def test_of_two_that_ask_at_once_one_is_filed(log: Log, authority: TimestampAuthority) -> None:
    log.grow()
    both_in = threading.Barrier(2)
    stamping = threading.Lock()

    def stamps(request: Quiet) -> None:
        both_in.wait(30)
        with stamping:
            request.reply(200, authority.stamp(authority.received.pop()))

    authority.instead = stamps
    with ThreadPoolExecutor(2) as two:
        done = list(two.map(lambda _: anchor(log.store, by_authority(authority), actor=ACTOR), range(2)))
    assert sorted(one.event is None for one in done) == [False, True]
    assert done[0].at == done[1].at
    assert len(log.anchors()) == len(list(read.events(log.store, types=("checkpoint.anchored",)))) == 1


def test_a_stamp_over_another_note_is_refused(authority: TimestampAuthority) -> None:
    stamp = authority.stamp_over(b"a note\n")
    assert check_timestamp(stamp, "a note\n", read_roots(authority.roots))
    with pytest.raises(ProofRejected, match="over other bytes than this checkpoint's"):
        check_timestamp(stamp, "another note\n", read_roots(authority.roots))


def test_a_stamp_over_another_digest_than_ours_is_refused(tmp_path: Path) -> None:
    authority = found_authority(tmp_path / "authority", digests="sha512")
    stamp = authority.stamp_over(b"a note\n", digest="sha512")
    with pytest.raises(ProofRejected, match="over other bytes"):
        check_timestamp(stamp, "a note\n", read_roots(authority.roots))


@pytest.mark.parametrize(
    ("valid", "why"),
    [((-2 * A_DAY, -A_DAY), "certificate has expired"), ((A_DAY, 2 * A_DAY), "not yet valid")],
    ids=["expired", "early"],
)
def test_an_authority_without_a_valid_certificate_when_it_stamped_is_refused(
    tmp_path: Path, valid: tuple[timedelta, timedelta], why: str
) -> None:
    authority = found_authority(tmp_path / "authority", valid=valid)
    with pytest.raises(ProofRejected, match=f"no authority that is trusted here .*{why}"):
        check_timestamp(authority.stamp_over(b"a note\n"), "a note\n", read_roots(authority.roots))


def test_a_stamp_outlives_the_certificates_that_it_was_made_under() -> None:
    kept = json.loads((VECTORS / "timestamp_expired.json").read_text())
    roots = x509.load_pem_x509_certificates(kept["root"].encode())
    at = check_timestamp(base64.b64decode(kept["stamp"]), kept["note"], roots)
    assert at < datetime.fromisoformat(kept["valid_until"]) < datetime.now(UTC)


def test_a_stamp_with_any_bit_turned_is_refused_or_says_the_same(authority: TimestampAuthority) -> None:
    """What no signature covers: two version numbers and the name of the signature's algorithm, which nothing reads."""
    stamp, roots = authority.stamp_over(b"a note\n"), read_roots(authority.roots)
    at = check_timestamp(stamp, "a note\n", roots)
    harmless = 0
    for nth in range(0, len(stamp) * 8, 7):  # in turn another bit of a byte
        turned = bytearray(stamp)
        turned[nth // 8] ^= 1 << nth % 8
        try:
            assert check_timestamp(bytes(turned), "a note\n", roots) == at
            harmless += 1
        except ProofRejected:
            pass
    assert harmless <= 10 * 8


KEPT = json.loads((VECTORS / "timestamp_expired.json").read_text())
STAMP = base64.b64decode(KEPT["stamp"])


@given(
    st.one_of(
        st.binary(max_size=200),
        st.integers(0, len(STAMP)).map(lambda end: STAMP[:end]),
        st.tuples(st.integers(0, len(STAMP)), st.binary(min_size=1, max_size=8)).map(
            lambda put: STAMP[: put[0]] + put[1] + STAMP[put[0] :]
        ),
        st.tuples(st.integers(0, len(STAMP) - 1), st.binary(min_size=1, max_size=8)).map(
            lambda put: STAMP[: put[0]] + put[1] + STAMP[put[0] + len(put[1]) :]
        ),
    )
)
def test_whatever_is_passed_off_as_a_stamp_is_refused_in_words_or_says_the_same(forged: bytes) -> None:
    roots = x509.load_pem_x509_certificates(KEPT["root"].encode())
    try:
        at = check_timestamp(forged, KEPT["note"], roots)
    except ProofRejected:
        return
    assert at == check_timestamp(STAMP, KEPT["note"], roots)


def test_a_certificate_that_nobody_vouches_for_and_that_cannot_be_read_is_refused(
    authority: TimestampAuthority,
) -> None:
    """A response may carry further certificates, outside of what is signed."""
    stamp, roots = authority.stamp_over(b"a note\n"), read_roots(authority.roots)
    odd = bytearray(x509.load_pem_x509_certificate(authority.roots.read_bytes()).public_bytes(Encoding.DER))
    odd[odd.index(b"\xa0\x03\x02\x01\x02") + 4] = 7  # version 8 of X.509
    authority.sends_along(bytes(odd))
    with pytest.raises(ProofRejected, match="holds what is no certificate"):
        check_timestamp(authority.stamp_over(b"a note\n"), "a note\n", roots)
    assert check_timestamp(stamp, "a note\n", roots)


def test_a_chain_of_certificates_in_any_order_is_read(tmp_path: Path) -> None:
    """DER would sort them; OpenSSL sends them as they stand in the authority's file."""
    authorities = [found_authority(tmp_path / name, name) for name in ("b", "a", "c")]
    others = [x509.load_pem_x509_certificate(one.roots.read_bytes()).public_bytes(Encoding.DER) for one in authorities]
    for order in (others, others[::-1]):
        authorities[0].sends_along(*order)
        stamp = authorities[0].stamp_over(b"a note\n")
        assert all(other in stamp for other in others)
        assert check_timestamp(stamp, "a note\n", read_roots(authorities[0].roots))


def test_a_stamp_whose_signature_was_changed_does_not_hold(authority: TimestampAuthority) -> None:
    stamp = bytearray(authority.stamp_over(b"a note\n"))
    stamp[-3] ^= 1
    with pytest.raises(ProofRejected, match=r"The time stamp does not hold \(.*signature"):
        check_timestamp(bytes(stamp), "a note\n", read_roots(authority.roots))


def silent(request: Quiet) -> None:
    request.rfile.read(1)  # until the other side gives up


def dripping(begun: bytes) -> Reply:
    def drip(request: Quiet) -> None:
        request.wfile.write(begun)
        with suppress(OSError):  # until the other side gives up
            while not threading.Event().wait(0.05):
                request.wfile.write(b"x")

    return drip


def endless(request: Quiet) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    with suppress(OSError):
        while True:
            request.wfile.write(bytes(65_536))


def replies_raw(answer: bytes) -> Reply:
    def reply(request: Quiet) -> None:
        request.wfile.write(answer)

    return reply


def gone(request: Quiet) -> None:
    request.close_connection = True


PACKED = gzip.compress(bytes(1 << 25))
MISBEHAVIOUR: dict[str, tuple[Reply, type[AuditError], str]] = {
    "page": (replies(200, b"<html>Welcome</html>"), ProofRejected, "is no time stamp"),
    "nothing": (replies(200), ProofRejected, "is no time stamp"),
    "packed": (replies(200, PACKED, {"Content-Encoding": "gzip"}), ProofRejected, "is no time stamp"),
    "broken": (replies(503), AnchorUnavailable, "answered 503"),
    "busy": (replies(429), AnchorUnavailable, "answered 429"),
    "password": (replies(401), AnchorRefused, "answered 401"),
    "elsewhere": (replies(302, b"", {"Location": "http://127.0.0.1:9/"}), AnchorRefused, "elsewhere"),
    "silent": (silent, AnchorUnavailable, "no answer in 0.5 s"),
    "dripping head": (dripping(b"HTTP/1.1 200 OK\r\nX: "), AnchorUnavailable, "no answer in 0.5 s"),
    "dripping body": (dripping(b"HTTP/1.1 200 OK\r\n\r\n"), AnchorUnavailable, "no answer in 0.5 s"),
    "endless": (endless, AnchorRefused, "more than 65,536 bytes"),
    "gone": (gone, AnchorUnavailable, "cannot be reached"),
    "no http": (replies_raw(b"SSH-2.0-x\r\n\r\n"), AnchorUnavailable, "cannot be reached"),
}


@pytest.mark.parametrize(("instead", "kind", "said"), MISBEHAVIOUR.values(), ids=MISBEHAVIOUR)
def test_an_authority_that_misbehaves_is_told_apart_and_nothing_is_kept(
    log: Log,
    authority: TimestampAuthority,
    monkeypatch: pytest.MonkeyPatch,
    instead: Reply,
    kind: type[AuditError],
    said: str,
) -> None:
    log.grow()
    monkeypatch.setattr(asking, "PATIENCE_SECONDS", 0.5)
    authority.instead = instead
    with pytest.raises(kind, match=said):
        anchor(log.store, by_authority(authority), actor=ACTOR)
    assert log.anchors() == list(read.events(log.store, types=("checkpoint.anchored",))) == []


def test_a_refusal_is_told_in_the_authoritys_words(log: Log, authority: TimestampAuthority, tmp_path: Path) -> None:
    log.grow()
    strict = found_authority(tmp_path / "strict", digests="sha512")
    authority.instead = lambda request: request.reply(200, strict.stamp(authority.received[-1]))
    with pytest.raises(ProofRejected, match="answer is a refusal: Message digest algorithm is not supported"):
        anchor(log.store, by_authority(authority), actor=ACTOR)


def test_an_answer_of_before_is_refused(log: Log, authority: TimestampAuthority) -> None:
    note = log.grow()
    authority.instead = replies(200, authority.stamp_over(note.encode()))
    with pytest.raises(ProofRejected, match="answers another request than ours"):
        anchor(log.store, by_authority(authority), actor=ACTOR)


def test_an_authority_that_is_away_is_not_known_to_refuse(log: Log, authority: TimestampAuthority) -> None:
    log.grow()
    with pytest.raises(AnchorUnavailable, match=r"http://127.0.0.1:9 cannot be reached"):
        anchor(log.store, anchors.authority("http://127.0.0.1:9/tsr", authority.roots), actor=ACTOR)


def test_an_authoritys_password_goes_to_it_and_nowhere_else(
    log: Log, home: Path, authority: TimestampAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    log.grow()
    target = anchors.authority(authority.url_with("acme", PASSWORD), authority.roots)
    done = anchor(log.store, target, actor=ACTOR)
    authority.instead = replies(302, b"", {"Location": authority.url})
    log.grow()
    with pytest.raises(AnchorRefused) as refused:
        anchor(log.store, target, actor=ACTOR)
    encoded = base64.b64encode(f"acme:{PASSWORD}".encode()).decode()
    assert authority.credentials == [f"Basic {encoded}"] * 2
    log.store.close()
    kept = b"".join(file.read_bytes() for file in home.rglob("*") if file.is_file())
    seen = f"{target} {done} {refused.value} {caplog.text} {kept!r}"
    assert PASSWORD not in seen and encoded not in seen


async def test_inside_of_a_running_loop_an_authority_is_asked_too(log: Log, authority: TimestampAuthority) -> None:
    log.grow()
    assert anchor(log.store, by_authority(authority), actor=ACTOR).size == FIRST


def test_a_proxy_that_cannot_be_used_is_one_line(
    log: Log, authority: TimestampAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.grow()
    monkeypatch.setenv("HTTP_PROXY", "gopher://127.0.0.1:9")
    with pytest.raises(UserError, match="The proxy or the certificates that the environment names cannot be used"):
        anchor(log.store, by_authority(authority), actor=ACTOR)


def test_without_a_checkpoint_there_is_nothing_to_anchor(log: Log, authority: TimestampAuthority) -> None:
    with pytest.raises(NotFound, match="No checkpoint is on record"):
        anchor(log.store, by_authority(authority), actor=ACTOR)
    assert authority.received == []


@pytest.mark.parametrize("url", ["tsa.example/tsr", "ftp://tsa.example/", "https://", "https://u:hunter2@[::1", "\x00",
    "http://tsa.example:99999/", "http://tsa.example:-1/", "http://xn--/", "http://tsa.example/\ud800"])  # fmt: skip
def test_an_authority_without_an_address_is_refused_without_showing_it(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="The time stamp authority's address is none") as refused:
        anchors.authority(url, tmp_path / "roots.pem")
    assert "hunter2" not in str(refused.value)


def test_an_authority_without_roots_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Set AUDIT_TSA_ROOTS or --tsa-roots"):
        anchors.authority("https://tsa.example/tsr", None)
    with pytest.raises(UserError, match=r"roots.pem cannot be read \(No such file"):
        anchors.authority("https://tsa.example/tsr", tmp_path / "roots.pem")
    for content in (b"", b"\xff" * 99, b"-----BEGIN CERTIFICATE-----\nxxxx\n-----END CERTIFICATE-----\n"):
        (tmp_path / "roots.pem").write_bytes(content)
        with pytest.raises(UserError, match=r"roots.pem holds no certificates in PEM"):
            anchors.authority("https://tsa.example/tsr", tmp_path / "roots.pem")


# Witnesses


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("old 0\n\nno checkpoint\n", 400),
        ("old x\n\n{note}", 400),
        ("old 7\n\n{note}", 400),
        ("old 0\n\n{elsewhere}", 404),
        ("old 0\n\n{unsigned}", 403),
        ("old 0\n\n{forged}", 403),
        ("old 1\n{hash}\n\n{note}", 409),
        ("old 0\n{hash}\n\n{note}", 422),
        ("old 0\n\n{note}", 200),
    ],
)
def test_the_witness_of_these_tests_keeps_to_the_standard(
    log: Log, witness: Witness, request_: str, status: int
) -> None:
    """c2sp.org/tlog-witness, add-checkpoint."""
    witness.knows(log.key.verifier)
    note = log.grow()
    text, forger = parse_note(note).text, SigningKey(log.key.name, bytes(32))
    own = parse_note(note).signatures[0]
    sent = request_.format(
        note=note,
        elsewhere=signed(text.replace("acme", "other"), [log.key]),
        unsigned=signed(text, [forger]),
        forged=Note(text, (Signature(own.name, own.key_id, bytes(64)),)),
        hash=base64.b64encode(bytes(32)).decode(),
    )
    assert witness.answer(sent)[0] == status
    assert witness.seen(log.key.name)[0] == (FIRST if status == 200 else 0)
    if status == 200:
        assert witness.answer(sent) == (409, "text/x.tlog.size", f"{FIRST}\n")


def test_a_witness_follows_the_log_as_it_grows(log: Log, witness: Witness) -> None:
    witness.knows(log.key.verifier)
    sizes = []
    for events in (3, 1, 300, 2):
        note = log.grow(events)
        done = anchor(log.store, by_witness(witness), actor=ACTOR)
        row = log.anchors()[-1]
        assert check_cosignature(row.evidence, note, [witness.vkey]) == (witness.vkey, done.at)
        assert abs(done.at - datetime.now(UTC)) < timedelta(minutes=1)
        assert (row.size, row.kind, done.by) == (done.size, "cosignature", witness.vkey.shown)
        sizes.append(done.size)
    assert witness.asked == [f"old {size}" for size in (0, *sizes[:-1])]
    assert witness.seen(log.key.name)[0] == sizes[-1]


def test_a_witness_is_asked_once_for_a_checkpoint(log: Log, witness: Witness) -> None:
    witness.knows(log.key.verifier)
    log.grow()
    first, again = (anchor(log.store, by_witness(witness), actor=ACTOR) for _ in range(2))
    assert first.event and again.event is None
    assert (again.at, len(witness.asked)) == (first.at, 1)


def test_a_store_that_knows_less_of_its_witness_than_the_witness_asks_where_it_is(
    log: Log, witness: Witness, tmp_path: Path
) -> None:
    witness.knows(log.key.verifier)
    log.grow()
    before = log.copied(tmp_path / "before.db")
    anchor(log.store, by_witness(witness), actor=ACTOR)
    before.grow()
    anchor(before.store, by_witness(witness), actor=ACTOR)
    assert witness.asked == ["old 0", "old 0", f"old {FIRST}"]


def test_the_same_checkpoint_told_twice_is_cosigned_again(log: Log, witness: Witness, tmp_path: Path) -> None:
    witness.knows(log.key.verifier)
    log.grow()
    twin = log.copied(tmp_path / "twin.db")
    anchor(log.store, by_witness(witness), actor=ACTOR)
    assert anchor(twin.store, by_witness(witness), actor=ACTOR).size == FIRST


@pytest.mark.parametrize("longer", [0, 1, 300], ids=["as long", "longer", "much longer"])
def test_a_log_that_was_rewritten_and_signed_again_is_refused(
    log: Log, witness: Witness, tmp_path: Path, longer: int
) -> None:
    witness.knows(log.key.verifier)
    rewritten = log.copied(tmp_path / "rewritten.db")
    log.grow(3)
    anchor(log.store, by_witness(witness), actor=ACTOR)
    before = witness.seen(log.key.name)
    rewritten.grow(3 + longer, of="theirs")
    with pytest.raises(InconsistentTree, match="has seen another history of this log"):
        anchor(rewritten.store, by_witness(witness), actor=ACTOR)
    assert (rewritten.anchors(), witness.seen(log.key.name)) == ([], before)


def test_a_log_that_was_cut_back_is_found_out(log: Log, witness: Witness, tmp_path: Path) -> None:
    witness.knows(log.key.verifier)
    log.grow()
    cut = log.copied(tmp_path / "cut.db")
    log.grow(30)
    size = anchor(log.store, by_witness(witness), actor=ACTOR).size
    with pytest.raises(InconsistentTree, match=rf"has seen {size} leaves of this log, .* has {FIRST}: it was cut back"):
        anchor(cut.store, by_witness(witness), actor=ACTOR)


def test_a_witness_that_another_process_told_of_more_meanwhile_is_no_reason_for_alarm(
    log: Log, witness: Witness
) -> None:
    witness.knows(log.key.verifier)
    log.grow()

    def ahead(request: Quiet) -> None:
        witness.instead = None
        log.grow()
        anchor(log.store, by_witness(witness), actor=ACTOR)
        request.reply(409, b"%d\n" % witness.seen(log.key.name)[0], SIZE)

    witness.instead = ahead
    done = anchor(log.store, by_witness(witness), actor=ACTOR)
    assert (done.event, done.size) == (None, witness.seen(log.key.name)[0])
    assert len(log.anchors()) == 1


def test_of_two_logs_under_one_name_the_witness_follows_one(log: Log, witness: Witness, tmp_path: Path) -> None:
    witness.knows(log.key.verifier)
    log.grow()
    anchor(log.store, by_witness(witness), actor=ACTOR)
    shown_to_others = log.copied(tmp_path / "fork.db")
    log.grow(2, of="to one")
    shown_to_others.grow(2, of="to another")
    anchor(log.store, by_witness(witness), actor=ACTOR)
    with pytest.raises(InconsistentTree, match="has seen another history"):
        anchor(shown_to_others.store, by_witness(witness), actor=ACTOR)
    shown_to_others.grow(40, of="to another")
    with pytest.raises(InconsistentTree, match="has seen another history"):
        anchor(shown_to_others.store, by_witness(witness), actor=ACTOR)


def test_a_witness_that_does_not_know_the_log_or_its_key_says_so(log: Log, witness: Witness) -> None:
    log.grow()
    with pytest.raises(AnchorRefused, match=r"does not know this log \(it answered 404\).*audit log-key"):
        anchor(log.store, by_witness(witness), actor=ACTOR)
    witness.knows(SigningKey(log.key.name, bytes(32)).verifier)
    with pytest.raises(AnchorRefused, match=r"does not take the checkpoint's signature \(it answered 403\)"):
        anchor(log.store, by_witness(witness), actor=ACTOR)
    assert log.anchors() == []


OTHER = SigningKey("other.example/w", bytes(range(32)))
SIZE = {"Content-Type": "text/x.tlog.size"}
WITNESS_MISBEHAVIOUR: dict[str, tuple[Reply, type[AuditError], str]] = {
    "page": (replies(200, b"<html>Welcome</html>"), AnchorRefused, "without a cosignature by this key"),
    "nothing": (replies(200), AnchorRefused, "without a cosignature by this key"),
    "other key": (replies(200, str(cosignature(OTHER, "x", 1)).encode()), AnchorRefused, "without a cosignature by"),
    "size of another type": (replies(409, b"3\n", {"Content-Type": "text/html"}), AnchorRefused, "without the size"),
    "no size": (replies(409, b"-1\n", SIZE), AnchorRefused, "without the size"),
    "size of many digits": (replies(409, b"9" * 30_000, SIZE), AnchorRefused, "without the size"),
    "always elsewhere": (replies(409, b"3\n", SIZE), AnchorUnavailable, "being told of this log by others"),
    "ahead of us": (replies(409, b"%d\n" % 10**9, SIZE), InconsistentTree, "has seen 1000000000 leaves"),
    "malformed": (replies(400), AnchorRefused, "calls the request malformed"),
    "inconsistent": (replies(422), InconsistentTree, "has seen another history"),
    "broken": (replies(500), AnchorUnavailable, "answered 500"),
    "elsewhere": (replies(307, b"", {"Location": "http://127.0.0.1:9/"}), AnchorRefused, "elsewhere"),
    "silent": (silent, AnchorUnavailable, "no answer in 0.5 s"),
    "endless": (endless, AnchorRefused, "more than 65,536 bytes"),
}


@pytest.mark.parametrize(("instead", "kind", "said"), WITNESS_MISBEHAVIOUR.values(), ids=WITNESS_MISBEHAVIOUR)
def test_a_witness_that_misbehaves_is_told_apart_and_nothing_is_kept(
    log: Log,
    witness: Witness,
    monkeypatch: pytest.MonkeyPatch,
    instead: Reply,
    kind: type[AuditError],
    said: str,
) -> None:
    log.grow()
    monkeypatch.setattr(asking, "PATIENCE_SECONDS", 0.5)
    witness.instead = instead
    with pytest.raises(kind, match=said):
        anchor(log.store, by_witness(witness), actor=ACTOR)
    assert log.anchors() == list(read.events(log.store, types=("checkpoint.anchored",))) == []


def test_only_the_witnesss_own_line_is_kept(log: Log, witness: Witness) -> None:
    note = log.grow()
    own = str(cosignature(witness.key, parse_note(note).text, 1_700_000_000))
    others = str(cosignature(OTHER, parse_note(note).text, 5))
    witness.instead = replies(200, f"{others}— odd.example/w notbase64\n{own}{others}".encode())
    done = anchor(log.store, by_witness(witness), actor=ACTOR)
    assert done.at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert log.anchors()[0].evidence == own.encode()


@pytest.mark.parametrize(
    ("at", "over", "said"),
    [(1, "another\ntext\n", "does not fit"), (0, "", "0 seconds after 1970"), (1 << 62, "", "seconds after 1970")],
    ids=["over another text", "without a time", "beyond all time"],
)
def test_a_cosignature_that_does_not_hold_is_refused(log: Log, witness: Witness, at: int, over: str, said: str) -> None:
    text = parse_note(log.grow()).text
    witness.instead = replies(200, str(cosignature(witness.key, over or text, at)).encode())
    with pytest.raises(ProofRejected, match=said):
        anchor(log.store, by_witness(witness), actor=ACTOR)
    assert log.anchors() == []


def test_a_cosignature_with_anything_beside_it_or_any_bit_turned_is_refused(log: Log, witness: Witness) -> None:
    note = log.grow()
    line = str(cosignature(witness.key, parse_note(note).text, 1_700_000_000)).encode()
    assert check_cosignature(line, note, [witness.vkey])
    other = str(cosignature(OTHER, parse_note(note).text, 5)).encode()
    for surplus in (b"text\n\n" + line, line + other, line + b"\n", line[:-1]):
        with pytest.raises(ProofRejected, match="no cosignature: one signature line"):
            check_cosignature(surplus, note, [witness.vkey])
    for nth in range(len(line) * 8):
        turned = bytearray(line)
        turned[nth // 8] ^= 1 << nth % 8
        with pytest.raises(ProofRejected):
            check_cosignature(bytes(turned), note, [witness.vkey])


@given(st.binary(max_size=300))
def test_whatever_is_passed_off_as_a_cosignature_is_refused_in_words(forged: bytes) -> None:
    note = str(signed(KEPT["note"].partition("\n\n")[0] + "\n", [OTHER]))
    with pytest.raises(ProofRejected):
        check_cosignature(forged, note, [OTHER.verifier])


def test_the_logs_own_signature_is_no_cosignature(log: Log) -> None:
    note = log.grow()
    own = str(parse_note(note).signatures[0]).encode()
    with pytest.raises(ProofRejected, match="is of no witness that is known here"):
        check_cosignature(own, note, [log.key.verifier])


def test_witnesses_are_read_from_a_file(witness: Witness, tmp_path: Path) -> None:
    file = tmp_path / "witnesses"
    file.write_text(f"# ours\n\n{witness.line}  {VerifierKey('b.example/w', 4, bytes(32))}   https://b.example/  \n")
    first, second = read_witnesses(file)
    assert (first.key, first.url) == (witness.vkey, witness.url)
    assert (second.shown, second.url) == (VerifierKey("b.example/w", 4, bytes(32)).shown, "https://b.example/")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("w.example/w1", "witnesses:2: a witness is a verifier key, a space and a URL"),
        ("w.example/w1+00000000+AAAA https://w.example/", "witnesses:2: .* is no verifier key"),
        (f"{OTHER.verifier} https://w.example/", "witnesses:2: .* is a log's key, not a witness's"),
        (f"{VerifierKey('w', 4, bytes(32))} w.example", "witnesses:2: The address of w.* is none"),
    ],
    ids=["no address", "no key", "a log's key", "no URL"],
)
def test_a_line_that_names_no_witness_is_told_by_its_number(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "witnesses").write_text(f"# ours\n{line}\n")
    with pytest.raises(UserError, match=said):
        read_witnesses(tmp_path / "witnesses")


def test_a_file_without_witnesses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "witnesses").write_text("# none yet\n")
    with pytest.raises(UserError, match="names no witness"):
        read_witnesses(tmp_path / "witnesses")
