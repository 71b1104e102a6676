"""Lets a test drive a client of another SDK, by lines of JSON.

A test writes requests to standard input and reads answers and events from standard
output:

    {"id": 1, "do": "publish", "with": {"event_name": "orders", ...}}
    {"id": 1, "result": "..."}                  what the SDK returned, or
    {"id": 1, "error": {"type": "EnSyncPublishError", "text": "..."}}
    {"event": {"idem": "...", "payload": ...}}  when a handler was called

This runs in an environment where only the other SDK is installed.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TextIO

__all__ = ["Sdk", "converse"]

Event = dict[str, Any]
Handler = Callable[[Event], Awaitable[None]]


class Sdk:
    """What differs between the SDKs. Each driver makes one of these."""

    async def connect(self, url: str, app_key: str, secret_key: str) -> Any:
        """Returns an authenticated client."""
        raise NotImplementedError

    async def subscribe(
        self, client: Any, event_name: str, handler: Handler, auto_ack: bool
    ) -> Any:
        """Returns a subscription whose events go to the handler."""
        raise NotImplementedError

    async def connect_subscribed(
        self, url: str, app_key: str, secret_key: str, event_name: str, handler: Handler
    ) -> tuple[Any, Any]:
        """Returns a client and a subscription of it that was made before it connected."""
        raise NotImplementedError

    async def ask_for_replay_record(self, client: Any, event_name: str, idem: str) -> Any:
        """Returns the record that the engine answers, read past the SDK's own parsing."""
        raise NotImplementedError


class _Conversation:
    def __init__(self, sdk: Sdk, output: TextIO) -> None:
        self._sdk = sdk
        self._output = output
        self._client: Any = None
        self._subscriptions: dict[str, Any] = {}

    async def hold(self, requests: asyncio.StreamReader) -> None:
        # A task for each request: some of these SDKs stall for half a minute in one call,
        # and the test goes on with another.
        tasks: set[asyncio.Task[None]] = set()
        while line := await requests.readline():
            request = json.loads(line)
            if request["do"] == "quit":
                break
            task = asyncio.create_task(self._answer(request))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if self._client is not None:
            await self._client.close()

    async def _answer(self, request: dict[str, Any]) -> None:
        perform = getattr(self, request["do"])
        try:
            result = await perform(**request["with"])
        except Exception as error:  # noqa: BLE001 (the test judges it)
            self._say({"id": request["id"], "error": _described(error)})
        else:
            self._say({"id": request["id"], "result": result})

    def _say(self, answer: dict[str, Any]) -> None:
        self._output.write(json.dumps(answer) + "\n")
        self._output.flush()

    async def connect(self, url: str, app_key: str, secret_key: str) -> str:
        self._client = await self._sdk.connect(url, app_key, secret_key)
        return self._app_id()

    async def connect_subscribed(
        self, url: str, app_key: str, secret_key: str, event_name: str
    ) -> str:
        self._client, self._subscriptions[event_name] = await self._sdk.connect_subscribed(
            url, app_key, secret_key, event_name, self._handle
        )
        return self._app_id()

    async def publish(
        self, event_name: str, recipients: list[str], payload: Any, metadata: Any
    ) -> str:
        text: str = await self._client.publish(event_name, recipients, payload, metadata)
        return text

    async def subscribe(self, event_name: str, auto_ack: bool) -> None:
        self._subscriptions[event_name] = await self._sdk.subscribe(
            self._client, event_name, self._handle, auto_ack
        )

    async def control(self, event_name: str, action: str, arguments: list[Any]) -> Any:
        """Calls a method of a subscription, such as ``ack`` with an id and a block."""
        return await getattr(self._subscriptions[event_name], action)(*arguments)

    async def ask_for_replay_record(self, event_name: str, idem: str) -> Any:
        return await self._sdk.ask_for_replay_record(self._client, event_name, idem)

    async def _handle(self, event: Event) -> None:
        self._say({"event": event})
        if event["payload"] == {"hold": True}:
            await asyncio.Event().wait()  # never: this event stays in the handler's hands

    def _app_id(self) -> str:
        app_id: str = self._client.get_client_public_key()
        return app_id


def _described(error: Exception) -> dict[str, str]:
    name = getattr(error, "error_type", type(error).__name__)
    return {"type": name, "text": getattr(error, "message", str(error))}


def converse(make_sdk: Callable[[], Sdk]) -> None:
    """Answers a test until it says ``quit`` or goes away.

    Args:
        make_sdk: Imports the SDK and wraps it. Called when standard output is already
            out of the reach of whatever the SDK prints.
    """
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    asyncio.run(_converse(make_sdk(), output))


async def _converse(sdk: Sdk, output: TextIO) -> None:
    requests = asyncio.StreamReader(limit=2**24)
    protocol = asyncio.StreamReaderProtocol(requests)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    await _Conversation(sdk, output).hold(requests)
