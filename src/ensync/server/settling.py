"""Settling events: by app and id, whichever client of the app asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, NoReturn, TypeVar

from ensync.server.consumer import InHand
from ensync.server.refusal import Reason, Refusal, shown
from ensync.server.store import (
    EventState,
    Found,
    Lease,
    Settled,
    Store,
    StoredEvent,
    StoreFailedError,
)

__all__ = ["EventRef", "Settling"]

T = TypeVar("T")

# Somebody else may take the event out of its queue, and then settle it, in between.
_ATTEMPTS = 3


class EventRef(NamedTuple):
    """How a client names an event. What it does not say is not checked."""

    app_id: str
    idem: str
    event_name: str = ""
    block: int | None = None


class Settling:
    """Knows what is in hand, and settles events whether they are in hand or not.

    An event may have been given back since a client got it, because its stream or
    connection was lost. Its client may still have done the work, so it may still
    settle the event: that is then claimed from its queue.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.in_hand: dict[str, InHand] = {}

    async def ack(self, ref: EventRef) -> None:
        """Settles an event as done."""

        async def action(lease: Lease) -> bool | None:
            return _done(await self._store.ack(lease))

        await self._settle(ref, action)

    async def discard(self, ref: EventRef, reason: str) -> None:
        """Settles an event as unwanted."""

        async def action(lease: Lease) -> bool | None:
            return _done(await self._store.discard(lease, reason))

        await self._settle(ref, action)

    async def defer(self, ref: EventRef, delay_ms: int) -> int:
        """Makes an event available again after a delay; returns when (ms since the epoch)."""

        async def action(lease: Lease) -> int | None:
            return await self._store.defer(lease, delay_ms)

        return await self._settle(ref, action)

    async def give_back(self, ref: EventRef) -> None:
        """Makes an event available again at once. Nothing happens to one that is."""

        async def action(lease: Lease) -> bool | None:
            await self._store.release([lease])
            return True

        await self._settle(ref, action)

    async def find(self, ref: EventRef) -> Found:
        """Looks up an event of an app, open or settled.

        Raises:
            Refusal: There is none, or the reference is wrong.
        """
        with _failures_refused():
            found = await self._store.find(ref.idem)
        if found is None:
            _unknown(ref)
        _check_ref(ref, found.stored)
        return found

    async def _settle(self, ref: EventRef, action: Callable[[Lease], Awaitable[T | None]]) -> T:
        with _failures_refused():
            for _ in range(_ATTEMPTS):
                held = self.in_hand.get(ref.idem) or await self._claim(ref)
                if held is None:
                    continue
                _check_ref(ref, held.lease.stored)
                result = await self._act(held, action)
                if result is not None:
                    return result
        raise Refusal(Reason.LIMIT, f"event {shown(ref.idem)} is just being settled; try again")

    async def _act(self, held: InHand, action: Callable[[Lease], Awaitable[T | None]]) -> T | None:
        held.settling += 1
        try:
            result = await action(held.lease)
        except BaseException:
            held.settling -= 1
            await self._put_back(held)
            raise
        held.settling -= 1
        self._drop(held)
        return result

    async def _put_back(self, held: InHand) -> None:
        """It could not be settled, so it is in hand as before, if anybody's hand is left."""
        if held.settling:
            return
        if held.consumer is None or held.consumer.end_reason is not None:
            self._drop(held)
            await self._store.release([held.lease])

    async def _claim(self, ref: EventRef) -> InHand | None:
        """Takes an event out of its queue; None if somebody else did so just now."""
        found = await self.find(ref)
        if found.state is EventState.ACKNOWLEDGED:
            raise Refusal(Reason.ALREADY, f"event {shown(ref.idem)} is already acknowledged")
        if found.state is EventState.DISCARDED:
            raise Refusal(Reason.ALREADY, f"event {shown(ref.idem)} is already discarded")
        if found.state is EventState.EXPIRED:
            raise Refusal(
                Reason.ALREADY, f"event {shown(ref.idem)} is already gone: its time to live is over"
            )
        lease = await self._store.claim(ref.idem)
        if lease is None:
            return self.in_hand.get(ref.idem)
        held = self.in_hand[ref.idem] = InHand(lease, None)
        return held

    def _drop(self, held: InHand) -> None:
        if self.in_hand.get(held.idem) is held:
            del self.in_hand[held.idem]
        if held.consumer is not None:
            held.consumer.settled(held)


@contextmanager
def _failures_refused() -> Iterator[None]:
    try:
        yield
    except StoreFailedError as error:
        raise Refusal(Reason.LIMIT, str(error)) from error


def _done(settled: Settled) -> bool | None:
    return True if settled is Settled.DONE else None


def _check_ref(ref: EventRef, stored: StoredEvent) -> None:
    queue = stored.event.queue
    if queue.app_id != ref.app_id:
        _unknown(ref)
    if ref.event_name and ref.event_name != queue.event_name:
        raise Refusal(
            Reason.INVALID,
            f"event {shown(ref.idem)} is not named {shown(ref.event_name)}",
        )
    if ref.block is not None and ref.block != stored.block:
        raise Refusal(Reason.INVALID, f"event {shown(ref.idem)} is not in block {ref.block}")


def _unknown(ref: EventRef) -> NoReturn:
    # The same words for another app's event, which must not be told from none.
    raise Refusal(
        Reason.NOT_FOUND,
        f"unknown event {shown(ref.idem)}: it never was this app's, or it is no longer kept",
    )
