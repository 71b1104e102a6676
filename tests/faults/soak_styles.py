"""Ways of reading one subscription, and what each enters into the ledger."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import anyio

import ensync
from tests.faults.soak_engine import NUMBER
from tests.faults.soak_ledger import State
from tests.faults.soak_scene import Oops, Scene

__all__ = [
    "BY_HAND",
    "Reader",
    "Style",
    "by_hand",
    "deferring_loops",
    "in_scopes",
    "interrupted_loop",
    "loop",
    "pausing_loop",
    "settling_handlers",
    "steady_loop",
    "two_loops",
    "with_handlers",
]

Subscription: TypeAlias = ensync.Subscription[Any]
Event: TypeAlias = ensync.Event[Any]

LONGEST_PAUSE = 0.3


class Reader:
    """One subscription's entries in the ledger."""

    def __init__(
        self, scene: Scene, subscription: Subscription, lot: random.Random, style: str
    ) -> None:
        self._scene = scene
        self._name = scene.ledger.new_reader(f"{subscription.event_name} in {style}")
        self._held: set[int] = set()
        self._unsure: set[int] = set()
        self.scope = anyio.CancelScope()
        self.subscription = subscription
        self.lot = lot

    def chance(self, probability: float) -> bool:
        """Throws the dice; nothing goes wrong any more when all is calm."""
        return not self._scene.calm and self.lot.random() < probability

    def take(self, event: Event) -> None:
        """Has been given an event."""
        number = event.payload["number"]
        unsure = event.redelivered and (self._was_refused or number in self._unsure)
        self._scene.ledger.handed_out(number, event.recipient, self._name, unsure=unsure)
        self.check(event)
        if self.subscription.is_paused:
            self._scene.ledger.violate("handed while paused", f"event {number}", number)
        # Who is cancelled lets go of an event without a word.
        if number in self._held and not self.scope.cancel_called:
            self._scene.ledger.violate("handed while held", f"event {number}", number)
        self._held.add(number)

    def check(self, event: Event) -> None:
        """Looks whether an event says what was sent."""
        number = event.metadata.get(NUMBER, -1)
        if event.payload != self._scene.payload_of(number):
            self._scene.ledger.violate("garbled", f"event {number} is not what was sent", number)

    async def work(self, event: Event) -> None:
        """Takes an event, and some time for it."""
        self.take(event)
        if self.lot.random() < 0.3:
            await self.linger()

    async def linger(self) -> None:
        """Takes some time."""
        await anyio.sleep(self.lot.uniform(0, self._scene.conditions.longest_task))

    def finish(self, event: Event) -> None:
        """Is done with an event, so that it may be settled."""
        self.let_go(event)
        self._scene.ledger.finished(event.payload["number"], event.recipient, self._name)

    def let_go(self, event: Event) -> None:
        """Holds an event no more: it may be handed out, also to this subscription."""
        self._held.discard(event.payload["number"])

    def put_off(self, event: Event) -> None:
        """Is about to give an event back undone."""
        self.let_go(event)
        if not self._was_refused:  # else what it asked for before may be under way yet
            self._scene.ledger.put_off(event.payload["number"], event.recipient, self._name)

    @property
    def _was_refused(self) -> bool:
        """Whether the engine has refused an acknowledgement of this subscription."""
        return self.subscription.statistics().refused > 0

    @contextmanager
    def unsure_without_answer(self, event: Event) -> Iterator[None]:
        """Asks for an event to be settled: without an answer it may be, or not."""
        try:
            yield
        except ensync.EnSyncConnectionError:
            self._unsure.add(event.payload["number"])
            raise

    def confirm(self, event: Event, state: State) -> None:
        """Was told that an event is settled."""
        self._scene.ledger.confirmed(event.payload["number"], event.recipient, state)

    def noting(self) -> Any:
        """Survives errors of the library."""
        return self._scene.noting()


Style: TypeAlias = Callable[[Reader], Awaitable[None]]


async def loop(reader: Reader) -> None:
    """Acknowledges by going on; breaks off, or fails, now and then."""
    async for event in reader.subscription:
        await reader.work(event)
        if reader.chance(0.01):
            raise Oops
        reader.finish(event)
        if reader.chance(0.01):
            break


async def steady_loop(reader: Reader) -> None:
    async for event in reader.subscription:
        await reader.work(event)
        reader.finish(event)


async def two_loops(reader: Reader) -> None:
    """Two tasks iterate one subscription."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(steady_loop, reader)
        tasks.start_soon(steady_loop, reader)


async def deferring_loops(reader: Reader) -> None:
    """Two tasks iterate one subscription; what one defers may come to the other meanwhile."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deferring_loop, reader)
        tasks.start_soon(deferring_loop, reader)


async def deferring_loop(reader: Reader) -> None:
    """Settles most events by going on, and some by itself before that."""
    async for event in reader.subscription:
        await reader.work(event)
        if reader.chance(0.01):
            await pause_for_a_while(reader)
        if reader.chance(0.15):
            await defer_and_hold(reader, event)
        elif reader.chance(0.2):
            await settle_in_scope(reader, event)
        else:
            reader.finish(event)


async def defer_and_hold(reader: Reader, event: Event) -> None:
    """Defers an event, and has it in hand for a while yet. Else finishes it after all."""
    reader.put_off(event)
    with reader.noting():
        await event.defer(delay=0, reason="soaking")
        await reader.linger()
        return
    reader.finish(event)


async def pause_for_a_while(reader: Reader) -> None:
    with reader.noting():
        async with reader.subscription.paused("soaking"):
            await anyio.sleep(reader.lot.uniform(0, LONGEST_PAUSE))


async def interrupted_loop(reader: Reader) -> None:
    """Is cancelled in the middle of events, again and again."""
    while True:
        with anyio.move_on_after(reader.lot.uniform(0, 0.2)) as scope:
            async for event in reader.subscription:
                await be_interrupted(reader, event)
        if not scope.cancelled_caught:
            return


async def be_interrupted(reader: Reader, event: Event) -> None:
    reader.take(event)
    try:
        await anyio.sleep(reader.lot.uniform(0, 0.03))
    finally:
        reader.let_go(event)
    reader.finish(event)


async def pausing_loop(reader: Reader) -> None:
    """Pauses and resumes while another task iterates."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(steady_loop, reader)
        while True:
            await anyio.sleep(reader.lot.uniform(0, 2 * LONGEST_PAUSE))
            await pause_for_a_while(reader)


async def by_hand(reader: Reader) -> None:
    """Settles each event explicitly, in every way there is."""
    async for event in reader.subscription:
        await reader.work(event)
        if reader.chance(0.05):
            continue  # left in hand; it comes again when the subscription is left
        with reader.noting():
            if reader.chance(0.03):
                reader.check(await reader.subscription.replay(event.idem))
            await settle_by_hand(reader, event)


async def settle_by_hand(reader: Reader, event: Event) -> None:
    if reader.chance(0.1):
        reader.put_off(event)
        await event.defer(delay=reader.lot.choice([0, 1]), reason="soaking")
        return
    if reader.chance(0.1):
        await discard(reader, event)
        return
    reader.finish(event)
    with reader.unsure_without_answer(event):
        await event.ack()
    reader.confirm(event, State.ACKNOWLEDGED)


async def discard(reader: Reader, event: Event) -> None:
    reader.finish(event)
    with reader.unsure_without_answer(event):
        await event.discard(reason="soaking")
    reader.confirm(event, State.DISCARDED)


async def in_scopes(reader: Reader) -> None:
    """Settles by scopes, in which it fails now and then."""
    async for event in reader.subscription:
        await reader.work(event)
        await settle_in_scope(reader, event)


async def settle_in_scope(reader: Reader, event: Event) -> None:
    discards = reader.chance(0.3)
    with reader.noting():
        async with event.settle(
            on_error="discard" if discards else "defer", delay=reader.lot.choice([0, 1])
        ):
            finish_or_fail(reader, event, discards)


async def with_handlers(reader: Reader) -> None:
    """Has handlers run at the same time, some of which fail."""
    discards = reader.lot.random() < 0.5

    async def handle(event: Event) -> None:
        await reader.work(event)
        finish_or_fail(reader, event, discards)

    await run_handlers(reader, handle, discards)


async def settling_handlers(reader: Reader) -> None:
    """Has handlers run at the same time, some of which settle by themselves, and fail then."""
    discards = reader.lot.random() < 0.5

    async def handle(event: Event) -> None:
        await reader.work(event)
        if reader.chance(0.1):
            await defer_and_hold(reader, event)
        elif reader.chance(0.1):
            with reader.noting():
                await discard(reader, event)
        else:
            finish_or_fail(reader, event, discards)
            return
        if reader.chance(0.5):
            raise Oops

    await run_handlers(reader, handle, discards)


async def run_handlers(
    reader: Reader, handle: Callable[[Event], Awaitable[None]], discards: bool
) -> None:
    await reader.subscription.for_each(
        handle,
        concurrency=4,
        on_error="discard" if discards else "defer",
        delay=reader.lot.choice([0, 1]),
    )


def finish_or_fail(reader: Reader, event: Event, discards: bool) -> None:
    fails = reader.chance(0.08)
    if fails and not discards:
        reader.put_off(event)
    else:
        reader.finish(event)
    if fails:
        raise Oops


BY_HAND: tuple[Style, ...] = (by_hand, in_scopes)
