"""Our side of the conversations with clients of other SDKs."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio

import ensync
from ensync import EnSyncClient, Event
from tests.interop.official import Addresses, AppKeys

__all__ = ["first_event", "our_client"]

_EVENT_TIMEOUT = 10.0  # seconds


def our_client(
    engine: Addresses, app: AppKeys, *, over_websocket: bool = False
) -> AbstractAsyncContextManager[EnSyncClient]:
    url = engine.websocket_url if over_websocket else engine.url
    return ensync.connect(url, app_key=app.app_key, app_secret_key=app.secret_key)


async def first_event(client: EnSyncClient, event_name: str) -> Event[Any]:
    """Waits for the next event of a name, and acknowledges it."""
    with anyio.fail_after(_EVENT_TIMEOUT):
        async with client.subscribe(event_name) as subscription:
            async for event in subscription:
                return event
    raise AssertionError("a subscription's iteration ended by itself")
