"""Mistakes of whoever types: each is told in words of theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.in_process import invoke


@pytest.fixture(autouse=True)
def no_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("serve", "--log-level", "loud"), "'loud' is not one of"),
        (("serve", "--data", ""), "Give the name of a file."),
        (("serve", "--data", "/"), "'/' is a directory."),
        (("apps", "list", "--data", ""), "Give the name of a file."),
        (("publish", "n", "--to", "x", "--file", ""), "Give the name of a file."),
        (("publish", "n", "--to", "x", "--file", "nope"), "nope: No such file or directory"),
        (("publish", "n", "hello", "--to", "x"), """quotes of its own: '"hello"'"""),
        (("publish", "n", "9" * 10_000, "--to", "x"), "a number in it has more than 4300 digits"),
        (("publish", "n", "1", "--to", "x", "--metadata", "a"), "--metadata is not JSON"),
        (("subscribe", "n", "--timeout", "nan"), "no number of seconds"),
    ],
)
def test_a_mistake_is_wrong_use(arguments: tuple[str, ...], text: str) -> None:
    done = invoke(*arguments)
    assert done.returncode == 2
    assert text in done.stderr
    for noise in ("Value error", "set_int_max_str_digits", "Traceback"):
        assert noise not in done.stderr


def test_only_a_bare_word_is_told_of_quotes() -> None:
    for payload in ("{", "99,", '"x'):
        done = invoke("publish", "n", payload, "--to", "x")
        assert "is not JSON" in done.stderr
        assert "quotes of its own" not in done.stderr


def test_a_look_at_an_empty_file_writes_nothing(tmp_path: Path) -> None:
    empty = tmp_path / "empty.db"
    empty.touch()
    for command in (("list",), ("show", "x"), ("rotate", "x"), ("remove", "x")):
        done = invoke("apps", *command, "--data", str(empty))
        assert (done.returncode, empty.stat().st_size) == (2, 0)
        assert "is empty" in done.stderr


def test_a_host_that_is_none_is_not_warned_of_first() -> None:
    done = invoke("serve", "--port", "0", "--ws-port", "0", "--host", "192.0.2.1")
    assert done.returncode == 1
    assert "can't listen on 192.0.2.1" in done.stderr
    assert "warning" not in done.stderr
