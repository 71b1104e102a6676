"""``ensync subscribe``: shows events as they arrive."""

from __future__ import annotations

import signal
from typing import Annotated, Any

import anyio
import typer
from rich.text import Text

from ensync.cli.connecting import client_for_good
from ensync.cli.output import complain, note, out, print_json, print_value
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
from ensync.client import EnSyncClient
from ensync.connection import ClientState
from ensync.errors import EnSyncInvalidEventError
from ensync.event import Event
from ensync.scopes import background_tasks
from ensync.subscription import Subscription

__all__ = ["event_as_json", "show_event", "subscribe_command"]


def subscribe_command(
    event_name: Annotated[str, typer.Argument(help="The name to subscribe to.")],
    *,
    count: Annotated[
        int | None, typer.Option(min=1, help="End after so many events. Else: on Ctrl-C.")
    ] = None,
    no_ack: Annotated[
        bool,
        typer.Option("--no-ack", help="Acknowledge nothing: the events stay for others."),
    ] = False,
    url: UrlOption = None,
    app_key: AppKeyOption = None,
    secret_key: SecretKeyOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each.")] = False,
) -> None:
    """Show events of one name, and acknowledge each when it has been shown.

    An event that can't be decrypted is reported, and stays in the engine. Ctrl-C and SIGTERM end
    the command with exit code 0.
    """
    settings = Settings({URL: url, APP_KEY: app_key, SECRET_KEY: secret_key})

    async def run() -> None:
        async with (
            client_for_good(settings) as client,
            background_tasks() as tasks,
            client.subscribe(event_name, auto_ack=not no_ack) as subscription,
        ):
            tasks.start_soon(_tell_of_reconnecting, client)
            note(f"subscribed to {event_name!r}; Ctrl-C ends it")
            await _until_signal(subscription, count, as_json=json)

    run_async(run)


async def _tell_of_reconnecting(client: EnSyncClient) -> None:
    lost = False
    async for state in client.states():
        if state is ClientState.RECONNECTING:
            lost = True
            note("the connection is lost; reconnecting")
        elif state is ClientState.CONNECTED and lost:
            lost = False
            note("connected again")


async def _until_signal(
    subscription: Subscription[Any], count: int | None, *, as_json: bool
) -> None:
    # A signal ends the wait for an event, and never the showing of one: what was shown
    # is acknowledged.
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:

            async def end_on_signal() -> None:
                await anext(aiter(signals))
                tasks.cancel_scope.cancel()

            tasks.start_soon(end_on_signal)
            await _show_events(subscription, count, as_json=as_json)
            tasks.cancel_scope.cancel()


async def _show_events(
    subscription: Subscription[Any], count: int | None, *, as_json: bool
) -> None:
    events = aiter(subscription)
    shown = 0
    while count is None or shown < count:
        try:
            event = await anext(events)
        except StopAsyncIteration:
            return
        except EnSyncInvalidEventError as error:
            complain(f"{error} (left in the engine)")
            continue
        show_event(event, as_json=as_json)
        shown += 1


def show_event(event: Event[Any], *, as_json: bool) -> None:
    """Prints one event on standard output."""
    if as_json:
        print_json(event_as_json(event))
        return
    when = "" if event.timestamp is None else f"{event.timestamp.astimezone():%H:%M:%S} "
    again = " (again)" if event.redelivered else ""
    heading = f"{when}{event.event_name} {event.idem} block {event.block}{again}"
    out.print(Text(heading, style="bold"))
    out.print(Text(f"  from {event.sender or 'nobody named'}", style="dim"))
    if event.metadata:
        out.print(Text(f"  metadata {event.metadata}", style="dim"))
    print_value(event.payload)


def event_as_json(event: Event[Any]) -> dict[str, object]:
    """An event as a JSON object."""
    return {
        "idem": event.idem,
        "block": event.block,
        "event_name": event.event_name,
        "payload": event.payload,
        "metadata": event.metadata,
        "sender": event.sender,
        "recipient": event.recipient,
        "timestamp": None if event.timestamp is None else event.timestamp.isoformat(),
        "redelivered": event.redelivered,
    }
