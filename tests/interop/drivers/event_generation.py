"""Drives ensync-sdk 0.3.3: over gRPC, or over WebSocket when told ``websocket``.

The options that work are not those of its documentation: ``appSecretKey`` and
``autoAck``, where it says ``app_secret_key`` and ``auto_ack``.
"""

import importlib
import sys
from typing import Any

from tests.interop.drivers.conversation import Handler, Sdk, converse


class EventGeneration(Sdk):
    def __init__(self, class_name: str) -> None:
        # Not an import statement: for a type checker, `ensync` is this project.
        self._engine_class: Any = getattr(importlib.import_module("ensync"), class_name)

    async def connect(self, url: str, app_key: str, secret_key: str) -> Any:
        return await self._engine_class(url).create_client(app_key, {"appSecretKey": secret_key})

    async def subscribe(
        self, client: Any, event_name: str, handler: Handler, auto_ack: bool
    ) -> Any:
        # What its subscription's on() does, but sooner: over WebSocket an event that comes
        # right behind the answer to SUB would find no handler, and be dropped.
        client._on(event_name, handler, None, auto_ack)
        return await client.subscribe(event_name, {"autoAck": auto_ack})


if __name__ == "__main__":
    name = "EnSyncWebSocketEngine" if sys.argv[1:] == ["websocket"] else "EnSyncEngine"
    converse(lambda: EventGeneration(name))
