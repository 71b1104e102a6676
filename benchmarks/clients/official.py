"""Measures the published SDKs, driven as fast as they can go.

Both spellings of their options differ from what their documentation says; these are
the ones that are read. There is no call for many publishes at once: tasks share a client.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

from benchmarks.clients.job import EventStream, Job, Measurement
from benchmarks.clients.worker import serve_jobs
from benchmarks.clients.workloads import WORKLOADS, EventCallback


class OfficialClient:
    """The adapter."""

    def __init__(self, client: Any, job: Job, subscribe: Callable[..., Awaitable[Any]]) -> None:
        self._client = client
        self._event_name = job.event_name
        self._recipients = list(job.recipients)
        self._subscribe = subscribe

    async def publish(self, payload: dict[str, Any]) -> None:
        await self._client.publish(self._event_name, self._recipients, payload)

    async def start_streams(self, name: str) -> None:
        await self._client.publish(name, self._recipients, {"start": True})

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
        confirmed = [asyncio.Event() for _ in streams]
        for stream, done in zip(streams, confirmed, strict=True):
            subscription = await self._subscribe(self._client, stream.event_name)
            subscription.on(_handler(stream.count, on_event, done))
        await subscribed()
        for done in confirmed:
            await done.wait()
        settled()

    async def together(self, function: Callable[[], Coroutine[Any, Any, None]], times: int) -> None:
        await asyncio.gather(*(function() for _ in range(times)))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _handler(
    count: int, on_event: EventCallback, done: asyncio.Event
) -> Callable[[Any], Awaitable[None]]:
    """Counts; one event more means that the last one's acknowledgement was answered."""
    handled = 0

    async def handle(event: Any) -> None:
        nonlocal handled
        if handled == count:
            done.set()
            return
        handled += 1
        on_event(event["metadata"])

    return handle


async def _subscribe_events(client: Any, event_name: str) -> Any:
    return await client.subscribe(event_name, {"autoAck": True})


async def _subscribe_messages(client: Any, event_name: str) -> Any:
    # The public way takes handlers before connecting only; this is what it calls then.
    return await client.subscribe(event_name, autoAck=True)._ensure_subscription()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sdk", choices=["0.3.3", "0.4.4"], required=True)
    options = parser.parse_args()
    # In the environment of this client alone, where `ensync` is the old SDK's name, too.
    package: Any = importlib.import_module("ensync" if options.sdk == "0.3.3" else "ensync_sdk")
    if options.sdk == "0.3.3":
        # It turns logging on when it is imported.
        logging.getLogger().setLevel(logging.WARNING)
        subscribe: Any = _subscribe_events
    else:
        subscribe = _subscribe_messages
    serve_jobs(lambda job: asyncio.run(_run(job, package.EnSyncEngine, subscribe)))


async def _run(job: Job, engine: Any, subscribe: Any) -> Measurement:
    client = await engine(job.url).create_client(job.app_key, {"appSecretKey": job.secret_key})
    try:
        return await WORKLOADS[job.workload](OfficialClient(client, job, subscribe), job)
    finally:
        await client.close()


if __name__ == "__main__":
    main()
