"""Drives ensync-sdk 0.4.4 over gRPC.

Its documented way to subscribe on a connected client registers a handler that is never
looked at and opens no stream. ``_ensure_subscription`` is what its pause() and its
resume() call before all else; what it returns has a method ``on`` that works, and takes
the options ``appSecretKey`` and ``autoAck`` where the documentation says
``app_decrypt_key`` and ``auto_ack``.
"""

import importlib
import json
from typing import Any

from tests.interop.drivers.conversation import Handler, Sdk, converse


class MessageGeneration(Sdk):
    def __init__(self) -> None:
        self._engine_class: Any = importlib.import_module("ensync_sdk").EnSyncEngine
        self._messages: Any = importlib.import_module("ensync_sdk.ensync_pb2")

    async def connect(self, url: str, app_key: str, secret_key: str) -> Any:
        return await self._engine_class(url).create_client(app_key, {"appSecretKey": secret_key})

    async def subscribe(
        self, client: Any, event_name: str, handler: Handler, auto_ack: bool
    ) -> Any:
        decorator = client.subscribe(event_name, autoAck=auto_ack)
        subscription = await decorator._ensure_subscription()
        subscription.on(handler)
        return subscription

    async def connect_subscribed(
        self, url: str, app_key: str, secret_key: str, event_name: str, handler: Handler
    ) -> tuple[Any, Any]:
        engine = self._engine_class(url)
        decorator = engine.subscribe(event_name, auto_ack=True)
        decorator.handler(handler)
        client = await engine.create_client(app_key, {"appSecretKey": secret_key})
        return client, decorator

    async def ask_for_replay_record(self, client: Any, event_name: str, idem: str) -> Any:
        request = self._messages.ReplayRequest(
            client_id=client.client_id, message_name=event_name, message_idem=idem
        )
        response = await client._stub.ReplayMessage(request)
        record = json.loads(response.message_data)
        return {**record, "payload": client._decrypt_payload(record["payload"])["payload"]}


if __name__ == "__main__":
    converse(MessageGeneration)
