"""``python -m benchmarks.starting``: from the start of ``ensync serve`` to its first event."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import anyio

from benchmarks.machine import describe_machine
from benchmarks.served import Start, first_publish, served

WHAT = ("ready after", "first accepted publish after", "until then, processor time of")


async def measure(data: Path | None) -> Start:
    with served(data) as engine:
        return await first_publish(engine)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.starting", description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    for name, durable in (("in memory", False), ("with --data, a new file", True)):
        starts: list[Start] = []
        for _ in range(options.runs):
            with TemporaryDirectory() as directory:
                data = Path(directory, "events.db") if durable else None
                starts.append(anyio.run(measure, data))
        show(name, starts)
    print(describe_machine()["processor"])


def show(name: str, starts: list[Start]) -> None:
    for what, times in zip(WHAT, zip(*starts, strict=True), strict=True):
        print(
            f"{name}: {what} {median(times):.3f} s "
            f"(median of {len(times)}; {min(times):.3f} to {max(times):.3f})"
        )


if __name__ == "__main__":
    main()
