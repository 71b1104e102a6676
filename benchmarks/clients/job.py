"""What a measured program is asked to do, and what it answers: one line of JSON each."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

__all__ = ["EventStream", "Job", "Measurement"]


@dataclass(frozen=True, slots=True)
class EventStream:
    """Events to be consumed: one more than are counted is there under this name (0: none).

    The older SDKs do not say when an acknowledgement is answered. They handle one event
    after another, so the arrival of the next says that the one before is settled.
    """

    event_name: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One measurement.

    Attributes:
        workload: A name out of ``workloads.WORKLOADS``.
        count: How many publishes are measured.
        warmup: How many come before, unmeasured.
        size: Bytes of JSON in each payload.
        in_flight: How many publishes are under way at a time.
        rate: Publishes per second, where the workload has a rate.
        streams: What to consume.
        start_name: Publishing to this name makes the engine start the streams.
        server_pid: The server's process, whose use of the CPU is measured too.
    """

    workload: str
    url: str
    app_key: str
    secret_key: str
    recipients: tuple[str, ...]
    event_name: str = "benchmark/publish"
    count: int = 0
    warmup: int = 0
    size: int = 250
    in_flight: int = 1
    rate: float = 0.0
    streams: tuple[EventStream, ...] = ()
    start_name: str | None = None
    server_pid: int | None = None

    def to_line(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_line(cls, line: str) -> Job:
        fields: dict[str, Any] = json.loads(line)
        fields["recipients"] = tuple(fields["recipients"])
        fields["streams"] = tuple(EventStream(**stream) for stream in fields["streams"])
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What came out.

    Attributes:
        count: How many operations were measured.
        seconds: How long they took in all.
        client_cpu: Seconds of CPU that this process used meanwhile.
        server_cpu: Seconds of CPU that the server used meanwhile; None if not known.
        latencies: Microseconds at the percentiles 50 and 99, where they were measured.
        memory: Kilobytes resident at even steps, where they were measured.
    """

    count: int
    seconds: float
    client_cpu: float
    server_cpu: float | None = None
    latencies: dict[str, float] = field(default_factory=dict[str, float])
    memory: list[int] = field(default_factory=list[int])

    @property
    def rate(self) -> float:
        return self.count / self.seconds

    def to_line(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_line(cls, line: str) -> Measurement:
        return cls(**json.loads(line))
