"""Under which conditions a soak runs: its seed chooses, so that it can be run again."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

__all__ = ["Conditions"]

USUAL_STREAMS = 100
# The first connection takes three subscriptions then, and each further one six.
FEW_STREAMS = 6
MORE_NAMES = 6


class Conditions(NamedTuple):
    """What differs from soak to soak.

    Attributes:
        multiplex: Whether all events of a gRPC client come on its first stream.
        end_registering_streams: Whether such an engine ends the later streams at once.
        streams: How many gRPC calls a connection may have under way.
        more_names: To how many more names two of the clients subscribe at a time.
        large_payloads: Whether some events are of up to 200 KB.
        defers_while_held: Whether tasks that share a subscription hold on to events that
            they have settled by themselves, while others may be given them.
        longest_task: How many seconds a program works on an event, at the most. The longer,
            the more often something happens in the middle of it.
    """

    multiplex: bool
    end_registering_streams: bool
    streams: int
    more_names: int
    large_payloads: bool
    defers_while_held: bool
    longest_task: float

    @classmethod
    def chosen_by(cls, seed: int) -> Conditions:
        """The conditions that belong to a seed."""
        lot = random.Random(f"conditions {seed}")
        multiplex = lot.random() < 0.5
        return cls(
            multiplex=multiplex,
            end_registering_streams=multiplex and lot.random() < 0.5,
            streams=lot.choice([USUAL_STREAMS, FEW_STREAMS]),
            more_names=lot.choice([0, MORE_NAMES]),
            large_payloads=lot.random() < 0.5,
            defers_while_held=lot.random() < 0.75,
            longest_task=lot.choice([0.02, 0.3]),
        )

    @property
    def engine_options(self) -> dict[str, Any]:
        """What the engine is told of it."""
        return {
            "multiplex": self.multiplex,
            "end_registering_streams": self.end_registering_streams,
            "max_concurrent_streams": self.streams,
        }

    def __str__(self) -> str:
        engine = "multiplexing" if self.multiplex else "a stream for each name"
        if self.end_registering_streams:
            engine += " and ending later streams"
        names = f"{self.more_names} more names"
        sizes = "some payloads are large" if self.large_payloads else "small payloads"
        loops = "deferring while held" if self.defers_while_held else "no deferring while held"
        return (
            f"{engine}, {self.streams} streams a connection, {names}, {sizes}, {loops}, "
            f"up to {self.longest_task:g} s of work on each event"
        )
