"""What an engine counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Counters", "Statistics"]


class Statistics(NamedTuple):
    """What an engine has done since it was started, and what is going on."""

    clients: int
    subscriptions: int
    in_hand: int
    published: int
    delivered: int
    redelivered: int
    acknowledged: int
    deferred: int
    discarded: int
    replayed: int
    expired: int


@dataclass(slots=True)
class Counters:
    """What a broker has done so far."""

    published: int = 0
    delivered: int = 0
    redelivered: int = 0
    acknowledged: int = 0
    deferred: int = 0
    discarded: int = 0
    replayed: int = 0
