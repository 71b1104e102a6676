"""Replies that leave in the order of their requests, whichever is ready first."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import anyio

__all__ = ["OrderedReplies", "Place"]


class Place:
    """A request's place in the order of replies."""

    __slots__ = ("is_filled", "text")

    def __init__(self) -> None:
        self.is_filled = False
        self.text: str | None = None


class OrderedReplies:
    """The replies of one connection that are still to come.

    Args:
        send: Sends one text; waits while the receiver is slow.
        limit: How many requests may be without a reply.
    """

    def __init__(self, send: Callable[[str], Awaitable[None]], limit: int) -> None:
        self._send = send
        self._limit = limit
        self._places: deque[Place] = deque()
        self._is_sending = False
        self._sent = anyio.Event()

    async def take_place(self) -> Place:
        """Reserves the next place, waiting while there are as many as there may be."""
        await self._until_below(self._limit)
        place = Place()
        self._places.append(place)
        return place

    async def fill(self, place: Place, text: str | None) -> None:
        """Gives the reply for a place, and sends what is ready. None: there is no reply."""
        place.text, place.is_filled = text, True
        if self._is_sending:
            return
        self._is_sending = True
        try:
            await self._send_ready()
        finally:
            self._is_sending = False

    async def all_sent(self) -> None:
        """Waits until no reply is outstanding."""
        await self._until_below(1)

    async def _send_ready(self) -> None:
        while self._places and self._places[0].is_filled:
            text = self._places[0].text
            if text is not None:
                await self._send(text)
            self._places.popleft()
            self._sent.set()

    async def _until_below(self, count: int) -> None:
        while len(self._places) >= count:
            self._sent = anyio.Event()
            await self._sent.wait()
