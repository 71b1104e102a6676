"""Clocks: of the wall, of this process's CPU and of the server's; and memory."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.clients.job import Measurement

__all__ = ["Meter", "percentiles", "resident_kilobytes"]


class Meter:
    """Measures from start() to stop()."""

    def __init__(self, server_pid: int | None) -> None:
        self._server_pid = server_pid

    def start(self) -> None:
        self._server_cpu = self._read_server_cpu()
        self._client_cpu = time.process_time()
        self._wall = time.perf_counter()

    def stop(
        self, count: int, latencies: list[int] | None = None, memory: list[int] | None = None
    ) -> Measurement:
        seconds = time.perf_counter() - self._wall
        client_cpu = time.process_time() - self._client_cpu
        server_cpu = self._read_server_cpu()
        used = None
        if server_cpu is not None and self._server_cpu is not None:
            used = server_cpu - self._server_cpu
        return Measurement(
            count=count,
            seconds=seconds,
            client_cpu=client_cpu,
            server_cpu=used,
            latencies=percentiles(latencies) if latencies else {},
            memory=memory or [],
        )

    def _read_server_cpu(self) -> float | None:
        """Seconds of CPU of all its threads; None where the system does not say."""
        if self._server_pid is None:
            return None
        threads = Path(f"/proc/{self._server_pid}/task")
        try:
            return sum(_nanoseconds_run(thread) for thread in threads.iterdir()) / 1e9
        except OSError:
            return None


def _nanoseconds_run(thread: Path) -> int:
    # Not from "stat", which counts in steps of 10 ms.
    return int(thread.joinpath("schedstat").read_text().split()[0])


def percentiles(nanoseconds: list[int]) -> dict[str, float]:
    """Microseconds at the median and at the 99th percentile."""
    ordered = sorted(nanoseconds)
    last = len(ordered) - 1
    return {
        "p50": ordered[last // 2] / 1e3,
        "p99": ordered[round(last * 0.99)] / 1e3,
    }


def resident_kilobytes() -> int:
    """The memory that this process has now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024
