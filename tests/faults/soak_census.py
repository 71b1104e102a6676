"""How much a process holds, and what went wrong in it unseen."""

from __future__ import annotations

import gc
import logging
import os
import resource
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from tests.faults.soak_ledger import Ledger

__all__ = ["Census", "noticing_all"]

LOOKING_INTERVAL = 0.1

# What the library logs as an error when a program of ours has failed.
EXPECTED = "a handler failed"


class Census(NamedTuple):
    """What there is at one moment."""

    tasks: int
    files: int
    memory_mib: float
    objects: int

    @classmethod
    def take(cls) -> Census:
        """Counts now, garbage left out."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            tasks=len(anyio.get_running_tasks()),
            files=len(os.listdir("/proc/self/fd")),
            memory_mib=round(pages * resource.getpagesize() / (1 << 20), 1),
            objects=len(gc.get_objects()),
        )

    async def again(self, patience: float) -> Census:
        """Counts anew, when tasks and files are as few as before, or after a while."""
        now = Census.take()
        with anyio.move_on_after(patience):
            while now.tasks > self.tasks or now.files > self.files:
                await anyio.sleep(LOOKING_INTERVAL)
                now = Census.take()
        return now


class _Records(logging.Handler):
    """Counts what is logged, and takes asyncio's complaints for faults of ours."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(logging.WARNING)
        self._ledger = ledger
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.counts[f"{record.levelname} {record.msg}"] += 1
        if record.name != "ensync" or _is_internal(record):
            self._ledger.violate("complaint", self.format(record))


def _is_internal(record: logging.LogRecord) -> bool:
    """Whether the library reports what should never have happened."""
    return record.levelno >= logging.ERROR and not record.msg.startswith(EXPECTED)


@contextmanager
def noticing_all(ledger: Ledger) -> Iterator[Counter[str]]:
    """Counts log records; what is logged by others, or can't be raised, is a violation."""

    def unraisable(what: Any) -> None:
        ledger.violate("unraisable", f"{what.err_msg}: {what.exc_value!r} in {what.object!r}")

    records = _Records(ledger)
    root, hook = logging.getLogger(), sys.unraisablehook
    root.addHandler(records)
    sys.unraisablehook = unraisable
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)  # raised where nobody can catch it
            yield records.counts
    finally:
        sys.unraisablehook = hook
        root.removeHandler(records)
