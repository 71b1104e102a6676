"""Help for tests of programs that use ensync: engines, and faults on request."""

from ensync.testing.engine_app import EngineApp, EngineApps
from ensync.testing.faults import Faults
from ensync.testing.proxy import CutKind, FaultProxy, ProxyStatistics
from ensync.testing.random_faults import RandomFaultKind
from ensync.testing.restart import RestartableEngine
from ensync.testing.rules import FaultRule, Method
from ensync.testing.threaded import ThreadedEngine
from ensync.testing.wire import Direction

__all__ = [
    "CutKind",
    "Direction",
    "EngineApp",
    "EngineApps",
    "FaultProxy",
    "FaultRule",
    "Faults",
    "Method",
    "ProxyStatistics",
    "RandomFaultKind",
    "RestartableEngine",
    "ThreadedEngine",
]
