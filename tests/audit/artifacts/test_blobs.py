"""Bytes under their digest: what is read is what was put, or an error that names the address."""

import hashlib
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.artifacts import blobs
from audit.errors import ArtifactUnavailable
from audit.settings import settings

DATA = b"what a stage left behind"


@pytest.fixture
def root_at(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def choose(url: str) -> None:
        monkeypatch.setenv("AUDIT_ARTIFACTS_URL", url)
        settings.cache_clear()

    return choose


def test_bytes_come_back_from_the_address_that_is_their_digest(home: Path) -> None:
    address = blobs.put(DATA)
    hexed = hashlib.sha256(DATA).hexdigest()
    assert address == f"artifact://sha256/{hexed}"
    assert blobs.get(address) == DATA
    assert blobs.local_path(address) == home / "artifacts" / "sha256" / hexed[:2] / hexed


def test_a_file_has_the_address_of_its_bytes(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(DATA * 100_000)
    assert blobs.put_file(file) == blobs.put(DATA * 100_000)
    assert blobs.get(blobs.put_file(file)) == file.read_bytes()


def test_bytes_that_are_there_are_not_written_again(home: Path) -> None:
    path = blobs.local_path(blobs.put(DATA))
    assert path
    before = path.stat()
    blobs.put(DATA)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_missing_bytes_are_named(home: Path) -> None:
    address = blobs.put(DATA)
    (path := blobs.local_path(address)) and path.unlink()
    with pytest.raises(ArtifactUnavailable, match=f"{address} is missing"):
        blobs.get(address)
    assert blobs.local_path(address) is None


@pytest.mark.parametrize("left", [DATA.upper(), DATA[:-1], b""], ids=["changed", "cut short", "emptied"])
def test_changed_bytes_are_named_and_not_given(home: Path, left: bytes) -> None:
    address = blobs.put(DATA)
    (path := blobs.local_path(address)) and path.write_bytes(left)
    with pytest.raises(ArtifactUnavailable, match=f"{address} differs"):
        blobs.get(address)


def test_a_file_that_a_crash_cut_short_is_mended_by_the_next_put(home: Path) -> None:
    address = blobs.put(DATA)
    (path := blobs.local_path(address)) and path.write_bytes(DATA[:5])
    assert blobs.get(blobs.put(DATA)) == DATA


def test_a_write_that_fails_half_way_leaves_nothing_under_the_address(home: Path) -> None:
    """A limit on file size stands for the full disk: the system takes some bytes and refuses the rest."""
    program = f"""
import resource, signal
from audit.artifacts import blobs
from audit.errors import ArtifactUnavailable
blobs.put(b"small")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, {resource.getrlimit(resource.RLIMIT_FSIZE)[1]}))
try:
    blobs.put(bytes(1_000_000))
except ArtifactUnavailable as refused:
    print(refused)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.count("\n") == 1
    assert "cannot be written" in ran.stdout and "AUDIT_ARTIFACTS_URL" in ran.stdout
    small = hashlib.sha256(b"small").hexdigest()
    assert [path.name for path in home.rglob("*") if path.is_file()] == [small]


def test_a_root_that_cannot_be_written_is_named_in_one_line(root_at: Callable[[str], None], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    root_at(str(tmp_path / "file" / "artifacts"))
    with pytest.raises(ArtifactUnavailable, match="cannot be written under") as refused:
        blobs.put(DATA)
    assert "file/artifacts" in refused.value.what and refused.value.hint
    assert "\n" not in str(refused.value)


def test_an_object_store_does_as_a_folder_does(root_at: Callable[[str], None]) -> None:
    root_at("memory:///")
    address = blobs.put(DATA)
    assert blobs.get(address) == DATA
    assert blobs.local_path(address) is None
    with pytest.raises(ArtifactUnavailable, match="is missing"):
        blobs.get(address.replace(address[-1], "0" if address[-1] != "0" else "1"))


def test_a_root_with_a_password_is_named_without_it(root_at: Callable[[str], None]) -> None:
    root_at("nothing-known://ann:secret@host/bucket?sig=secret")
    with pytest.raises(ArtifactUnavailable, match="nothing-known://host/bucket") as refused:
        blobs.put(DATA)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("address", ["", "artifact://sha256/../../etc/passwd", "artifact://sha256/" + "A" * 64])
def test_what_is_no_address_is_refused(home: Path, address: str) -> None:
    with pytest.raises(ArtifactUnavailable, match="is not an artifact's address"):
        blobs.get(address)
