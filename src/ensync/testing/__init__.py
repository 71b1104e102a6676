"""Help for tests of programs that use ensync: faults on request."""

from ensync.testing.proxy import CutKind, FaultProxy, ProxyStatistics
from ensync.testing.wire import Direction

__all__ = ["CutKind", "Direction", "FaultProxy", "ProxyStatistics"]
