"""The workloads: what each client is made to do, in the same words for all of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Protocol

from benchmarks.clients.job import EventStream, Job, Measurement
from benchmarks.clients.meter import Meter, resident_kilobytes
from benchmarks.clients.payloads import make_payloads

__all__ = ["WORKLOADS", "Client", "EventCallback", "Workload"]

Payload = dict[str, Any]
EventCallback = Callable[[dict[str, Any]], None]
"""Is given the metadata of each event, in the user's handler or loop."""

MEMORY_STEPS = 8
# A timer of an event loop is late by up to this, which no client can help.
TIMER_RESOLUTION_NS = 1_200_000


class Client(Protocol):
    """A connected client of some SDK, at its best."""

    async def publish(self, payload: Payload) -> None:
        """Publishes to the job's recipients; returns when the engine has it."""

    async def start_streams(self, name: str) -> None:
        """Publishes to a name that makes the engine start sending."""

    async def publish_all(self, payloads: Iterator[Payload], in_flight: int) -> None:
        """Publishes all of them in the way that the SDK has for this."""

    async def consume(
        self,
        streams: tuple[EventStream, ...],
        on_event: EventCallback,
        subscribed: Callable[[], Awaitable[None]],
        settled: Callable[[], None],
    ) -> None:
        """Consumes with automatic acknowledgement.

        ``subscribed`` is awaited when all streams are; ``settled`` is called when the
        engine has confirmed the acknowledgement of each counted event, before the
        subscriptions are left.
        """

    async def together(self, function: Callable[[], Coroutine[Any, Any, None]], times: int) -> None:
        """Runs a function so many times, concurrently."""

    async def sleep(self, seconds: float) -> None:
        """Sleeps."""


Workload = Callable[[Client, Job], Awaitable[Measurement]]


async def publish_one_by_one(client: Client, job: Job) -> Measurement:
    await _publish_in_flight(client, _payloads(job, job.warmup), 16)
    latencies: list[int] = []
    meter = Meter(job.server_pid)
    meter.start()
    await _publish_timed(client, _payloads(job, job.count), latencies)
    return meter.stop(job.count, latencies)


async def publish_in_flight(client: Client, job: Job) -> Measurement:
    await _publish_in_flight(client, _payloads(job, job.warmup), job.in_flight)
    latencies: list[int] = []
    payloads = _payloads(job, job.count)
    meter = Meter(job.server_pid)
    meter.start()
    await client.together(lambda: _publish_timed(client, payloads, latencies), job.in_flight)
    return meter.stop(job.count, latencies)


async def publish_many(client: Client, job: Job) -> Measurement:
    await _publish_in_flight(client, _payloads(job, job.warmup), job.in_flight)
    meter = Meter(job.server_pid)
    meter.start()
    await client.publish_all(_payloads(job, job.count), job.in_flight)
    return meter.stop(job.count)


async def publish_at_rate(client: Client, job: Job) -> Measurement:
    """Latencies count from the time at which each publish was due, not from its start."""
    await _publish_in_flight(client, _payloads(job, job.warmup), job.in_flight)
    latencies: list[int] = []
    payloads = _payloads(job, job.count)
    meter = Meter(job.server_pid)
    meter.start()
    due = itertools.count(time.perf_counter_ns(), round(1e9 / job.rate))
    await client.together(
        lambda: _publish_when_due(client, payloads, due, latencies), job.in_flight
    )
    return meter.stop(job.count, latencies)


async def publish_and_watch_memory(client: Client, job: Job) -> Measurement:
    await _publish_in_flight(client, _payloads(job, job.warmup), job.in_flight)
    memory = [resident_kilobytes()]
    step = job.count // MEMORY_STEPS
    meter = Meter(job.server_pid)
    meter.start()
    for _ in range(MEMORY_STEPS):
        await _publish_in_flight(client, _payloads(job, step), job.in_flight)
        memory.append(resident_kilobytes())
    return meter.stop(step * MEMORY_STEPS, memory=memory)


async def consume(client: Client, job: Job) -> Measurement:
    consumption = _Consumption(job)

    async def start() -> None:
        if job.start_name is not None:
            await client.start_streams(job.start_name)

    await client.consume(job.streams, consumption.on_event, start, consumption.settled)
    return consumption.measurement


class _Consumption:
    """Measures from the first event to the last confirmed acknowledgement."""

    def __init__(self, job: Job) -> None:
        self._with_latencies = job.rate > 0
        self._total = sum(stream.count for stream in job.streams)
        self._step = max(self._total // MEMORY_STEPS, 1)
        self._meter = Meter(job.server_pid)
        self._latencies: list[int] = []
        self._memory: list[int] = []
        self._handled = 0
        self.measurement: Measurement

    def on_event(self, metadata: dict[str, Any]) -> None:
        if not self._handled:
            self._meter.start()
        if self._with_latencies:
            # The engine's stamp is of the same clock: both are on one machine.
            self._latencies.append(time.perf_counter_ns() - metadata["sent_ns"])
        if self._handled % self._step == 0:
            self._memory.append(resident_kilobytes())
        self._handled += 1

    def settled(self) -> None:
        self.measurement = self._meter.stop(self._total, self._latencies, self._memory)


def _payloads(job: Job, count: int) -> Iterator[Payload]:
    return itertools.islice(itertools.cycle(make_payloads(job.size)), count)


async def _publish_in_flight(client: Client, payloads: Iterator[Payload], in_flight: int) -> None:
    async def publish_in_turn() -> None:
        for payload in payloads:
            await client.publish(payload)

    await client.together(publish_in_turn, in_flight)


async def _publish_timed(client: Client, payloads: Iterator[Payload], latencies: list[int]) -> None:
    clock = time.perf_counter_ns
    for payload in payloads:
        began = clock()
        await client.publish(payload)
        latencies.append(clock() - began)


async def _publish_when_due(
    client: Client, payloads: Iterator[Payload], due_times: Iterator[int], latencies: list[int]
) -> None:
    clock = time.perf_counter_ns
    for payload in payloads:
        due = next(due_times)
        if due > clock():
            await client.sleep((due - clock()) / 1e9)
        began = clock()
        counts_from = began if began - due < TIMER_RESOLUTION_NS else due
        await client.publish(payload)
        latencies.append(clock() - counts_from)


WORKLOADS: dict[str, Workload] = {
    function.__name__: function
    for function in (
        publish_one_by_one,
        publish_in_flight,
        publish_many,
        publish_at_rate,
        publish_and_watch_memory,
        consume,
    )
}
