"""What the conformance tests are written with: an engine somewhere, two apps, and clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeVar, Unpack

import anyio

import ensync
from ensync.crypto import SecretKey
from ensync.engine import EngineOptions
from ensync.server.local import LocalEngine

__all__ = [
    "PATIENCE",
    "Keys",
    "Target",
    "address",
    "impatient",
    "opened",
    "publish_all",
    "reconnected",
    "take",
    "take_one",
    "unsettled",
    "unsettled_by",
]

T = TypeVar("T")

# Long enough for a slow machine; what never happens fails a test and does not hang it.
PATIENCE = 10.0


class App(Protocol):
    """What a local engine calls an app."""

    @property
    def app_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...


class Keys(NamedTuple):
    """Who a test connects as."""

    app_key: str
    secret_key: str

    @classmethod
    def of(cls, app: App) -> Keys:
        return cls(app.app_key, app.secret_key)

    @property
    def app_id(self) -> str:
        return SecretKey.parse(self.secret_key).app_id


class Target(NamedTuple):
    """The engine that is tested, over one transport, and two apps that it knows."""

    url: str
    keys: Keys
    other_keys: Keys

    def connect(
        self, keys: Keys | None = None, **options: Unpack[EngineOptions]
    ) -> AbstractAsyncContextManager[ensync.EnSyncClient]:
        """Connects a client, as the first app if not told otherwise."""
        who = self.keys if keys is None else keys
        return ensync.connect(
            self.url, app_key=who.app_key, app_secret_key=who.secret_key, **options
        )


def address(engine: LocalEngine, transport: str) -> str:
    """Where a local engine serves a transport."""
    return engine.url if transport == "grpc" else engine.websocket_url


@asynccontextmanager
async def opened(transport: str, **options: Any) -> AsyncIterator[tuple[Target, LocalEngine]]:
    """A local engine of a test's own, with two apps."""
    async with LocalEngine(**options) as engine:
        keys, other_keys = (Keys.of(engine.create_app(name)) for name in ("first", "second"))
        yield Target(address(engine, transport), keys, other_keys), engine


@contextmanager
def impatient(client: ensync.EnSyncClient, seconds: float = 0.2) -> Iterator[None]:
    """What is asked for in here waits so long for its answer; all else has its time."""
    session = client._session
    usual = session.settings
    session.settings = replace(usual, request_timeout=seconds)
    try:
        yield
    finally:
        session.settings = usual


async def reconnected(client: ensync.EnSyncClient, client_id: str) -> None:
    """Waits until the engine knows the client by another name than that."""
    with anyio.fail_after(PATIENCE):
        async for state in client.states():
            if state is ensync.ClientState.CONNECTED and client.client_id != client_id:
                return


async def publish_all(
    client: ensync.EnSyncClient, event_name: str, payloads: Sequence[object]
) -> list[str]:
    """Publishes to the client itself, one after the other; returns the event ids."""
    receipts = [await client.publish(event_name, [client.app_id], each) for each in payloads]
    return [receipt.event_id for receipt in receipts]


async def take(subscription: ensync.Subscription[T], count: int) -> list[ensync.Event[T]]:
    """The next events. With auto-ack, all but the last are acknowledged by that."""
    events: list[ensync.Event[T]] = []
    with anyio.fail_after(PATIENCE):
        async for event in subscription:
            events.append(event)
            if len(events) == count:
                break
    return events


async def take_one(subscription: ensync.Subscription[T]) -> ensync.Event[T]:
    """The next event."""
    return (await take(subscription, 1))[0]


_LAST = "the last one"


async def unsettled(target: Target, event_name: str) -> list[Any]:
    """The payloads that the engine still hands out. They are settled by asking.

    Nothing else may be subscribed. The engine hands events out in order, so what is
    not handed out before a new one is not there.
    """
    async with target.connect() as client:
        return await unsettled_by(client, event_name)


async def unsettled_by(client: ensync.EnSyncClient, event_name: str) -> list[Any]:
    """As unsettled(), asked by a client that is there already."""
    async with client.subscribe(event_name) as subscription:
        await client.publish(event_name, [client.app_id], _LAST)
        payloads: list[Any] = []
        with anyio.fail_after(PATIENCE):
            async for event in subscription:
                if event.payload == _LAST:
                    return payloads
                payloads.append(event.payload)
    raise AssertionError("the subscription ended")
