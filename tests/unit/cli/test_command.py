"""The command as a whole: help, version, and where settings come from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ensync
from ensync.cli.app import app
from ensync.cli.failures import CommandError
from ensync.cli.settings import APP_KEY, URL, Settings
from tests.unit.cli.command import run_command

COMMANDS = [
    (),
    ("demo",),
    ("serve",),
    ("apps",),
    ("apps", "create"),
    ("apps", "list"),
    ("apps", "show"),
    ("apps", "rotate"),
    ("apps", "remove"),
    ("keys",),
    ("keys", "new"),
    ("keys", "inspect"),
    ("publish",),
    ("subscribe",),
    ("replay",),
    ("status",),
    ("doctor",),
]


def test_version() -> None:
    assert run_command("--version").stdout == f"ensync {ensync.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.stdout
    if not command:
        assert "Exit codes: 0 done" in done.stdout


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("ensync.cli.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r"needs typer.*pip install 'ensync\[cli\]'"):
        ensync_main()


def ensync_main() -> None:
    from ensync.cli import main

    main()


def test_a_flag_goes_before_the_environment_and_that_before_dotenv(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"{URL}=from-file\n")
    everywhere = Settings({URL: "from-flag"}, {URL: "from-environment"}, tmp_path)
    assert everywhere.find(URL) == ("from-flag", "the flag --url")
    assert Settings({}, {URL: "from-environment"}, tmp_path).find(URL) == (
        "from-environment",
        "the environment",
    )
    assert Settings({URL: None}, {URL: ""}, tmp_path).find(URL) == ("from-file", ".env")
    assert Settings({}, {}, tmp_path).find(APP_KEY) is None


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (f"{APP_KEY}=plain==", "plain=="),
        (f"export {APP_KEY}=exported", "exported"),
        (f"  {APP_KEY} = spaced  ", "spaced"),
        (f'{APP_KEY}="quoted # value"', "quoted # value"),
        (f"{APP_KEY}='single'", "single"),
        (f"{APP_KEY}=before # a comment", "before"),
        (f"{APP_KEY}=with#hash", "with#hash"),
        (f"# {APP_KEY}=commented out", None),
        ("OTHER=x", None),
    ],
)
def test_lines_of_dotenv(tmp_path: Path, line: str, value: str | None) -> None:
    (tmp_path / ".env").write_text(f"\n{line}\n")
    assert Settings({}, {}, tmp_path).get(APP_KEY) == value


def test_a_line_that_is_no_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"OTHER = x\n{APP_KEY}\n")
    with pytest.raises(CommandError, match="line 2: expected NAME=value"):
        Settings({}, {}, tmp_path)


def test_a_setting_shows_no_value() -> None:
    found = Settings({APP_KEY: "secret"}, {}, Path("/")).find(APP_KEY)
    assert "secret" not in repr(found)
