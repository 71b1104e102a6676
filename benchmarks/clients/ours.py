"""Measures ensync itself, on one of its event loops."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.lowlevel

import ensync
from benchmarks.clients.job import EventStream, Job, Measurement
from benchmarks.clients.worker import serve_jobs
from benchmarks.clients.workloads import WORKLOADS, EventCallback


class EnsyncClient:
    """The adapter."""

    def __init__(self, client: ensync.EnSyncClient, job: Job) -> None:
        self._client = client
        self._event_name = job.event_name
        self._recipients = list(job.recipients)

    async def publish(self, payload: dict[str, Any]) -> None:
        await self._client.publish(self._event_name, self._recipients, payload)

    async def start_streams(self, name: str) -> None:
        await self._client.publish(name, self._recipients, {})

    async def publish_all(self, payloads: Iterator[dict[str, Any]], in_flight: int) -> None:
        events = (
            ensync.OutgoingEvent(self._event_name, self._recipients, payload)
            for payload in payloads
        )
        async with self._client.publish_many(events, max_in_flight=in_flight) as outcomes:
            async for outcome in outcomes:
                outcome.unwrap()

    async def consume(
        self,
        streams: tuple[EventStream, ...],
        on_event: EventCallback,
        subscribed: Callable[[], Awaitable[None]],
        settled: Callable[[], None],
    ) -> None:
        async with AsyncExitStack() as scopes:
            subscriptions = [
                await scopes.enter_async_context(self._client.subscribe(stream.event_name))
                for stream in streams
            ]
            await subscribed()
            async with anyio.create_task_group() as loops:
                for subscription, stream in zip(subscriptions, streams, strict=True):
                    if stream.count:
                        loops.start_soon(_count_events, subscription, stream.count, on_event)
            for subscription, stream in zip(subscriptions, streams, strict=True):
                await _until_confirmed(subscription, stream.count)
            settled()

    async def together(self, function: Callable[[], Coroutine[Any, Any, None]], times: int) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(times):
                tasks.start_soon(function)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


async def _count_events(
    subscription: ensync.Subscription[Any], count: int, on_event: EventCallback
) -> None:
    async for event in subscription:
        if not count:
            break  # asking for this one acknowledged the last that counts
        on_event(event.metadata)
        count -= 1


async def _until_confirmed(subscription: ensync.Subscription[Any], count: int) -> None:
    """Programs wait for this by leaving the block, which would be measured too."""
    while subscription.statistics().acknowledged < count:
        await anyio.lowlevel.checkpoint()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "trio"], required=True)
    parser.add_argument("--http2", choices=["auto", "h2", "grpclib"], default="auto")
    parser.add_argument("--compression", choices=["deflate"])
    options = parser.parse_args()
    engine_options = {"http2": options.http2, "compression": options.compression}
    serve_jobs(lambda job: run_job(job, options.loop, engine_options))


def run_job(job: Job, loop: str, engine_options: Any) -> Measurement:
    """Connects, runs the job's workload, disconnects."""

    async def connect_and_run() -> Measurement:
        async with ensync.connect(
            job.url, app_key=job.app_key, app_secret_key=job.secret_key, **engine_options
        ) as client:
            return await WORKLOADS[job.workload](EnsyncClient(client, job), job)

    if loop == "trio":
        return anyio.run(connect_and_run, backend="trio")
    return anyio.run(connect_and_run, backend_options={"use_uvloop": loop == "uvloop"})


if __name__ == "__main__":
    main()
