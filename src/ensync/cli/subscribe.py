"""``ensync subscribe``: shows events as they arrive."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

import anyio
import typer

from ensync.cli.connecting import check_secret_key, client_for_good
from ensync.cli.failures import NOTHING_CAME, CommandError
from ensync.cli.output import complain, note, out, print_json, print_value, shown
from ensync.cli.quantities import seconds
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
from ensync.cli.wording import counted, json_text
from ensync.client import EnSyncClient
from ensync.connection import ClientState
from ensync.errors import EnSyncInvalidEventError
from ensync.event import Event
from ensync.scopes import background_tasks
from ensync.subscription import Subscription

__all__ = ["event_as_json", "show_event", "subscribe_command"]

# What an engine adds to the metadata, such as that an event is replayed.
INTERNAL = "$internal"


def subscribe_command(
    event_name: Annotated[str, typer.Argument(help="The name to subscribe to.")],
    *,
    count: Annotated[
        int | None, typer.Option(min=1, help="End after so many events. Else: on Ctrl-C.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            parser=seconds,
            metavar="SECONDS",
            help="End when no event has come for so long. Else: never.",
            show_default=False,
        ),
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
    the command with exit code 0; --timeout does with 6 when no event has come, or not --count
    of them.
    """
    settings = Settings({URL: url, APP_KEY: app_key, SECRET_KEY: secret_key})

    async def run() -> None:
        async with client_for_good(settings) as client, background_tasks() as tasks:
            check_secret_key(settings, client.app_id)
            showing = _Showing(count, timeout, as_json=json)
            async with client.subscribe(event_name, auto_ack=not no_ack) as subscription:
                tasks.start_soon(_tell_of_reconnecting, client)
                await _until_signal(partial(_tell_and_show, showing, subscription))
            if not no_ack:
                # By now every acknowledgement was answered, or is not going to be.
                showing.check_acknowledged(subscription)
            showing.check_enough_came()

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


async def _tell_and_show(showing: _Showing, subscription: Subscription[Any]) -> None:
    note(f"subscribed to {subscription.event_name!r}; Ctrl-C ends it")
    await showing.show_events(subscription)


async def _until_signal(show: Callable[[], Awaitable[None]]) -> None:
    # A signal ends the wait for an event, and never the showing of one: what was shown
    # is acknowledged.
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:

            async def end_on_signal() -> None:
                await anext(aiter(signals))
                tasks.cancel_scope.cancel()

            tasks.start_soon(end_on_signal)
            await show()
            tasks.cancel_scope.cancel()


class _Showing:
    """Shows events until there were enough, or until none comes any more."""

    def __init__(self, count: int | None, timeout: float | None, *, as_json: bool) -> None:
        self._count = count
        self._timeout = timeout
        self._as_json = as_json
        self._shown = 0
        self._has_waited_in_vain = False

    async def show_events(self, subscription: Subscription[Any]) -> None:
        events = aiter(subscription)
        while self._count is None or self._shown < self._count:
            event: Event[Any] | None = None
            try:
                with anyio.move_on_after(self._timeout):
                    event = await anext(events)
            except StopAsyncIteration:
                return
            except EnSyncInvalidEventError as error:
                complain(f"{error} (left in the engine)")
                continue
            if event is None:
                self._has_waited_in_vain = True
                return
            show_event(event, as_json=self._as_json)
            self._shown += 1

    def check_acknowledged(self, subscription: Subscription[Any]) -> None:
        statistics = subscription.statistics()
        missing = self._shown - statistics.acknowledged
        if missing > 0:
            raise CommandError(
                f"the engine did not confirm {counted(missing, 'acknowledgement')} "
                f"({statistics.refused:,} refused): those events are handed out again"
            )

    def check_enough_came(self) -> None:
        if not self._has_waited_in_vain or (self._shown and self._count is None):
            return
        wanted = "" if self._count is None else f" of {self._count:,}"
        raise CommandError(
            f"no event for {self._timeout:g} s; {self._shown:,}{wanted} came", NOTHING_CAME
        )


def show_event(event: Event[Any], *, as_json: bool) -> None:
    """Prints one event on standard output."""
    if as_json:
        print_json(event_as_json(event))
        return
    when = "" if event.timestamp is None else f"{event.timestamp.astimezone():%H:%M:%S} "
    again = " (again)" if event.redelivered else ""
    heading = f"{when}{event.event_name} {event.idem} block {event.block}{again}"
    out.print(shown(heading, "bold"))
    out.print(shown(f"  from {event.sender or 'nobody named'}", "dim"))
    metadata = {name: value for name, value in event.metadata.items() if name != INTERNAL}
    if metadata:
        out.print(shown(f"  metadata {json_text(metadata)}", "dim"))
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
