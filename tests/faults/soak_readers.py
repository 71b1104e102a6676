"""Programs that consume, each in another way."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import anyio

import ensync
from ensync.server.apps import App
from tests.faults.soak_engine import NUMBER
from tests.faults.soak_ledger import State
from tests.faults.soak_scene import Oops, Scene, payload_of

__all__ = ["Listener", "drain", "listeners", "work"]

Subscription: TypeAlias = ensync.Subscription[Any]
Event: TypeAlias = ensync.Event[Any]

LONGEST_VISIT = 3.0
LONGEST_TASK = 0.02


class Reader:
    """One subscription's entries in the ledger."""

    def __init__(self, scene: Scene, subscription: Subscription, lot: random.Random) -> None:
        self._scene = scene
        self._name = scene.new_reader()
        self.subscription = subscription
        self.lot = lot

    def chance(self, probability: float) -> bool:
        """Throws the dice; nothing goes wrong any more when all is calm."""
        return not self._scene.calm and self.lot.random() < probability

    def take(self, event: Event) -> None:
        """Has been given an event."""
        number = event.payload["number"]
        self._scene.ledger.handed_out(number, event.recipient, self._name)
        self.check(event)
        if self.subscription.is_paused:
            self._scene.ledger.violate("handed while paused", f"event {number}")

    def check(self, event: Event) -> None:
        """Looks whether an event says what was sent."""
        number = event.metadata.get(NUMBER, -1)
        if event.payload != payload_of(number):
            self._scene.ledger.violate("garbled", f"event {number} is not what was sent")

    async def work(self, event: Event) -> None:
        """Takes an event, and some time for it."""
        self.take(event)
        if self.lot.random() < 0.3:
            await anyio.sleep(self.lot.uniform(0, LONGEST_TASK))

    def finish(self, event: Event) -> None:
        """Is done with an event, so that it may be settled."""
        self._scene.ledger.finished(event.payload["number"], event.recipient, self._name)

    def confirm(self, event: Event, state: State) -> None:
        """Was told that an event is settled."""
        self._scene.ledger.confirmed(event.payload["number"], event.recipient, state)

    def noting(self) -> Any:
        """Survives errors of the library."""
        return self._scene.noting()


Style: TypeAlias = Callable[[Reader], Awaitable[None]]


async def loop(reader: Reader) -> None:
    """Acknowledges by going on; breaks off, or fails, now and then."""
    async for event in reader.subscription:
        await reader.work(event)
        if reader.chance(0.01):
            raise Oops
        reader.finish(event)
        if reader.chance(0.01):
            break


async def steady_loop(reader: Reader) -> None:
    async for event in reader.subscription:
        await reader.work(event)
        reader.finish(event)


async def two_loops(reader: Reader) -> None:
    """Two tasks iterate one subscription."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(steady_loop, reader)
        tasks.start_soon(steady_loop, reader)


async def interrupted_loop(reader: Reader) -> None:
    """Is cancelled in the middle of events, again and again."""
    while True:
        with anyio.move_on_after(reader.lot.uniform(0, 0.2)) as scope:
            async for event in reader.subscription:
                reader.take(event)
                await anyio.sleep(reader.lot.uniform(0, 0.03))
                reader.finish(event)
        if not scope.cancelled_caught:
            return


async def pausing_loop(reader: Reader) -> None:
    """Pauses and resumes while another task iterates."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(steady_loop, reader)
        while True:
            await anyio.sleep(reader.lot.uniform(0, 0.6))
            with reader.noting():
                async with reader.subscription.paused("soaking"):
                    await anyio.sleep(reader.lot.uniform(0, 0.3))


async def by_hand(reader: Reader) -> None:
    """Settles each event explicitly, in every way there is."""
    async for event in reader.subscription:
        await reader.work(event)
        if reader.chance(0.05):
            continue  # left in hand; it comes again when the subscription is left
        with reader.noting():
            if reader.chance(0.03):
                reader.check(await reader.subscription.replay(event.idem))
            await settle_by_hand(reader, event)


async def settle_by_hand(reader: Reader, event: Event) -> None:
    if reader.chance(0.1):
        await event.defer(delay=reader.lot.choice([0, 1]), reason="soaking")
        return
    reader.finish(event)
    if reader.chance(0.1):
        await event.discard(reason="soaking")
        reader.confirm(event, State.DISCARDED)
    else:
        await event.ack()
        reader.confirm(event, State.ACKNOWLEDGED)


async def in_scopes(reader: Reader) -> None:
    """Settles by scopes, in which it fails now and then."""
    async for event in reader.subscription:
        discards = reader.chance(0.3)
        with reader.noting():
            async with event.settle(
                on_error="discard" if discards else "defer", delay=reader.lot.choice([0, 1])
            ):
                await do_or_fail(reader, event, discards)


async def with_handlers(reader: Reader) -> None:
    """Has handlers run at the same time, some of which fail."""
    discards = reader.lot.random() < 0.5

    async def handle(event: Event) -> None:
        await do_or_fail(reader, event, discards)

    await reader.subscription.for_each(
        handle, concurrency=4, on_error="discard" if discards else "defer", delay=1
    )


async def do_or_fail(reader: Reader, event: Event, discards: bool) -> None:
    await reader.work(event)
    fails = reader.chance(0.08)
    if not fails or discards:
        reader.finish(event)
    if fails:
        raise Oops


class Listener(NamedTuple):
    """A program: who it is, and how it treats the events of which names."""

    app: App
    url: str
    styles: dict[str, Style]


BY_HAND = (by_hand, in_scopes)


def listeners(scene: Scene, one: str, other: str) -> list[Listener]:
    """All programs; some compete for one queue, one has several subscriptions."""
    shop, billing = scene.shop, scene.billing
    return [
        Listener(shop, one, {"soak/loop": loop}),
        Listener(shop, other, {"soak/loop": loop}),
        Listener(shop, one, {"soak/hand": by_hand}),
        Listener(shop, other, {"soak/hand": by_hand}),
        Listener(shop, one, {"soak/interrupted": interrupted_loop}),
        Listener(shop, other, {"soak/interrupted": two_loops}),
        Listener(shop, one, {"soak/scopes": in_scopes}),
        Listener(shop, other, {"soak/handlers": with_handlers}),
        Listener(shop, one, {"soak/paused": pausing_loop, "soak/both": two_loops}),
        Listener(
            billing,
            other,
            {"soak/both": by_hand, "soak/scopes": pausing_loop, "soak/handlers": loop},
        ),
    ]


async def work(scene: Scene, listener: Listener, lot: random.Random) -> None:
    """Connects, listens for a while, leaves, and starts over."""
    while scene.working:
        with scene.noting():
            async with (
                scene.client(listener.app, listener.url) as client,
                anyio.create_task_group() as tasks,
            ):
                for event_name, style in listener.styles.items():
                    own_lot = random.Random(lot.random())
                    tasks.start_soon(visit_often, scene, client, event_name, style, own_lot)
        await anyio.sleep(lot.uniform(0, 0.1))


async def visit_often(
    scene: Scene,
    client: ensync.EnSyncClient,
    event_name: str,
    style: Style,
    lot: random.Random,
) -> None:
    for _ in range(lot.randint(1, 6)):
        if not scene.working or client.state is ensync.ClientState.CLOSED:
            return
        with scene.noting():
            await visit(scene, client, event_name, style, lot)


async def visit(
    scene: Scene,
    client: ensync.EnSyncClient,
    event_name: str,
    style: Style,
    lot: random.Random,
) -> None:
    async with client.subscribe(
        event_name, auto_ack=style not in BY_HAND, buffer_size=lot.choice([1, 10, 100])
    ) as subscription:
        with anyio.move_on_after(lot.uniform(0.2, LONGEST_VISIT)):
            await style(Reader(scene, subscription, lot))


async def drain(scene: Scene, app: App, url: str, event_names: Iterable[str]) -> None:
    """Takes and settles all that there is, until it is cancelled."""
    async with scene.client(app, url) as client, anyio.create_task_group() as tasks:
        for event_name in event_names:
            tasks.start_soon(drain_one, scene, client, event_name)


async def drain_one(scene: Scene, client: ensync.EnSyncClient, event_name: str) -> None:
    async with client.subscribe(event_name) as subscription:
        await steady_loop(Reader(scene, subscription, random.Random(0)))
