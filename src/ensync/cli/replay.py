"""``ensync replay``: shows a stored event once more."""

from __future__ import annotations

from typing import Annotated

import typer

from ensync.cli.connecting import check_secret_key, client_for_once
from ensync.cli.running import run_async
from ensync.cli.settings import (
    APP_KEY,
    SECRET_KEY,
    URL,
    AppKeyOption,
    SecretKeyOption,
    Settings,
    UrlOption,
)
from ensync.cli.subscribe import show_event

__all__ = ["replay_command"]


def replay_command(
    event_name: Annotated[str, typer.Argument(help="The name it was published under.")],
    idem: Annotated[str, typer.Argument(help="The event's id.")],
    url: UrlOption = None,
    app_key: AppKeyOption = None,
    secret_key: SecretKeyOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON.")] = False,
) -> None:
    """Show a stored event once more, settled or not.

    Nothing becomes of the event. It must have been sent to this app, and still be kept. The
    app must be allowed to receive its name, as this subscribes for a moment.
    """
    settings = Settings({URL: url, APP_KEY: app_key, SECRET_KEY: secret_key})

    async def run() -> None:
        async with client_for_once(settings) as client:
            check_secret_key(settings, client.app_id)
            async with client.subscribe(event_name, auto_ack=False, buffer_size=1) as subscription:
                event = await subscription.replay(idem)
        show_event(event, as_json=json)

    run_async(run)
