"""What the gRPC statuses of an engine mean to us."""

from __future__ import annotations

from grpclib.const import Status
from grpclib.exceptions import GRPCError

__all__ = ["LASTING_REFUSALS", "REFUSALS", "status_text"]

REFUSALS = frozenset(
    {
        Status.INVALID_ARGUMENT,
        Status.NOT_FOUND,
        Status.ALREADY_EXISTS,
        Status.PERMISSION_DENIED,
        Status.FAILED_PRECONDITION,
        Status.RESOURCE_EXHAUSTED,
        Status.OUT_OF_RANGE,
        Status.UNIMPLEMENTED,
    }
)
LASTING_REFUSALS = frozenset(
    {Status.INVALID_ARGUMENT, Status.PERMISSION_DENIED, Status.UNIMPLEMENTED}
)


def status_text(error: GRPCError) -> str:
    """A status for people: what the engine said, and the status's name."""
    return f"{error.message or 'no reason given'} (gRPC status {error.status.name})"
