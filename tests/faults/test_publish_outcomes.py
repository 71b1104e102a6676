"""A publish has three outcomes, and each of them is true: compared with the engine's store."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio
import pytest

import ensync
from ensync.server.memory import MemoryStore
from ensync.server.store import QueueKey
from ensync.testing import Direction, FaultProxy, Faults
from ensync.transports.grpc_connection import Http2
from tests.conformance.harness import PATIENCE, Target, opened
from tests.faults.waiters import state_reached


class Way(NamedTuple):
    """How a client talks to its engine."""

    transport: str
    http2: Http2 = "auto"

    @property
    def leaves_at_goaway(self) -> bool | None:
        """Whether an answer is not waited for; None where a close frame may come before it."""
        return None if self.transport == "websocket" else self.http2 != "auto"


WAYS = {
    "grpc": Way("grpc"),
    "grpc over h2": Way("grpc", "h2"),
    "grpc over grpclib": Way("grpc", "grpclib"),
    "websocket": Way("websocket"),
}
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("way", WAYS.values(), ids=WAYS),
]

SOON = ensync.Reconnect(initial=0.002, maximum=0.01, max_attempts=None)
NAME = "orders/new"
MANY = 20


class Send(NamedTuple):
    """One recipient's copy of one event."""

    recipient: str
    number: int


class Reports:
    """What a client was told about each of its sends."""

    def __init__(self) -> None:
        self.accepted: dict[Send, str] = {}
        self.rejected: set[Send] = set()
        self.unknown: set[Send] = set()

    def note(self, number: int, result: ensync.Receipt | ensync.EnSyncError | None) -> None:
        if isinstance(result, ensync.Receipt):
            self._accept(number, result.event_ids)
            return
        assert isinstance(result, ensync.EnSyncPublishError), result
        self._accept(number, result.accepted)
        self.rejected |= {Send(recipient, number) for recipient in result.rejected}
        self.unknown |= {Send(recipient, number) for recipient in result.unknown}

    def _accept(self, number: int, event_ids: Mapping[str, str]) -> None:
        self.accepted |= {Send(recipient, number): idem for recipient, idem in event_ids.items()}

    def check(self, stored: dict[Send, list[str]]) -> None:
        """Accepted is there once, rejected nowhere, and unknown at most once."""
        assert len(self.accepted) + len(self.rejected) + len(self.unknown) == len(
            self.accepted.keys() | self.rejected | self.unknown
        )
        for send, idem in self.accepted.items():
            assert stored[send] == [idem]
        assert not stored.keys() & self.rejected
        for send in stored.keys() - self.accepted.keys():
            assert send in self.unknown
            assert len(stored[send]) == 1


class Shop:
    """A client in front of a network, three recipients, and the engine's store behind."""

    def __init__(
        self, client: ensync.EnSyncClient, proxy: FaultProxy, faults: Faults, store: MemoryStore
    ) -> None:
        self.client, self.proxy, self.faults, self._store = client, proxy, faults, store
        self.recipients: list[str] = []
        self.reports = Reports()

    async def publish(self, number: int, recipients: int, timeout: float = PATIENCE) -> None:
        """Publishes to so many recipients, and notes what came of it."""
        result: ensync.Receipt | ensync.EnSyncError
        try:
            result = await self.client.publish(
                NAME,
                self.recipients[:recipients],
                "x" * 500,
                {"number": number},
                timeout=timeout,
            )
        except ensync.EnSyncError as error:
            result = error
        self.reports.note(number, result)

    async def publish_many(self, timeout: float = PATIENCE) -> None:
        """Publishes many events, each to two recipients, and notes what came of them."""
        events = [
            ensync.OutgoingEvent(NAME, self.recipients[:2], "x", {"number": number})
            for number in range(MANY)
        ]
        async with self.client.publish_many(events, timeout=timeout) as outcomes:
            async for outcome in outcomes:
                self.reports.note(events.index(outcome.event), outcome.receipt or outcome.error)

    async def stored(self) -> dict[Send, list[str]]:
        """What is in the store: the ids under which each send is there."""
        found: dict[Send, list[str]] = defaultdict(list)
        for recipient in self.recipients:
            for each in await self._store.browse(QueueKey(recipient, NAME)):
                number = json.loads(each.stored.event.metadata)["number"]
                found[Send(recipient, number)].append(each.stored.idem)
        return found


@asynccontextmanager
async def open_shop(way: Way) -> AsyncIterator[Shop]:
    faults, store = Faults(), MemoryStore()
    async with (
        opened(way.transport, hooks=faults, store=store) as (target, engine),
        FaultProxy(target.url) as proxy,
        Target(proxy.url, target.keys, target.other_keys).connect(
            reconnect=SOON, http2=way.http2
        ) as client,
    ):
        shop = Shop(client, proxy, faults, store)
        apps = [engine.create_app(name).app_id for name in ("third", "fourth")]
        shop.recipients = [client.app_id, *apps]
        yield shop


async def lose_the_link(shop: Shop) -> None:
    """Has the client without a link, and unable to get another."""
    shop.proxy.refuse()
    shop.proxy.reset()
    await state_reached(shop.client, ensync.ClientState.RECONNECTING)


async def _one(shop: Shop, timeout: float) -> None:
    await shop.publish(0, 1, timeout)


async def _several(shop: Shop, timeout: float) -> None:
    await shop.publish(0, 3, timeout)


SHAPES: dict[str, Callable[[Shop, float], Coroutine[Any, Any, None]]] = {
    "one recipient": _one,
    "several recipients": _several,
    "many events": Shop.publish_many,
}
SENDS = {"one recipient": 1, "several recipients": 3, "many events": 2 * MANY}
ANY_SHAPE = pytest.mark.parametrize("shape", SHAPES)
ANSWERS = pytest.mark.parametrize(
    "after_commit", [False, True], ids=["after the send", "after the commit"]
)


# Before the send


@ANY_SHAPE
async def test_a_link_that_is_cut_before_the_send_and_comes_back(way: Way, shape: str) -> None:
    with anyio.fail_after(PATIENCE):
        async with open_shop(way) as shop:
            await lose_the_link(shop)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(SHAPES[shape], shop, PATIENCE)
                await anyio.wait_all_tasks_blocked()
                assert shop.faults.calls("publish") == 0
                shop.proxy.heal()
            assert len(shop.reports.accepted) == SENDS[shape]
            shop.reports.check(await shop.stored())


@ANY_SHAPE
async def test_a_link_that_is_cut_before_the_send_for_good(way: Way, shape: str) -> None:
    with anyio.fail_after(PATIENCE):
        async with open_shop(way) as shop:
            await lose_the_link(shop)
            await SHAPES[shape](shop, 0.1)
            assert len(shop.reports.rejected) == SENDS[shape]
            assert await shop.stored() == {}
            # And nothing of it comes later.
            shop.proxy.heal()
            await shop.publish(1000, 3)
            shop.reports.check(await shop.stored())
            assert len(await shop.stored()) == 3


# After the send, and after the commit


@ANY_SHAPE
@ANSWERS
async def test_a_link_that_is_cut_with_an_answer_to_come(
    way: Way, after_commit: bool, shape: str
) -> None:
    with anyio.fail_after(PATIENCE):
        async with open_shop(way) as shop:
            rule = shop.faults.abort_next("publish", after_commit=after_commit)
            await SHAPES[shape](shop, PATIENCE)
            assert rule.happened == 1
            reports, stored = shop.reports, await shop.stored()
            assert reports.unknown
            assert not reports.rejected
            reports.check(stored)
            there, not_there = reports.unknown & stored.keys(), reports.unknown - stored.keys()
            assert there if after_commit else not_there


@ANSWERS
async def test_one_of_several_recipients_without_an_answer(way: Way, after_commit: bool) -> None:
    with anyio.fail_after(PATIENCE):
        async with open_shop(way) as shop:
            shop.faults.refuse_next("publish", "not this one")
            drop = shop.faults.drop_reply if after_commit else shop.faults.drop_request
            await shop.publish(1, 2)
            assert (len(shop.reports.accepted), len(shop.reports.rejected)) == (1, 1)
            drop("publish")
            await shop.publish(2, 1, timeout=1.0)
            assert shop.reports.unknown == {Send(shop.recipients[0], 2)}
            stored = await shop.stored()
            shop.reports.check(stored)
            assert (Send(shop.recipients[0], 2) in stored) == after_commit


@ANSWERS
async def test_an_engine_that_goes_away_with_an_answer_to_come(
    way: Way, after_commit: bool
) -> None:
    """What is not waited for is unknown, and nothing else."""
    with anyio.fail_after(PATIENCE):
        async with open_shop(way) as shop:
            held = shop.faults.hold("publish", after_commit=after_commit)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(shop.publish, 0, 1)
                await held.wait()
                shop.faults.goaway()
                if way.leaves_at_goaway:
                    await state_reached(shop.client, ensync.ClientState.RECONNECTING)
                held.cancel()
            reports = shop.reports
            assert len(reports.accepted) + len(reports.unknown) == 1
            assert way.leaves_at_goaway is None or way.leaves_at_goaway == bool(reports.unknown)
            reports.check(await shop.stored())


# At any byte


@pytest.mark.parametrize("direction", ["upstream", "downstream"])
async def test_a_link_that_is_cut_at_any_byte(way: Way, direction: Direction) -> None:
    positions = [*range(0, 40, 4), *range(40, 600, 80), *range(600, 4200, 400)]
    with anyio.fail_after(2 * PATIENCE):
        async with open_shop(way) as shop:
            for number, position in enumerate(positions):
                await state_reached(shop.client, ensync.ClientState.CONNECTED)
                shop.proxy.cut_after(position, direction, how="reset")
                await shop.publish(number, 3)
            shop.proxy.heal()
            reports = shop.reports
            reports.check(await shop.stored())
            # The positions reach from before the first byte to behind the last.
            assert reports.accepted
            assert reports.unknown
