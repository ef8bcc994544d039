"""A root by its URL: which folder it means, and what may be shown of it."""

from pathlib import Path

import pytest

from audit import roots


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("/a b/c", "/a b/c"),
        ("/a?b#c", "/a?b#c"),
        ("file:///a%20b/c", "/a b/c"),
        ("file:/a", "/a"),
        ("FILE://localhost/a", "/a"),
        ("s3://bucket/a", None),
        ("http://[::1", None),
    ],
)
def test_the_folder_that_a_url_means(url: str, folder: str | None) -> None:
    assert roots.folder_of(url) == (folder and Path(folder))


def test_a_plain_path_is_taken_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert roots.folder_of("log") == tmp_path / "log"


@pytest.mark.parametrize(
    "url",
    [
        "s3://ann:secret@bucket/a",
        "az://account/a?sig=secret",
        "s3://ann:secret@bucket/a?x=secret",
        "s3://ann:my secret@bucket/a",
        "s3://ann:a@secret@bucket/a",
        "s3://bucket/a?x=a secret\nsecret",
    ],
)
def test_no_secret_of_a_url_is_shown(url: str) -> None:
    assert "secret" not in roots.shown(url) and roots.shown(url).endswith("/a")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Generic error: no\n\nDebug source:\nGeneric {}", "Generic error: no"),
        (
            "GET http://ann:secret@host/a?sig=secret in 2s, after 9 retries, max_retries: 9, retry_timeout: 180s  - no",
            "GET http://host/a in 2s - no",
        ),
        (
            '403: <?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>',
            "AccessDenied: Access Denied",
        ),
    ],
)  # fmt: skip
def test_why_a_root_cannot_be_used_is_a_line_without_secrets(said: str, reason: str) -> None:
    assert roots.reason(OSError(said)) == reason


@pytest.mark.parametrize("url", ["s3://a b/c", "s3://", "nothing://x"])
def test_what_is_no_root_is_an_error_that_callers_know(url: str) -> None:
    from obstore.exceptions import BaseError

    with pytest.raises((BaseError, OSError)):
        roots.opened(url)
