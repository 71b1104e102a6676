"""Faults of an engine that runs in another thread."""

from __future__ import annotations

from ensync.testing.engine_thread import EngineThread, WatchInThread
from ensync.testing.faults import TEXT, Faults
from ensync.testing.rules import FaultRule

__all__ = ["ThreadedFaults"]


class ThreadedFaults(Faults):
    """The same, for an engine in a thread of its own: to be used in any thread."""

    def __init__(self, thread: EngineThread) -> None:
        super().__init__()
        self._thread = thread
        self._watch = WatchInThread(thread)
        self._streams.watch = WatchInThread(thread)

    def end_streams(
        self,
        status: int | str = "UNAVAILABLE",
        *,
        text: str = TEXT,
        reset: bool = False,
        event_name: str | None = None,
    ) -> int:
        """Ends the open streams of deliveries, as ``Faults.end_streams``."""

        def end() -> int:
            return super(ThreadedFaults, self).end_streams(
                status, text=text, reset=reset, event_name=event_name
            )

        return self._thread.do(end)

    def goaway(self, *, error: bool = False) -> None:
        """Says on every connection that it is about to end, as ``Faults.goaway``."""

        def go_away() -> None:
            super(ThreadedFaults, self).goaway(error=error)

        self._thread.do(go_away)

    def abort_connections(self) -> None:
        """Cuts all connections at once."""
        self._thread.do(super().abort_connections)

    def freeze_connections(self) -> None:
        """Makes a black hole of each connection: it stays open, and nothing moves any more."""
        self._thread.do(super().freeze_connections)

    def _enter(self, rule: FaultRule) -> FaultRule:
        rule.watch = WatchInThread(self._thread)

        def enter() -> FaultRule:
            return super(ThreadedFaults, self)._enter(rule)

        # Two tests' threads that add to the same list at once would lose a rule.
        return self._thread.do(enter)
