"""How many bytes an event costs on the wire, counted by a proxy between client and server."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.measuring import Bench
from benchmarks.processes import TalkingProcess, running

__all__ = ["CLIENTS", "RECIPIENTS", "count_wire_bytes"]

RECIPIENTS = (1, 10, 50)
CLIENTS = ("sdk-0.4.4", "asyncio", "asyncio-compressed")
EVENTS = 20


def count_wire_bytes(bench: Bench, progress: Callable[[str], None]) -> dict[str, dict[int, float]]:
    """Bytes of both directions for each published event of 250 bytes.

    Returns:
        By contender and number of recipients.
    """
    return {key: _bytes_by_recipients(bench, CONTENDERS[key], progress) for key in CLIENTS}


def _bytes_by_recipients(
    bench: Bench, contender: Contender, progress: Callable[[str], None]
) -> dict[int, float]:
    engine = bench.neutral
    command = [sys.executable, "-m", "benchmarks.wire_counter", engine.url]
    with running(command, core=None, with_source=True) as counter:
        url = f"grpc://127.0.0.1:{json.loads(counter.read_line())['port']}"
        found: dict[int, float] = {}
        for recipients in RECIPIENTS:
            progress(f"bytes on the wire: {contender.title}")

            def bytes_for(count: int, recipients: int = recipients) -> int:
                job = engine.job("publish_one_by_one", count=count, recipients=recipients)
                before = _total(counter)
                bench.measure(replace(job, url=url), contender)
                return _total(counter) - before

            # What connecting costs is in both.
            found[recipients] = (bytes_for(EVENTS + 1) - bytes_for(1)) / EVENTS
        return found


def _total(counter: TalkingProcess) -> int:
    counts = counter.ask("count")
    return int(counts["upstream"] + counts["downstream"])
