"""A program to be interrupted: ``python interruptible.py BACKEND TRANSPORT WORK ROUNDS``.

In each round it says when it is ready, runs until it is interrupted, and says what is
left of it. WORK is ``idle`` or ``busy``.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable

import anyio

import ensync
from ensync.server.local import LocalEngine

PUBLISHERS = 4


async def main(transport: str, work: str) -> None:
    async with LocalEngine() as engine:
        app = engine.create_app("app")
        url = engine.url if transport == "grpc" else engine.websocket_url
        async with (
            ensync.connect(url, app_key=app.app_key, app_secret_key=app.secret_key) as client,
            client.subscribe("orders") as subscription,
        ):
            if work == "idle":
                print("ready", flush=True)
                await read(subscription)
            async with anyio.create_task_group() as tasks:
                for _ in range(PUBLISHERS):
                    tasks.start_soon(publish, client)
                await read(subscription, lambda: print("ready", flush=True))


async def publish(client: ensync.EnSyncClient) -> None:
    while True:
        await client.publish("orders", [client.app_id], {"some": "thing"})


async def read(
    subscription: ensync.Subscription[object], at_first: Callable[[], None] | None = None
) -> None:
    async for _ in subscription:
        if at_first is not None:
            at_first()
            at_first = None


def run(backend: str, transport: str, work: str) -> None:
    """One round. A task group that was interrupted says so in a group."""
    try:
        anyio.run(main, transport, work, backend=backend)
    except KeyboardInterrupt:
        return
    except BaseExceptionGroup as group:
        others = group.split(KeyboardInterrupt)[1]
        if others is not None:
            raise others from None


def left() -> str:
    """What lives between two rounds."""
    gc.collect()
    # Threads that trio keeps for later calls end by themselves.
    others = [t for t in threading.enumerate() if not t.name.startswith("Trio thread")]
    return f"files {len(os.listdir('/proc/self/fd'))}, threads {len(others)}"


if __name__ == "__main__":
    # A shell that starts a job in the background has it ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for _ in range(int(sys.argv[4])):
        run(*sys.argv[1:4])
        print(left(), flush=True)
