"""Drives ensync-sdk-ws 0.4.3.

None of its public methods ever sends SUB: ``_ensure_subscription`` is there, and nothing
calls it.
"""

import importlib
from typing import Any

from tests.interop.drivers.conversation import Handler, Sdk, converse


class WebSocketSibling(Sdk):
    def __init__(self) -> None:
        self._engine_class: Any = importlib.import_module("ensync_sdk_ws").EnSyncEngine

    async def connect(self, url: str, app_key: str, secret_key: str) -> Any:
        return await self._engine_class(url).create_client(app_key, {"appSecretKey": secret_key})

    async def subscribe(
        self, client: Any, event_name: str, handler: Handler, auto_ack: bool
    ) -> Any:
        decorator = client.subscribe(event_name, auto_ack=auto_ack)
        decorator.handler(handler)
        return await decorator._ensure_subscription()


if __name__ == "__main__":
    converse(WebSocketSibling)
