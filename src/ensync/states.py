"""Watching what a client is doing about its connection."""

from __future__ import annotations

from ensync.connection import ClientState
from ensync.session import Session

__all__ = ["ClientStates"]


class ClientStates:
    """The state now, then each change, until ``closed``.

    Not a generator: a loop over it may be left at any moment without a trace.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._last: ClientState | None = None

    def __aiter__(self) -> ClientStates:
        return self

    async def __anext__(self) -> ClientState:
        if self._last is ClientState.CLOSED:
            raise StopAsyncIteration
        while self._session.state is self._last:
            await self._session.changed.wait()
        self._last = self._session.state
        return self._last
