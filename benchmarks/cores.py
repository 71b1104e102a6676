"""Which core runs what: the client on one, the server on the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

__all__ = ["Cores", "choose_cores", "started_on"]


class Cores(NamedTuple):
    """The cores of a run; None where the system can't be told, or has but one."""

    client: int | None
    server: int | None


def choose_cores() -> Cores:
    """The first two cores that this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        return Cores(None, None)
    usable = sorted(os.sched_getaffinity(0))
    return Cores(usable[0], usable[1]) if len(usable) > 1 else Cores(None, None)


@contextmanager
def started_on(core: int | None) -> Iterator[None]:
    """A process that is started in this block stays on one core, with all of its threads."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
