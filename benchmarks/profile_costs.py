"""``python -m benchmarks.profile_costs``: where the time of an event goes, as a picture.

The process is interrupted after every few milliseconds of CPU (as the kernel can:
mostly 4), and the place that it is at is put down to one of a few kinds of work. Unlike a
tracing profiler, this slows down calls of Python no more than calls of C. Time in C
counts for the Python function that called it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from benchmarks.clients.job import Job
from benchmarks.clients.ours import run_job
from benchmarks.cores import choose_cores, started_on
from benchmarks.engines import NeutralServer, neutral_server
from benchmarks.processes import CHECKOUT
from benchmarks.svg import stacks

INTERVAL = 0.001  # seconds of CPU

# The first that fits, from the innermost function outwards. What fits nothing, such as
# contextlib, is put down to its caller.
KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("crypto", ("/nacl/", "/ensync/crypto.py")),
    ("JSON", ("/json/", "/ensync/json_text.py", "/ensync/payload.py")),
    (
        "protobuf",
        (
            "/ensync/proto/",
            "/betterproto2/",
            "/message_codec.py",
            "/grpc_messages.py",
            "/transports/records.py",
        ),
    ),
    (
        "socket",
        ("/asyncio/selector_events.py", "/asyncio/sslproto.py", "/corked.py", "/selectors.py"),
    ),
    (
        "HTTP/2 and gRPC",
        (
            "/h2/",
            "/hpack/",
            "/hyperframe/",
            "/grpclib/",
            "/lean_",
            "/header_blocks.py",
            "/http2_frames.py",
            "/transports/grpc",
        ),
    ),
    (
        "scheduling",
        (
            "/asyncio/",
            "/trio/",
            "/trio_asyncio/",
            "/anyio/",
            "/sniffio/",
            "/outcome/",
            "/bridge.py",
        ),
    ),
    ("ensync itself", ("/ensync/",)),
)
BENCHMARK = "/benchmarks/"


class Sampler:
    """Counts what the main thread is doing, by kind and by place."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.places: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def sampling(self) -> Iterator[None]:
        before = signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)

    def _sample(self, _signal: int, frame: FrameType | None) -> None:
        while frame is not None:
            code = frame.f_code
            path = code.co_filename
            if BENCHMARK in path:
                return  # the workload's own time is not the client's
            kind = _kind_of(path)
            if kind is not None:
                self.kinds[kind] += 1
                self.places[kind, f"{_short(path)}:{code.co_qualname}"] += 1
                return
            frame = frame.f_back


def _kind_of(path: str) -> str | None:
    for kind, parts in KINDS:
        if any(part in path for part in parts):
            return kind
    return None


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-2:])


def profile(job: Job, loop: str) -> tuple[dict[str, float], Counter[tuple[str, str]]]:
    """Microseconds of CPU per event by kind, and samples by place."""
    sampler = Sampler()
    with sampler.sampling():
        measurement = run_job(job, loop, {})
    cost = measurement.client_cpu / measurement.count * 1e6
    total = sum(sampler.kinds.values())
    shares = {kind: sampler.kinds[kind] / total * cost for kind, _ in KINDS}
    return shares, sampler.places


def main() -> None:
    options = _parse()
    cores = choose_cores()
    rows: dict[str, dict[str, float]] = {}
    with neutral_server(cores.server) as server, started_on(cores.client):
        for loop in ("asyncio", "trio"):
            for name, job in _jobs(server, options.events).items():
                print(f"{name} on {loop} ...", file=sys.stderr, flush=True)
                shares, places = profile(job, loop)
                rows[f"{name}, {loop}"] = shares
                if options.places:
                    _print_places(places, options.places)
    _print_shares(rows)
    options.output.mkdir(parents=True, exist_ok=True)
    picture = stacks("Where the time of an event of 250 bytes goes, µs of CPU", rows, "µs")
    options.output.joinpath("costs.svg").write_text(picture)
    options.output.joinpath("costs.json").write_text(json.dumps(rows, indent=1))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--places", type=int, default=0, help="how many functions to list")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "docs" / "plots")
    return parser.parse_args()


def _jobs(server: NeutralServer, events: int) -> dict[str, Job]:
    return {
        "publish, 64 in flight": server.job(
            "publish_in_flight", count=events, warmup=1, in_flight=64
        ),
        "consume + auto-ack": server.job("consume", streams=(server.stream(events),)),
    }


def _print_shares(rows: dict[str, dict[str, float]]) -> None:
    for name, shares in rows.items():
        total = sum(shares.values())
        parts = ", ".join(f"{kind} {cost:.0f}" for kind, cost in shares.items())
        print(f"{name}: {total:.0f} µs of CPU: {parts}")


def _print_places(places: Counter[tuple[str, str]], most: int) -> None:
    total = places.total()
    for (kind, place), samples in places.most_common(most):
        print(f"  {samples / total:6.1%}  {kind:16}  {place}")


if __name__ == "__main__":
    main()
