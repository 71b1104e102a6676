"""``ensync publish``: one event, or one for each line of standard input."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ensync.cli.connecting import client_for_once
from ensync.cli.failures import WRONG_USE, CommandError
from ensync.cli.json_input import json_argument, json_file, json_object
from ensync.cli.output import print_json, print_line
from ensync.cli.paths import file_path
from ensync.cli.publish_lines import Target, publish_lines
from ensync.cli.running import run_async, until_interrupted
from ensync.cli.settings import APP_KEY, URL, AppKeyOption, Settings, UrlOption
from ensync.client import EnSyncClient

__all__ = ["publish_command"]

SELF = "self"


def publish_command(
    event_name: Annotated[str, typer.Argument(help="The name to publish under.")],
    payload: Annotated[
        str | None,
        typer.Argument(
            help="JSON, such as '{\"n\": 1}' or '\"text\"'. One that begins with - goes last, "
            "after --. Without it, and without --file: standard input."
        ),
    ] = None,
    *,
    to: Annotated[
        list[str] | None,
        typer.Option(
            help="Needed: app id of a recipient, or 'self'; again for more.", show_default=False
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            parser=file_path, metavar="FILE", help="Read the payload, JSON, from this file."
        ),
    ] = None,
    metadata: Annotated[str | None, typer.Option(help="A JSON object, sent in the clear.")] = None,
    url: UrlOption = None,
    app_key: AppKeyOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Publish an event, and print its id.

    Standard input holds one JSON value on each line, and each becomes an event. The ids are
    printed as the events are accepted; a line that is not is reported, and the others go on.
    """

    async def run() -> None:
        if payload is not None and file is not None:
            raise CommandError("give a payload or --file, not both", WRONG_USE)
        wanted = None if metadata is None else json_object(metadata, "--metadata")
        single = _single_payload(payload, file)
        async with client_for_once(Settings({URL: url, APP_KEY: app_key})) as client:
            target = Target(event_name, _recipients(to, client), wanted)
            if single is None:
                await publish_lines(client, target, as_json=json)
            else:
                receipt = await client.publish(event_name, target.app_ids, single.value, wanted)
                _print_ids(receipt.event_ids, as_json=json)

    run_async(lambda: until_interrupted(run))


class _Payload(NamedTuple):
    value: Any


def _single_payload(text: str | None, file: Path | None) -> _Payload | None:
    if file is not None:
        return _Payload(json_file(file))
    return None if text is None else _Payload(json_argument(text))


def _recipients(to: list[str] | None, client: EnSyncClient) -> tuple[str, ...]:
    if not to:
        raise CommandError("to whom? Give --to APP_ID, or --to self", WRONG_USE)
    return tuple(client.app_id if app_id == SELF else app_id for app_id in to)


def _print_ids(event_ids: Mapping[str, str], *, as_json: bool) -> None:
    if as_json:
        print_json({"event_ids": dict(event_ids)})
    else:
        print_line(",".join(event_ids.values()))
