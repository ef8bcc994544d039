"""Following a page notices what the page shows wrongly, and lets pass what differs by machine alone."""

from collections.abc import Iterator

import pytest

from tests.docs.following import Step, Terminal, masked, steps, terminal_in_a_clone

BLOCK = """$ export WHO=you
$ cat > greet.py <<'END'
> print("hello")
>
> END
$ echo $WHO
me
"""


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    with terminal_in_a_clone(tmp_path_factory.mktemp("clone")) as terminal:
        yield terminal


def test_a_block_is_read_as_commands_and_what_they_say_and_is_written_as_it_was():
    found = steps(BLOCK)
    assert [step.says for step in found] == ["", "", "me\n"]
    assert found[1].command == "cat > greet.py <<'END'\nprint(\"hello\")\n\nEND"
    assert "".join(step.as_shown() for step in found) == BLOCK


def test_what_is_exported_stays_and_what_is_shown_wrongly_is_said_otherwise(terminal: Terminal):
    assert [terminal.follow(step).says for step in steps(BLOCK)] == ["", "", "you\n"]
    assert terminal.follow(Step("python3 greet.py; printf no-newline", "")).says == "hello\nno-newline\n"


def test_a_command_in_the_background_is_heard_to_the_last_line_shown(terminal: Terminal):
    came = terminal.follow(Step("(sleep 1; echo one; echo two; sleep 9; echo three) &", "1\n2\ntwo\n"))
    assert came.says == "one\ntwo\n"


def test_a_command_that_only_reads_is_asked_until_it_says_so(terminal: Terminal):
    terminal.follow(Step("(sleep 4; echo arrived > told.txt) &", ""))
    assert terminal.follow(Step("cat told.txt", "arrived\n")).says == "arrived\n"


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("event 1a2b3c4d · 0.7 s", "event 99999999 · 12 s"),
        ("at 127.0.0.1:4200", "at 127.0.0.1:36091"),
        ("2026-11-26 23:46:56 UTC  ok", "2027-01-01 00:00:00 UTC ok"),
        ("! Port 4200 is taken by another program; 4 is used instead.\n✓ server", "✓ server"),
    ],
)
def test_what_differs_by_machine_is_masked(here: str, there: str):
    assert masked(here) == masked(there)


@pytest.mark.parametrize(("one", "other"), [("AUC 0.986", "AUC 0.985"), ("93 held", "92 held"), ("a\nb", "a")])
def test_figures_are_not_masked(one: str, other: str):
    assert masked(one) != masked(other)
