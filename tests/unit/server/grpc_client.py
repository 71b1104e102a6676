"""A bare gRPC client, made of grpclib alone, and tests that are a conversation with a door."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import betterproto2
from grpclib.client import Channel
from grpclib.client import Stream as ClientStream
from grpclib.config import Configuration
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError

from ensync.proto.ensync import (
    ConnectRequest,
    ConnectResponse,
    EventStreamResponse,
    PublishEventRequest,
    PublishEventResponse,
    SubscribeRequest,
)
from ensync.scopes import single_error_bare
from ensync.server.apps import App
from ensync.server.grpc import GrpcDoor
from ensync.server.local import LocalEngine
from ensync.transports.bridge import open_asyncio_side
from tests.unit.server.brokers import NAME, envelope

SERVICE = "/ensync.EnSyncService/"

M = TypeVar("M", bound=betterproto2.Message)
EventStream = ClientStream[SubscribeRequest, EventStreamResponse]


class RawClient:
    """One connection to an engine, authenticated as one client of an app."""

    def __init__(self, engine: LocalEngine, app: App) -> None:
        self.engine = engine
        self.app = app
        # Else one stream that is not read would fill the window of the connection.
        config = Configuration(http2_connection_window_size=(1 << 31) - 1)
        self.channel = Channel("127.0.0.1", port_of(engine.url), config=config)
        self.client_id = ""

    async def connect(self) -> None:
        request = ConnectRequest(access_key=self.app.app_key)
        response = await self.call("Connect", request, ConnectResponse)
        assert response.success
        assert response.client_hash == self.app.app_id
        self.client_id = response.client_id

    async def call(self, name: str, request: betterproto2.Message, reply_type: type[M]) -> M:
        """Calls a unary method; a status other than OK raises GRPCError."""
        replies: list[M] = []

        async def call() -> None:
            async with self.channel.request(
                SERVICE + name, Cardinality.UNARY_UNARY, type(request), reply_type
            ) as stream:
                await stream.send_message(request, end=True)
                reply = await stream.recv_message()
                await stream.recv_trailing_metadata()
                assert reply is not None
                replies.append(reply)

        # In a task of its own, because grpclib cancels the task when the connection is lost.
        with anyio.fail_after(10):
            async with single_error_bare(), anyio.create_task_group() as tasks:
                tasks.start_soon(call)
        return replies[0]

    async def publish(
        self, text: str = "e", *, to: App | None = None, name: str = NAME, **changes: Any
    ) -> PublishEventResponse:
        request = PublishEventRequest(
            client_id=self.client_id,
            event_name=name,
            payload=envelope(text),
            delivery_to=(to or self.app).app_id,
            metadata="{}",
        )
        for field, value in changes.items():
            setattr(request, field, value)
        return await self.call("PublishMessage", request, PublishEventResponse)

    @asynccontextmanager
    async def subscribed(self, name: str = NAME) -> AsyncIterator[EventStream]:
        """A stream that the engine has registered."""
        async with self.subscribing(name) as stream:
            with anyio.fail_after(10):
                await stream.recv_initial_metadata()
            yield stream

    @asynccontextmanager
    async def subscribing(self, name: str = NAME) -> AsyncIterator[EventStream]:
        """A stream that was asked for. It is cancelled at the end."""
        path = SERVICE + "Subscribe"
        async with self.channel.request(
            path, Cardinality.UNARY_STREAM, SubscribeRequest, EventStreamResponse
        ) as stream:
            request = SubscribeRequest(client_id=self.client_id, event_name=name)
            await stream.send_message(request, end=True)
            yield stream
            if stream._stream.closable:
                await stream.cancel()

    def close(self) -> None:
        self.channel.close()


class Conversation:
    """An engine with one app, and clients of it that are closed at the end."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine
        self.app = engine.create_app("billing")
        self._clients: list[RawClient] = []

    async def client(self, app: App | None = None) -> RawClient:
        client = RawClient(self.engine, app or self.app)
        self._clients.append(client)
        await client.connect()
        return client

    @property
    def connections(self) -> int:
        """How many connections the gRPC door has."""
        door = self.engine._doors[0]
        assert isinstance(door, GrpcDoor)
        return len(door.connections)

    def close(self) -> None:
        for client in self._clients:
            client.close()


Scenario = Callable[..., Awaitable[None]]


def conversation(**options: Any) -> Callable[[Scenario], Scenario]:
    """Makes a test of a function that takes a Conversation. It runs on the asyncio side."""

    def decorate(scenario: Scenario) -> Scenario:
        @functools.wraps(scenario)
        async def test(**arguments: Any) -> None:
            async with LocalEngine(**options) as engine, open_asyncio_side() as side:
                await side.run(converse, engine, arguments)

        async def converse(engine: LocalEngine, arguments: dict[str, Any]) -> None:
            talk = Conversation(engine)
            try:
                await scenario(talk, **arguments)
            finally:
                talk.close()

        _, *parameters = inspect.signature(scenario).parameters.values()
        test.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return test

    return decorate


async def receive(stream: EventStream) -> EventStreamResponse:
    """The next event; fails when there is none in time."""
    with anyio.fail_after(10):
        message = await stream.recv_message()
    assert message is not None, "the stream has ended"
    return message


async def status_at_the_end(stream: EventStream) -> Status:
    """How the engine ended a stream."""
    with anyio.fail_after(10):
        while await stream.recv_message() is not None:
            pass
        try:
            await stream.recv_trailing_metadata()
        except GRPCError as error:
            return error.status
    return Status.OK


async def until(condition: Callable[[], object]) -> None:
    """Waits until something is so; it is asked at every turn of the loop."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - what is asked for has no event
            await anyio.sleep(0.001)


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1])
