"""What a gRPC door puts up with."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["GrpcLimits"]

_MIB = 1 << 20


class GrpcLimits(NamedTuple):
    """What bounds the memory and the patience of a gRPC door. Times are in seconds."""

    connections: int = 1000
    concurrent_streams: int = 100
    message_bytes: int = 6 * _MIB
    stream_window: int = _MIB
    # Well above the window of a stream, so that one that is not read stalls no other.
    connection_window: int = 32 * _MIB
    large_message_bytes: int = _MIB // 4
    large_messages: int = 16
    unsent_bytes: int = 8 * _MIB
    read_timeout: float = 30.0
    ping_interval: float = 30.0
    ping_timeout: float = 20.0
