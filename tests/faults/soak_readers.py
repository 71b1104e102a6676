"""Programs that consume: who they are, and how they come and go."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import cycle
from typing import NamedTuple

import anyio

import ensync
from ensync.server.apps import App
from tests.faults.soak_scene import Scene
from tests.faults.soak_styles import (
    BY_HAND,
    Reader,
    Style,
    by_hand,
    deferring_loops,
    in_scopes,
    interrupted_loop,
    loop,
    pausing_loop,
    settling_handlers,
    steady_loop,
    two_loops,
    with_handlers,
)

__all__ = ["Listener", "drain", "listeners", "work"]

LONGEST_VISIT = 3.0


class Listener(NamedTuple):
    """A program: who it is, and how it treats the events of which names."""

    app: App
    url: str
    styles: dict[str, Style]


def listeners(scene: Scene, one: str, other: str) -> list[Listener]:
    """All programs; some compete for one queue, some have several subscriptions."""
    shop, billing = scene.shop, scene.billing
    deferring = scene.conditions.defers_while_held
    tasks = deferring_loops if deferring else two_loops
    handlers = settling_handlers if deferring else with_handlers
    return [
        Listener(shop, one, {"soak/loop": loop}),
        Listener(shop, other, {"soak/loop": loop}),
        Listener(shop, one, {"soak/hand": by_hand}),
        Listener(shop, other, {"soak/hand": by_hand}),
        Listener(shop, one, {"soak/interrupted": interrupted_loop}),
        Listener(shop, other, {"soak/interrupted": tasks}),
        Listener(shop, one, {"soak/scopes": in_scopes}),
        Listener(shop, other, {"soak/handlers": handlers}),
        Listener(shop, one, {"soak/paused": pausing_loop, "soak/both": tasks}),
        Listener(
            billing,
            other,
            {"soak/both": by_hand, "soak/scopes": pausing_loop, "soak/handlers": loop},
        ),
        *_listeners_to_more(scene, (tasks, handlers, two_loops), one, other),
    ]


def _listeners_to_more(
    scene: Scene, styles: tuple[Style, ...], one: str, other: str
) -> list[Listener]:
    """Two programs that are each subscribed to all further names at a time."""
    if not scene.more_names:
        return []
    many = dict(zip(scene.more_names, cycle(styles), strict=False))
    return [Listener(scene.shop, url, many) for url in (one, other)]


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
        reader = Reader(scene, subscription, lot, style.__name__)
        reader.scope.deadline = anyio.current_time() + lot.uniform(0.2, LONGEST_VISIT)
        with reader.scope:
            await style(reader)


async def drain(scene: Scene, app: App, url: str, event_names: Iterable[str]) -> None:
    """Takes and settles all that there is, until it is cancelled."""
    async with scene.client(app, url) as client, anyio.create_task_group() as tasks:
        for event_name in event_names:
            tasks.start_soon(drain_one, scene, client, event_name)


async def drain_one(scene: Scene, client: ensync.EnSyncClient, event_name: str) -> None:
    async with client.subscribe(event_name) as subscription:
        await steady_loop(Reader(scene, subscription, random.Random(0), "the end"))
