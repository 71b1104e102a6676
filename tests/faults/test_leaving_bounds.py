"""A client can be left at any moment, and is left in time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Any, NamedTuple, TypeAlias

import anyio
import pytest
from anyio.lowlevel import checkpoint

import ensync
from ensync.engine import EngineOptions
from ensync.testing import FaultProxy, Faults
from tests.conformance.harness import PATIENCE, Target, publish_all, take
from tests.faults.waiters import state_reached

pytestmark = pytest.mark.anyio

DRAIN = 0.1
# What closing a connection in an orderly way may take.
CLOSING = 1.0
# What a busy machine may add.
SLACK = 5.0
FOR_EVER = 1000.0

AT_ONCE = ensync.Reconnect(initial=1e-6, maximum=1e-6, max_attempts=None)
RARELY = ensync.Reconnect(initial=FOR_EVER, maximum=FOR_EVER, max_attempts=None)


Connected: TypeAlias = AbstractAsyncContextManager[ensync.EnSyncClient]


async def _back_off(proxy: FaultProxy, client: ensync.EnSyncClient) -> None:
    proxy.refuse()
    proxy.reset()
    await state_reached(client, ensync.ClientState.RECONNECTING)


async def _full_backlog(proxy: FaultProxy, client: ensync.EnSyncClient) -> None:
    proxy.hang_new()
    proxy.reset()
    await state_reached(client, ensync.ClientState.RECONNECTING)
    await anyio.wait_all_tasks_blocked()


async def _no_answer(proxy: FaultProxy, client: ensync.EnSyncClient) -> None:
    proxy.stall()
    proxy.reset()
    await proxy.wait_accepted(2)
    assert client.state is ensync.ClientState.RECONNECTING


async def _black_hole(proxy: FaultProxy, client: ensync.EnSyncClient) -> None:
    proxy.black_hole()
    assert client.state is ensync.ClientState.CONNECTED


class Moment(NamedTuple):
    """A bad one: how it comes about, and the policy by which it lasts."""

    bring_about: Callable[[FaultProxy, ensync.EnSyncClient], Awaitable[None]]
    reconnect: ensync.Reconnect

    def options(self, drain_timeout: float) -> EngineOptions:
        return {
            "reconnect": self.reconnect,
            "drain_timeout": drain_timeout,
            "connect_timeout": FOR_EVER,
            "request_timeout": FOR_EVER,
        }


WITHOUT_A_LINK = {
    "in a back-off": Moment(_back_off, RARELY),
    "in a connect that gets no answer from TCP": Moment(_full_backlog, AT_ONCE),
    "in a connect that gets no answer from the engine": Moment(_no_answer, AT_ONCE),
}
MOMENTS = {
    **WITHOUT_A_LINK,
    "with a dead link that is not noticed yet": Moment(_black_hole, RARELY),
}

ANY_MOMENT = pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
ANY_MOMENT_WITHOUT_A_LINK = pytest.mark.parametrize(
    "moment", WITHOUT_A_LINK.values(), ids=WITHOUT_A_LINK
)


async def _normally(_scope: anyio.CancelScope) -> None:
    """Nothing is left to do."""


async def _by_an_error(_scope: anyio.CancelScope) -> None:
    raise LookupError


async def _cancelled(scope: anyio.CancelScope) -> None:
    scope.cancel()
    await checkpoint()


Way = Callable[[anyio.CancelScope], Awaitable[None]]
WAYS: dict[str, Way] = {
    "normally": _normally,
    "by an error": _by_an_error,
    "cancelled": _cancelled,
}
ANY_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


async def seconds_to_leave(
    proxy: FaultProxy, connected: Connected, unconfirmed: int, name: str, moment: Moment, way: Way
) -> float:
    """Leaves a client with so many acknowledgements that nobody confirms."""
    began: list[float] = []
    with anyio.fail_after(PATIENCE), anyio.CancelScope() as scope, suppress(LookupError):
        async with connected as client, client.subscribe(name) as subscription:
            if unconfirmed:
                # Asking for one more acknowledges the ones before.
                await publish_all(client, name, range(unconfirmed + 1))
                await take(subscription, unconfirmed + 1)
                assert subscription.statistics().unconfirmed == unconfirmed
            await moment.bring_about(proxy, client)
            began.append(anyio.current_time())
            await way(scope)
    seconds = anyio.current_time() - began[0]
    print(f"left after {seconds:.3f} s")
    return seconds


@ANY_WAY
@ANY_MOMENT
async def test_leaving_with_acknowledgements_that_nobody_confirms(
    proxied: Target, proxy: FaultProxy, faults: Faults, event_name: str, moment: Moment, way: Way
) -> None:
    faults.drop_request("acknowledge", count=None)
    connected = proxied.connect(**moment.options(DRAIN))
    seconds = await seconds_to_leave(proxy, connected, 3, event_name, moment, way)
    assert 0.9 * DRAIN < seconds < DRAIN + CLOSING + SLACK


@ANY_WAY
@ANY_MOMENT_WITHOUT_A_LINK
async def test_leaving_with_nobody_to_tell(
    proxied: Target, proxy: FaultProxy, event_name: str, moment: Moment, way: Way
) -> None:
    connected = proxied.connect(**moment.options(FOR_EVER))
    assert await seconds_to_leave(proxy, connected, 0, event_name, moment, way) < SLACK


@ANY_WAY
async def test_leaving_when_a_dead_link_is_not_noticed_yet(
    proxied: Target, proxy: FaultProxy, event_name: str, way: Way
) -> None:
    moment = MOMENTS["with a dead link that is not noticed yet"]
    connected = proxied.connect(**moment.options(DRAIN))
    seconds = await seconds_to_leave(proxy, connected, 0, event_name, moment, way)
    assert 0.9 * DRAIN < seconds < DRAIN + CLOSING + SLACK


# Each for itself, they would take much longer than is left for slow machines.
MANY, MANY_DRAIN = 20, 0.5


@pytest.mark.parametrize("way", [_normally, _cancelled], ids=["normally", "cancelled"])
@pytest.mark.parametrize(
    "moment",
    [MOMENTS["in a back-off"], MOMENTS["with a dead link that is not noticed yet"]],
    ids=["gone", "silent"],
)
async def test_leaving_many_subscriptions_takes_no_longer_than_leaving_one(
    proxied: Target, proxy: FaultProxy, faults: Faults, event_name: str, moment: Moment, way: Way
) -> None:
    faults.drop_request("acknowledge", count=None)
    began: list[float] = []
    with anyio.fail_after(2 * PATIENCE), anyio.CancelScope() as scope:
        async with (
            proxied.connect(**moment.options(MANY_DRAIN)) as client,
            AsyncExitStack() as blocks,
        ):
            await many_unconfirmed(client, blocks, event_name)
            await moment.bring_about(proxy, client)
            began.append(anyio.current_time())
            await way(scope)
    seconds = anyio.current_time() - began[0]
    print(f"left after {seconds:.3f} s")
    assert 0.9 * MANY_DRAIN < seconds < MANY_DRAIN + CLOSING + SLACK


async def many_unconfirmed(
    client: ensync.EnSyncClient, stack: AsyncExitStack, event_name: str
) -> None:
    """Opens subscriptions with an acknowledgement each that nobody confirms."""
    names = [f"{event_name}/{number}" for number in range(MANY)]
    subscriptions: list[ensync.Subscription[Any]] = [
        await stack.enter_async_context(client.subscribe(each)) for each in names
    ]
    for name in names:
        await publish_all(client, name, range(2))
    for subscription in subscriptions:
        await take(subscription, 2)
        assert subscription.statistics().unconfirmed == 1


@pytest.mark.parametrize("hang", [FaultProxy.hang_new, FaultProxy.stall], ids=["TCP", "engine"])
async def test_cancelling_a_first_connect_that_gets_no_answer(
    proxied: Target, proxy: FaultProxy, hang: Callable[[FaultProxy], None]
) -> None:
    hang(proxy)
    began = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_never_connected, proxied)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert anyio.current_time() - began < SLACK


async def _never_connected(target: Target) -> None:
    async with target.connect(connect_timeout=FOR_EVER):
        pytest.fail("nobody answers")


@pytest.mark.parametrize("moment", WITHOUT_A_LINK)
async def test_a_pause_is_left_at_once_by_whatever_ends_it(
    proxied: Target, proxy: FaultProxy, event_name: str, moment: str
) -> None:
    """Its end can't be told to the engine now, which is no reason to wait or to fail."""
    bad = WITHOUT_A_LINK[moment]
    with anyio.fail_after(PATIENCE):
        async with (
            proxied.connect(**bad.options(DRAIN)) as client,
            client.subscribe(event_name) as subscription,
        ):
            with pytest.raises(LookupError):
                async with subscription.paused():
                    await bad.bring_about(proxy, client)
                    raise LookupError
            assert not subscription.is_paused
