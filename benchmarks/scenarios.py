"""What is measured: scenarios, and the sections of the report that they come in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from benchmarks.clients.job import Job, Measurement
from benchmarks.contenders import BASELINE, EngineKind
from benchmarks.engines import Engine, LocalEngineProcess

__all__ = ["STREAM_LIMIT", "Metric", "Scenario", "Section", "sections"]

MakeJob: TypeAlias = Callable[[Engine], Job]


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of a measurement; the smaller, the better."""

    title: str
    unit: str
    of: Callable[[Measurement], float]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that every contender of a section is made to do.

    Attributes:
        compared_with: In a section without a baseline, the scenario that its cost is a
            multiple of; the first one, if it is empty.
    """

    key: str
    title: str
    make_job: MakeJob
    metrics: tuple[Metric, ...]
    needs_neutral: bool = False
    compared_with: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A table of the report: contenders by scenarios.

    Attributes:
        engine: What it is measured against.
        baseline: The contender that the ratios refer to. None: each contender's own
            result in the first scenario, or in the one that a scenario is compared with.
        rounds: At most this many; None for as many as were asked for.
        fresh: Whether each measurement has a process of its own.
    """

    key: str
    title: str
    contenders: tuple[str, ...]
    scenarios: tuple[Scenario, ...]
    engine: EngineKind = "neutral"
    baseline: str | None = BASELINE
    rounds: int | None = None
    fresh: bool = False
    note: str = ""


def _cost(measurement: Measurement) -> float:
    return measurement.seconds / measurement.count * 1e6


def _growth(measurement: Measurement) -> float:
    """Megabytes gained after the first step, in which caches and pools fill up."""
    return (measurement.memory[-1] - measurement.memory[1]) / 1024


PER_EVENT = Metric("", "µs", _cost)
P50 = Metric("p50", "µs", lambda m: m.latencies["p50"])
P99 = Metric("p99", "µs", lambda m: m.latencies["p99"])
GROWTH = Metric("growth", "MB", _growth)

# The local engine's, and a common one: of the requests on one connection.
STREAM_LIMIT = 100

OFFICIAL = ("sdk-0.4.4", "sdk-0.3.3")
OURS = ("asyncio", "uvloop", "trio")
PLAINER = ("asyncio-h2", "trio-h2", "asyncio-grpclib", "trio-grpclib")
SIDE_BY_SIDE = ("sdk-0.4.4", *OURS)


def _publish_one_by_one(count: int, size: int = 250, recipients: int = 1) -> MakeJob:
    return lambda engine: engine.job(
        "publish_one_by_one",
        count=count,
        warmup=max(count // 8, 2),
        size=size,
        recipients=recipients,
    )


def _publish_in_flight(
    count: int, size: int = 250, in_flight: int = 64, workload: str = "publish_in_flight"
) -> MakeJob:
    return lambda engine: engine.job(
        workload, count=count, warmup=max(count // 8, 2), size=size, in_flight=in_flight
    )


def _consume(count: int, size: int = 250) -> MakeJob:
    return lambda engine: engine.job("consume", size=size, streams=(engine.stream(count, size),))


def _main_section() -> Section:
    return Section(
        key="grpc",
        title="Publishing and consuming over gRPC, 250 bytes",
        contenders=(*OFFICIAL, *OURS, *PLAINER, "nats"),
        scenarios=(
            Scenario("publish-1", "publish, one at a time", _publish_one_by_one(600), (P50, P99)),
            Scenario("publish-64", "publish, 64 in flight", _publish_in_flight(2000), (PER_EVENT,)),
            Scenario(
                "publish-many",
                "publish_many",
                _publish_in_flight(2000, workload="publish_many"),
                (PER_EVENT,),
            ),
            Scenario("consume", "consume + auto-ack", _consume(2000), (PER_EVENT,)),
        ),
        note="ensync-sdk has no publish_many: 64 tasks share its client there too. nats-py is no "
        "measure of the others: its payloads are in the clear, and its acknowledgements are "
        "not answered.",
    )


def _sizes_section() -> Section:
    return Section(
        key="sizes",
        title="Larger payloads",
        contenders=SIDE_BY_SIDE,
        scenarios=(
            Scenario(
                "publish-10k",
                "10 KB, 64 in flight",
                _publish_in_flight(600, 10_000),
                (PER_EVENT,),
            ),
            Scenario("consume-10k", "10 KB, consume", _consume(600, 10_000), (PER_EVENT,)),
            Scenario(
                "publish-1m",
                "1 MB, 4 in flight",
                _publish_in_flight(12, 1_000_000, 4),
                (PER_EVENT,),
            ),
            Scenario("consume-1m", "1 MB, consume", _consume(12, 1_000_000), (PER_EVENT,)),
        ),
    )


def _recipients_section() -> Section:
    return Section(
        key="recipients",
        title="One event to several recipients, one at a time",
        contenders=(*SIDE_BY_SIDE, "asyncio-compressed"),
        scenarios=tuple(
            Scenario(
                f"recipients-{recipients}",
                f"{recipients} recipient{'s'[: recipients - 1]}",
                _publish_one_by_one(count, recipients=recipients),
                (P50,),
            )
            for recipients, count in ((1, 300), (10, 40), (50, 10))
        ),
    )


def _rate_section() -> Section:
    rate = 1000.0

    def publish(engine: Engine) -> Job:
        return engine.job("publish_at_rate", count=1000, warmup=100, in_flight=64, rate=rate)

    def deliver(engine: Engine) -> Job:
        return engine.job("consume", rate=rate, streams=(engine.stream(1000, rate=rate),))

    return Section(
        key="rate",
        title="Latency at 1,000 events a second",
        contenders=SIDE_BY_SIDE,
        scenarios=(
            Scenario("rate-publish", "publish", publish, (P50, P99)),
            Scenario("rate-deliver", "delivery", deliver, (P50, P99), needs_neutral=True),
        ),
        note="Delivery counts from when the server writes an event to when the program has it.",
    )


def _crowd_section() -> Section:
    return Section(
        key="crowd",
        title=f"More publishes at a time than the server takes, which is {STREAM_LIMIT}",
        contenders=("sdk-0.4.4", "asyncio", "trio"),
        engine="limited",
        scenarios=tuple(
            Scenario(
                f"crowd-{crowd}",
                f"{crowd:,} in flight",
                _publish_in_flight(4 * crowd, in_flight=crowd),
                (P50, P99),
            )
            for crowd in (256, 1000)
        ),
        note="Who comes first is served first: nobody waits much longer than the others.",
    )


def _websocket_section() -> Section:
    return Section(
        key="websocket",
        title="WebSocket beside gRPC, against the local engine",
        engine="local",
        contenders=(
            "asyncio",
            "trio",
            "asyncio-websocket",
            "uvloop-websocket",
            "trio-websocket",
        ),
        baseline="asyncio",
        scenarios=(
            Scenario("ws-publish-1", "publish, one at a time", _publish_one_by_one(300), (P50,)),
            Scenario(
                "ws-publish-64", "publish, 64 in flight", _publish_in_flight(1000), (PER_EVENT,)
            ),
            Scenario("ws-consume", "consume + auto-ack", _consume(1000), (PER_EVENT,)),
        ),
        note="The local engine is in Python and busier than the client: these ratios say how the "
        "two transports compare as a whole, engine included.",
    )


def _subscriptions_section() -> Section:
    total = 16_000
    spread = tuple(
        Scenario(f"subscriptions-{n}", f"{n:,}", _consume_by_many(n, total), (PER_EVENT,))
        for n in (1, 10, 100, 500)
    )
    one_busy = Scenario(
        "subscriptions-500-idle",
        "one of 500 is busy",
        _consume_by_many(1, total, idle=499),
        (PER_EVENT,),
    )
    return Section(
        key="subscriptions",
        title="Cost of an event as subscriptions grow",
        contenders=("asyncio", "trio"),
        baseline=None,
        scenarios=(*spread, one_busy),
        note=f"{total:,} events, spread evenly over the subscriptions of one client, each with a "
        "loop in a task of its own; the server sends one to each in turn, so that every event "
        "wakes another task. The last column: 500 subscriptions, all events are of one.",
    )


def _consume_by_many(busy: int, total: int, idle: int = 0) -> MakeJob:
    def make_job(engine: Engine) -> Job:
        # Idle ones first: the first stream may carry all, so it is not held but paused, and the
        # neutral server does not pause.
        counts = [0] * idle + [total // busy] * busy
        streams = tuple(engine.stream(count, group="all") for count in counts)
        return engine.job("consume", streams=streams, start_name=engine.start_name("all"))

    return make_job


def _backlog_section(largest: int) -> Section:
    sizes = [size for size in (0, 1_000, 10_000, 100_000, 1_000_000) if size <= largest]
    measured = 2000

    def publish(backlog: int) -> MakeJob:
        def make_job(engine: Engine) -> Job:
            assert isinstance(engine, LocalEngineProcess)
            name = engine.new_name("backlog")
            engine.fill(name, backlog)
            return engine.job(
                "publish_in_flight", event_name=name, count=measured, warmup=100, in_flight=64
            )

        return make_job

    def consume(backlog: int) -> MakeJob:
        def make_job(engine: Engine) -> Job:
            assert isinstance(engine, LocalEngineProcess)
            stream = engine.stream(measured)
            engine.fill(stream.event_name, backlog)
            return engine.job("consume", streams=(stream,))

        return make_job

    return Section(
        key="backlog",
        title="Cost of an event as the local engine's backlog grows",
        engine="local",
        contenders=("asyncio",),
        baseline=None,
        rounds=2,
        scenarios=(
            *(
                Scenario(f"backlog-publish-{n}", f"publish, {n:,}", publish(n), (PER_EVENT,))
                for n in sizes
            ),
            *(
                Scenario(
                    f"backlog-consume-{n}",
                    f"consume, {n:,}",
                    consume(n),
                    (PER_EVENT,),
                    compared_with="backlog-consume-0",
                )
                for n in sizes
            ),
        ),
    )


def _memory_section(count: int) -> Section:
    def publish(engine: Engine) -> Job:
        return engine.job("publish_and_watch_memory", count=count, warmup=count // 20, in_flight=64)

    return Section(
        key="memory",
        title=f"Memory gained by {count:,} events",
        contenders=("sdk-0.4.4", "asyncio", "trio"),
        scenarios=(
            Scenario("memory-publish", "publishing", publish, (GROWTH,)),
            Scenario("memory-consume", "consuming", _consume(count), (GROWTH,)),
        ),
        baseline=None,
        rounds=1,
        fresh=True,
        note="Resident memory at the end, less that after the first eighth.",
    )


def sections(*, full: bool) -> list[Section]:
    """What a run consists of. ``full`` adds what takes long."""
    return [
        _main_section(),
        _sizes_section(),
        _recipients_section(),
        _rate_section(),
        _crowd_section(),
        _websocket_section(),
        _subscriptions_section(),
        _backlog_section(1_000_000 if full else 100_000),
        _memory_section(200_000 if full else 40_000),
    ]
