"""An event from an app to itself and back."""

from __future__ import annotations

import secrets

import anyio

from ensync.engine import connect
from ensync.errors import EnSyncError
from ensync.options import Reconnect

__all__ = ["RoundTripError", "round_trip"]


class RoundTripError(Exception):
    """The event did not come back. The text says why."""


async def round_trip(url: str, app_key: str, secret_key: str) -> float:
    """Publishes an event to its own app, and waits for it; nothing is left behind.

    Returns:
        How long it took, in seconds.

    Raises:
        RoundTripError: It did not come back as it was sent.
    """
    # A name that nobody else uses, so that nobody else gets it.
    event_name = f"ensync/doctor/{secrets.token_hex(8)}"
    try:
        async with (
            connect(
                url, app_key=app_key, app_secret_key=secret_key, reconnect=Reconnect(max_attempts=1)
            ) as client,
            client.subscribe(event_name) as subscription,
        ):
            started = anyio.current_time()
            await client.publish(
                event_name, [client.app_id], {"from": event_name}, {"persist": False}
            )
            event = await anext(aiter(subscription))
            seconds = anyio.current_time() - started
            await event.ack()
    except EnSyncError as error:
        raise RoundTripError(str(error)) from error
    if event.payload != {"from": event_name}:
        raise RoundTripError("the event came back changed")
    return seconds
