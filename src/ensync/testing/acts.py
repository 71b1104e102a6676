"""What a fault does when its moment has come."""

from __future__ import annotations

import random
from collections.abc import Sequence

import anyio

from ensync.errors import EnSyncValidationError
from ensync.server.hooks import DoorCall, DoorFault
from ensync.server.refusal import Reason, Refusal
from ensync.testing.rules import Act, FaultRule

__all__ = [
    "STATUSES",
    "abort",
    "by_door",
    "fail",
    "fail_somehow",
    "freeze",
    "go_away",
    "hold",
    "hold_somewhat",
    "refuse",
    "send_copies",
    "status_name",
]

# gRPC's own, by number.
STATUSES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)


def status_name(status: int | str) -> str:
    """Returns the name of a gRPC status that is given by number or by name.

    Raises:
        EnSyncValidationError: There is no such status.
    """
    if isinstance(status, int):
        if 0 <= status < len(STATUSES):
            return STATUSES[status]
    elif status in STATUSES:
        return status
    raise EnSyncValidationError(
        f"status={status!r}: accepted are 0 to {len(STATUSES) - 1}, "
        f"and the names {', '.join(STATUSES)}"
    )


def fail(fault: DoorFault) -> Act:
    """Ends the call by a status, by a reset, or by silence."""

    async def act(_call: DoorCall, _rule: FaultRule) -> int | None:
        # A new one each time, because a raised exception collects tracebacks.
        raise DoorFault(str(fault), status=fault.status, reset=fault.reset, silent=fault.silent)

    return act


def fail_somehow(lot: random.Random, statuses: Sequence[str], text: str) -> Act:
    """Ends the call by one of several statuses."""

    async def act(_call: DoorCall, _rule: FaultRule) -> int | None:
        raise DoorFault(text, status=lot.choice(statuses))

    return act


def refuse(reason: Reason, text: str) -> Act:
    """Answers that the request is refused."""

    async def act(_call: DoorCall, _rule: FaultRule) -> int | None:
        raise Refusal(reason, text)

    return act


def hold(seconds: float) -> Act:
    """Keeps the call waiting, until the rule is taken back at the latest."""

    async def act(_call: DoorCall, rule: FaultRule) -> int | None:
        with anyio.move_on_after(seconds):
            await rule.cancelled()
        return None

    return act


def hold_somewhat(lot: random.Random, longest: float) -> Act:
    """Keeps the call waiting for up to so many seconds."""

    async def act(call: DoorCall, rule: FaultRule) -> int | None:
        return await hold(lot.uniform(0, longest))(call, rule)

    return act


def abort() -> Act:
    """Cuts the connection, and has nothing more done for the call."""

    async def act(call: DoorCall, _rule: FaultRule) -> int | None:
        call.connection.abort()
        if call.method == "delivery":
            return 0
        raise DoorFault("connection aborted on request", silent=True)

    return act


def freeze() -> Act:
    """Makes a black hole of the connection, and has nothing more done for the call."""

    async def act(call: DoorCall, _rule: FaultRule) -> int | None:
        call.connection.freeze()
        raise DoorFault("connection frozen on request", silent=True)

    return act


def by_door(grpc: Act, websocket: Act) -> Act:
    """Does one thing over gRPC and another over WebSocket."""

    async def act(call: DoorCall, rule: FaultRule) -> int | None:
        return await (grpc if call.door == "grpc" else websocket)(call, rule)

    return act


def go_away(error: bool) -> Act:
    """Announces the end of the connection."""

    async def act(call: DoorCall, _rule: FaultRule) -> int | None:
        call.connection.go_away(error=error)
        return None

    return act


def send_copies(copies: int) -> Act:
    """Sends an event so many times."""

    async def act(_call: DoorCall, _rule: FaultRule) -> int | None:
        return copies

    return act
