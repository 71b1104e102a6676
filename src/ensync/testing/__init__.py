"""Help for tests of programs that use ensync: faults on request."""

from ensync.testing.faults import Faults
from ensync.testing.proxy import CutKind, FaultProxy, ProxyStatistics
from ensync.testing.random_faults import RandomFaultKind
from ensync.testing.restart import RestartableEngine
from ensync.testing.rules import FaultRule, Method
from ensync.testing.wire import Direction

__all__ = [
    "CutKind",
    "Direction",
    "FaultProxy",
    "FaultRule",
    "Faults",
    "Method",
    "ProxyStatistics",
    "RandomFaultKind",
    "RestartableEngine",
]
