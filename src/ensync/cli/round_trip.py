"""An event from an app to itself and back."""

from __future__ import annotations

import secrets

import anyio

from ensync.engine import connect
from ensync.errors import EnSyncError
from ensync.options import Reconnect

__all__ = ["RoundTripError", "round_trip"]


EVENT_NAME = "ensync/doctor"


class RoundTripError(Exception):
    """The event did not come back. The text says why."""


async def round_trip(url: str, app_key: str, secret_key: str) -> float:
    """Publishes an event to its own app, and waits for it; nothing is left behind.

    Returns:
        How long it took, in seconds.

    Raises:
        RoundTripError: It was refused, or did not come back.
    """
    sent = {"token": secrets.token_hex(8)}
    try:
        async with (
            connect(
                url, app_key=app_key, app_secret_key=secret_key, reconnect=Reconnect(max_attempts=1)
            ) as client,
            client.subscribe(EVENT_NAME) as subscription,
        ):
            started = anyio.current_time()
            await client.publish(EVENT_NAME, [client.app_id], sent, {"persist": False})
            async for event in subscription:
                # An earlier check that was interrupted may have left one behind.
                if event.payload == sent:
                    break
            return anyio.current_time() - started
    except EnSyncError as error:
        raise RoundTripError(str(error)) from error
