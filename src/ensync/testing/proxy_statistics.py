"""What a proxy has counted."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ProxyStatistics"]


@dataclass(frozen=True, slots=True)
class ProxyStatistics:
    """What went through a proxy, since it was started.

    Attributes:
        connections: Connections that are open now.
        accepted_total: Connections that were accepted.
        bytes_upstream: Bytes that clients sent and the proxy took.
        bytes_downstream: Bytes that the engine sent and the proxy took.
        dropped_upstream: How many of ``bytes_upstream`` were not passed on.
        dropped_downstream: How many of ``bytes_downstream`` were not passed on.
    """

    connections: int
    accepted_total: int
    bytes_upstream: int
    bytes_downstream: int
    dropped_upstream: int
    dropped_downstream: int
