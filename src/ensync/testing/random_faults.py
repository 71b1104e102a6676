"""What may happen at random."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias, get_args

from ensync.errors import EnSyncValidationError
from ensync.server.hooks import DoorFault
from ensync.testing import acts
from ensync.testing.rules import Act, Point

__all__ = ["RandomFaultKind", "random_menu"]

RandomFaultKind: TypeAlias = Literal[
    "delay",
    "drop_request",
    "drop_reply",
    "fail",
    "reset",
    "abort",
    "goaway",
    "drop_delivery",
    "duplicate_delivery",
]
"""``"fail"`` is a gRPC status that may pass; ``"reset"`` is of one HTTP/2 stream.

Over WebSocket, where replies have no ids, a single one that fails or is lost is not a
fault that a client could survive, nor one that a network could make. There, ``"fail"``
and ``"reset"`` cut the connection, and ``"drop_request"`` and ``"drop_reply"`` lose all
that follows, too: the connection becomes a black hole.
"""

# Those after which a client tries again. The others are answers, not faults.
PASSING_STATUSES = ("CANCELLED", "UNKNOWN", "ABORTED", "INTERNAL", "UNAVAILABLE")

CALLS = (Point.REQUEST, Point.REPLY)
ALL = (Point.REQUEST, Point.REPLY, Point.DELIVERY)


def random_menu(
    lot: random.Random, kinds: Collection[RandomFaultKind] | None, longest_delay: float
) -> Mapping[Point, list[tuple[str, Act]]]:
    """Returns what may happen at each point.

    Raises:
        EnSyncValidationError: One of the kinds does not exist.
    """
    text = "injected at random"
    silence = acts.by_door(acts.fail(DoorFault(text, silent=True)), acts.freeze())
    offers: dict[str, tuple[tuple[Point, ...], Act]] = {
        "delay": (ALL, acts.hold_somewhat(lot, longest_delay)),
        "drop_request": ((Point.REQUEST,), silence),
        "drop_reply": ((Point.REPLY,), silence),
        "fail": (ALL, acts.by_door(acts.fail_somehow(lot, PASSING_STATUSES, text), acts.abort())),
        "reset": (ALL, acts.by_door(acts.fail(DoorFault(text, reset=True)), acts.abort())),
        "abort": (ALL, acts.abort()),
        "goaway": (CALLS, acts.go_away(error=False)),
        "drop_delivery": ((Point.DELIVERY,), acts.send_copies(0)),
        "duplicate_delivery": ((Point.DELIVERY,), acts.send_copies(2)),
    }
    chosen = [kind for kind in offers if kind != "drop_delivery"] if kinds is None else kinds
    for kind in chosen:
        if kind not in offers:
            accepted = ", ".join(get_args(RandomFaultKind))
            raise EnSyncValidationError(f"kind={kind!r}: accepted are {accepted}")
    return {
        point: [(kind, offers[kind][1]) for kind in chosen if point in offers[kind][0]]
        for point in Point
    }
