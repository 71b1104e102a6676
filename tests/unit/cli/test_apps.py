"""ensync apps and ensync keys."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ensync.crypto import SecretKey
from tests.unit.cli.command import run_command
from tests.unit.cli.served import Served


def _names(engine: Served) -> list[str]:
    return [app["name"] for app in engine.json("apps", "list")]


def test_an_app_from_the_first_to_the_last(engine: Served) -> None:
    made = engine.run("apps", "create", "billing", "--receive", "paid", "--receive", "lost")
    assert made.returncode == 0, made.stderr
    variables = dict(line.split("=", 1) for line in made.stdout.splitlines())
    app_id = SecretKey.parse(variables["ENSYNC_SECRET_KEY"]).app_id
    assert app_id in made.stderr
    assert engine.json("apps", "show", "billing") == {
        "name": "billing",
        "app_id": app_id,
        "send": ["*"],
        "receive": ["lost", "paid"],
    }
    assert engine.json("apps", "show", app_id)["name"] == "billing"

    rotated = engine.json("apps", "rotate", "billing")
    assert rotated["app_id"] == app_id
    old = engine.run("publish", "paid", "1", "--to", "self", **variables)
    assert old.returncode == 4
    variables["ENSYNC_APP_KEY"] = rotated["app_key"]
    assert engine.run("publish", "paid", "1", "--to", "self", **variables).returncode == 0

    assert engine.run("apps", "remove", "billing").returncode == 0
    assert _names(engine) == ["first-app"]
    assert engine.run("publish", "paid", "1", "--to", "self", **variables).returncode == 4


def test_permissions_hold(engine: Served) -> None:
    app: Any = engine.json("apps", "create", "narrow", "--send", "sent", "--receive", "received")
    keys = {"ENSYNC_APP_KEY": app["app_key"], "ENSYNC_SECRET_KEY": app["secret_key"]}
    assert engine.run("publish", "sent", "1", "--to", "self", **keys).returncode == 0
    refused = engine.run("publish", "received", "1", "--to", "self", **keys)
    assert refused.returncode == 5
    assert "no permission to send" in refused.stderr
    refused = engine.run("subscribe", "sent", **keys)
    assert refused.returncode == 1
    assert "no permission to receive" in refused.stderr
    checked = engine.run("doctor", **keys)
    assert checked.returncode == 1
    assert "BAD round trip" in checked.stdout
    assert "allow it ensync/doctor" in checked.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("create", "first-app"), 2, "already an app named 'first-app'"),
        (("create", ""), 2, "name must have 1 to 200 characters"),
        (("create", "x", "--send", "a/*"), 2, "there are no patterns"),
        (("show", "nobody"), 2, "there is no app 'nobody'; there is 'first-app'"),
        (("rotate", "nobody"), 2, "there is no app 'nobody'"),
        (("remove", "nobody"), 2, "there is no app 'nobody'"),
        (("list", "--data", "x", "--admin-url", "y"), 2, "not both"),
        (("list", "--data", "/no/such"), 2, "there is no data file /no/such"),
        (("list", "--admin-url", "http://example.org/"), 2, "not one that ensync serve has"),
    ],
)
def test_mistakes(engine: Served, arguments: tuple[str, ...], code: int, text: str) -> None:
    done = engine.run("apps", *arguments)
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_brackets_in_a_name_are_no_style(engine: Served) -> None:
    name = "[/bold] and [red]more[/red]"
    assert engine.run("apps", "create", name, "--send", "[/x]").returncode == 0
    for arguments in (("list",), ("show", name)):
        done = engine.run("apps", *arguments)
        assert done.returncode == 0, done.stderr
        assert name in done.stdout
        assert "[/x]" in done.stdout
    assert engine.run("apps", "remove", name).returncode == 0


def test_it_must_be_said_which_engine() -> None:
    done = run_command("apps", "list")
    assert done.returncode == 2
    assert "which engine?" in done.stderr


def test_a_wrong_token_is_refused(engine: Served) -> None:
    url = engine.told["admin_url"].rpartition("/")[0] + "/wrong"
    done = engine.run("apps", "list", "--admin-url", url)
    assert done.returncode == 1
    assert "wrong token" in done.stderr


def test_a_new_key_and_its_app_id() -> None:
    made = json.loads(run_command("keys", "new", "--json").stdout)
    by_variable = run_command(
        "keys", "inspect", variables={"ENSYNC_SECRET_KEY": made["secret_key"]}
    )
    assert by_variable.stdout.strip() == made["app_id"]
    by_input = run_command("keys", "inspect", "--stdin", standard_input=made["secret_key"])
    assert by_input.stdout.strip() == made["app_id"]


def test_what_is_no_key_is_not_shown() -> None:
    done = run_command("keys", "inspect", "--stdin", standard_input="secret-but-wrong\n")
    assert done.returncode == 2
    assert "app_secret_key" in done.stderr
    assert "secret-but-wrong" not in done.stderr
