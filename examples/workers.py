"""Handles events several at a time, and stops cleanly when a signal asks for it."""

import signal

import anyio

import ensync

NAME = "examples/workers"
JOBS = 20


async def main() -> None:
    finished = anyio.Event()
    done = set[int]()

    async def handle(event: ensync.Event[dict[str, int]]) -> None:
        await anyio.sleep(0.01)  # the work
        done.add(event.payload["job"])
        if len(done) == JOBS:
            finished.set()

    async with ensync.connect() as client:
        for number in range(JOBS):
            await client.publish(NAME, [client.app_id], {"job": number})
        async with client.subscribe(NAME) as subscription, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: subscription.for_each(handle, concurrency=8))
            tasks.start_soon(stop_on_signal, finished)
            await finished.wait()
            tasks.cancel_scope.cancel()  # jobs that are not done stay with the engine
    print(len(done), "jobs done")


async def stop_on_signal(finished: anyio.Event) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            finished.set()


anyio.run(main)
