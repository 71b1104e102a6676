"""Measures nats-py with JetStream: for context, as what it does is not the same.

A publish is confirmed by the server and an event acknowledged, as with EnSync; but the
payloads are in the clear, and an acknowledgement is not answered.
"""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

from benchmarks.clients.job import EventStream, Job, Measurement
from benchmarks.clients.payloads import make_payloads
from benchmarks.clients.worker import serve_jobs
from benchmarks.clients.workloads import WORKLOADS, EventCallback

STREAM = "BENCHMARK"
PUBLISHED, CONSUMED = "benchmark.publish", "benchmark.consume"
BATCH = 256


class NatsClient:
    """The adapter."""

    def __init__(self, connection: Any, job: Job) -> None:
        self._connection = connection
        self._jetstream = connection.jetstream()
        self._payloads = make_payloads(job.size)

    async def publish(self, payload: dict[str, Any]) -> None:
        await self._jetstream.publish(PUBLISHED, json.dumps(payload).encode())

    async def start_streams(self, name: str) -> None:
        """Nothing starts by itself: what is consumed was stored before."""

    async def publish_all(self, payloads: Iterator[dict[str, Any]], in_flight: int) -> None:
        async def publish_in_turn() -> None:
            for payload in payloads:
                await self.publish(payload)

        await self.together(publish_in_turn, in_flight)

    async def consume(
        self,
        streams: tuple[EventStream, ...],
        on_event: EventCallback,
        subscribed: Callable[[], Awaitable[None]],
        settled: Callable[[], None],
    ) -> None:
        count = streams[0].count
        await self._fill(count)
        subscription = await self._jetstream.pull_subscribe(CONSUMED, "benchmark")
        await subscribed()
        while count:
            for message in await subscription.fetch(min(BATCH, count)):
                json.loads(message.data)
                on_event({})
                await message.ack()
                count -= 1
        await self._connection.flush()
        settled()

    async def _fill(self, count: int) -> None:
        numbers = iter(range(count))

        async def publish_in_turn() -> None:
            for number in numbers:
                payload = self._payloads[number % len(self._payloads)]
                await self._jetstream.publish(CONSUMED, json.dumps(payload).encode())

        await self.together(publish_in_turn, 64)

    async def together(self, function: Callable[[], Coroutine[Any, Any, None]], times: int) -> None:
        await asyncio.gather(*(function() for _ in range(times)))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _run(job: Job) -> Measurement:
    nats: Any = importlib.import_module("nats")  # in the environment of this client alone
    connection = await nats.connect(job.url)
    jetstream = connection.jetstream()
    await jetstream.add_stream(name=STREAM, subjects=[PUBLISHED, CONSUMED], storage="memory")
    try:
        return await WORKLOADS[job.workload](NatsClient(connection, job), job)
    finally:
        await jetstream.delete_stream(STREAM)
        await connection.close()


if __name__ == "__main__":
    serve_jobs(lambda job: asyncio.run(_run(job)))
