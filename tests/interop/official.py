"""Clients of other SDKs, each in a process and an environment of its own.

``async with official_client(SDK_033, engine.url, app) as them:`` starts a driver and
connects. Everything is waited for by what the driver says, and within a time limit.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.interop.environments import CHECKOUT, python_with

__all__ = [
    "SDK_033",
    "SDK_033_WEBSOCKET",
    "SDK_044",
    "SDK_WS_043",
    "OfficialClient",
    "OfficialSdkError",
    "Received",
    "Sdk",
    "official_client",
    "started_driver",
]

_ANSWER_TIMEOUT = 10.0  # seconds
_QUIT_TIMEOUT = 5.0  # seconds
_LONGEST_LINE = 2**24  # bytes


class AppKeys(Protocol):
    """What a client needs of an app of the engine."""

    @property
    def app_id(self) -> str: ...
    @property
    def app_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...


class Addresses(Protocol):
    """Where an engine listens."""

    @property
    def url(self) -> str: ...
    @property
    def websocket_url(self) -> str: ...


@dataclass(frozen=True)
class Sdk:
    """A package that others wrote, and how to drive it."""

    requirement: str
    driver: str
    over_websocket: bool = False
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.requirement}{'-websocket' if self.arguments else ''}"

    def url_of(self, engine: Addresses) -> str:
        return engine.websocket_url if self.over_websocket else engine.url

    @property
    def command(self) -> list[str]:
        # -E and -s: nothing of the tests' environment may be found, least of all our ensync.
        python = str(python_with(self.requirement))
        return [python, "-E", "-s", "-m", f"tests.interop.drivers.{self.driver}", *self.arguments]


SDK_033 = Sdk("ensync-sdk==0.3.3", "event_generation")
SDK_033_WEBSOCKET = Sdk(
    "ensync-sdk==0.3.3", "event_generation", over_websocket=True, arguments=("websocket",)
)
SDK_044 = Sdk("ensync-sdk==0.4.4", "message_generation")
SDK_WS_043 = Sdk("ensync-sdk-ws==0.4.3", "websocket_sibling", over_websocket=True)


class OfficialSdkError(Exception):
    """The other SDK raised.

    Attributes:
        type: Its name of the error.
        text: Its text.
    """

    def __init__(self, type: str, text: str) -> None:
        super().__init__(f"{type}: {text}")
        self.type = type
        self.text = text


class Received(NamedTuple):
    """An event as a handler of the other SDK got it."""

    event_name: str
    idem: str
    block: int | str
    payload: Any
    metadata: Any
    sender: str


class OfficialClient:
    """A client of another SDK. One task at a time may talk to it.

    Attributes:
        app_id: What the engine told it when it connected.
    """

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.app_id = ""
        self._process = process
        self._requests = process.stdin
        self._answers = BufferedByteReceiveStream(process.stdout)
        self._ids = itertools.count(1)
        self._events: deque[Received] = deque()

    async def connect(self, url: str, app: AppKeys) -> None:
        self.app_id = await self._ask(
            "connect", url=url, app_key=app.app_key, secret_key=app.secret_key
        )

    async def connect_subscribed(self, url: str, app: AppKeys, event_name: str) -> None:
        """Connects with a handler, acknowledging by itself, that is there already."""
        self.app_id = await self._ask(
            "connect_subscribed",
            url=url,
            app_key=app.app_key,
            secret_key=app.secret_key,
            event_name=event_name,
        )

    async def publish(
        self, event_name: str, recipients: list[str], payload: Any, metadata: Any = None
    ) -> list[str]:
        """Returns the ids of the stored events, one for each recipient."""
        text: str = await self._ask(
            "publish",
            event_name=event_name,
            recipients=recipients,
            payload=payload,
            metadata=metadata,
        )
        # Over WebSocket these SDKs return the engine's whole reply for an id.
        return [idem.removeprefix("+PASS:") for idem in text.split(",")]

    async def subscribe(self, event_name: str, *, auto_ack: bool) -> None:
        """Makes it subscribe; over gRPC these SDKs do not wait for the engine's answer."""
        await self._ask("subscribe", event_name=event_name, auto_ack=auto_ack)

    async def next_event(self) -> Received:
        """Waits for the next call of the handler."""
        with anyio.fail_after(_ANSWER_TIMEOUT):
            while not self._events:
                self._keep_event(await self._next_answer())
        return self._events.popleft()

    async def control(self, event_name: str, action: str, *arguments: Any) -> Any:
        """Calls a method of the subscription, such as ``ack`` with an id and a block."""
        return await self._ask(
            "control", event_name=event_name, action=action, arguments=list(arguments)
        )

    async def ask_for_replay_record(self, event_name: str, idem: str) -> Any:
        return await self._ask("ask_for_replay_record", event_name=event_name, idem=idem)

    async def quit(self) -> None:
        """Makes it close its client and end, as a program that is well written does."""
        await self._say({"do": "quit"})
        with anyio.fail_after(_QUIT_TIMEOUT):
            await self._process.wait()

    async def die(self) -> None:
        """Ends it without a word to the engine."""
        self._process.kill()
        await self._process.wait()

    async def _ask(self, do: str, **arguments: Any) -> Any:
        id = next(self._ids)
        await self._say({"id": id, "do": do, "with": arguments})
        with anyio.fail_after(_ANSWER_TIMEOUT):
            while (answer := await self._next_answer()).get("id") != id:
                self._keep_event(answer)
        if "error" in answer:
            raise OfficialSdkError(**answer["error"])
        return answer["result"]

    async def _say(self, request: dict[str, Any]) -> None:
        await self._requests.send(json.dumps(request).encode() + b"\n")

    async def _next_answer(self) -> dict[str, Any]:
        line = await self._answers.receive_until(b"\n", _LONGEST_LINE)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _keep_event(self, answer: dict[str, Any]) -> None:
        event = answer["event"]
        self._events.append(
            Received(
                event_name=event.get("eventName") or event["messageName"],
                idem=event["idem"],
                block=event["block"],
                payload=event["payload"],
                metadata=event["metadata"],
                sender=event["sender"],
            )
        )


@asynccontextmanager
async def started_driver(sdk: Sdk) -> AsyncIterator[OfficialClient]:
    """Starts a driver that is not connected yet, and ends it with the block."""
    # None: what it prints, such as the log that 0.3.3 turns on by itself, goes where the
    # test's own output goes.
    process = await anyio.open_process(sdk.command, stderr=None, cwd=CHECKOUT, env=_environment())
    try:
        yield OfficialClient(process)
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


@asynccontextmanager
async def official_client(
    sdk: Sdk, engine: Addresses, app: AppKeys
) -> AsyncIterator[OfficialClient]:
    """Starts a driver and connects it as an app."""
    async with started_driver(sdk) as client:
        await client.connect(sdk.url_of(engine), app)
        assert client.app_id == app.app_id
        yield client


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
    await process.aclose()


def _environment() -> dict[str, str]:
    # gRPC's C core says nothing that a test could use, and says it in the middle of a line.
    return {**os.environ, "GRPC_VERBOSITY": "NONE"}
