"""Random histories of a session: whatever happens in whatever order, what must hold does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import anyio
import pytest
import trio.testing
from anyio.abc import TaskGroup
from hypothesis import given, settings
from hypothesis import strategies as st

from ensync.client import make_client
from ensync.connection import ClientState, Connection, SessionSettings
from ensync.errors import EnSyncAuthenticationError, EnSyncConnectionError, EnSyncError
from ensync.options import Reconnect
from ensync.session import Session
from ensync.subscription import Subscription
from ensync.transports.base import Heartbeat, Outcome, Pause, Publish, StreamEnd, Unsubscribe
from tests.unit.scripted_link import AUTHENTICATE, LOST, SUBSCRIBE, Held, ScriptedEngine
from tests.unit.scripted_program import NO_SIDE, SECRET, event_of

NAMES = ("a", "b", "c")
POLICY = Reconnect(initial=0.5, maximum=8, max_attempts=4, healthy_after=60)
SETTINGS = SessionSettings(
    connect_timeout=5,
    request_timeout=30,
    heartbeat_interval=20,
    drain_timeout=5,
    reconnect=POLICY,
)
LEGAL = {
    (ClientState.CONNECTED, ClientState.RECONNECTING),
    (ClientState.CONNECTED, ClientState.CLOSED),
    (ClientState.RECONNECTING, ClientState.CONNECTED),
    (ClientState.RECONNECTING, ClientState.CLOSED),
}


class WatchedSession(Session):
    """Notes when it changes its state, and when its attempts begin and fail."""

    def __init__(self, engine: ScriptedEngine, random: float) -> None:
        self.log: list[tuple[str, float]] = []
        self.states: list[ClientState] = []
        super().__init__(NO_SIDE, engine.open_link, "key-of-app", SETTINGS, lambda: random)

    def _note(self, what: str) -> None:
        self.log.append((what, anyio.current_time()))

    def _set_state(self, state: ClientState) -> None:
        self.states.append(state)
        self._note(state.value)
        super()._set_state(state)

    async def _retire(self, connection: Connection) -> None:
        self._note("was useful" if connection.was_useful else "was useless")
        await super()._retire(connection)

    async def _connect(self) -> Connection:
        self._note("attempt")
        try:
            return await super()._connect()
        except EnSyncError:
            self._note("failed")
            raise


class Interest:
    """One subscription of the user's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.leave = anyio.Event()
        self.scope = anyio.CancelScope()
        self.subscription: Subscription[Any] | None = None
        self.paused = self.failed = False
        self.seen: list[int] = []


class History:
    """Does whatever is drawn, and knows what must be true in the end."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.engine = ScriptedEngine(SECRET.app_id, streams_are_apart=data.draw(st.booleans()))
        self.random = data.draw(st.sampled_from([0.0, 0.5, 0.999]))
        self.session = WatchedSession(self.engine, self.random)
        self.client = make_client(self.session, SECRET)
        self.interests: dict[str, Interest] = {}
        self.open_blocks: list[Interest] = []  # some of them unsubscribed
        self.delivered = self.waiting = self.errors = 0
        self.refused_key = False
        self.tasks: TaskGroup

    async def run(self) -> None:
        steps = [
            self.lose,
            self.lose,
            self.refuse_to_connect,
            self.refuse_the_key,
            self.lose_when_made,
            self.hold,
            self.hold,
            self.heal,
            self.heal,
            self.end_a_stream,
            self.put_a_name_off,
            self.forget_the_client,
            self.deliver,
            self.publish,
            self.subscribe,
            self.subscribe,
            self.subscribe,
            self.leave,
            self.unsubscribe,
            self.cancel,
            self.pause,
            self.pause,
            self.resume,
            self.let_time_pass,
            self.let_time_pass,
        ]
        await self.session.open()
        async with anyio.create_task_group() as self.tasks:
            self.tasks.start_soon(self.session.run)
            for step in self.data.draw(st.lists(st.sampled_from(steps), max_size=40)):
                await step()
                await self.breathe()
                assert self.engine.most_open == 1
            await self.settle()
            self.tasks.cancel_scope.cancel()
        self.check_the_log()
        assert self.engine.open_links == []

    async def breathe(self) -> None:
        # Whether the others get to run between two steps is a part of the history.
        if self.data.draw(st.booleans()):
            await anyio.wait_all_tasks_blocked()

    # The engine and the network

    async def lose(self) -> None:
        self.engine.lose()

    async def refuse_to_connect(self) -> None:
        refusal = EnSyncConnectionError("nobody listens")
        self.engine.refusals.extend([refusal] * self.data.draw(st.integers(1, 4)))

    async def refuse_the_key(self) -> None:
        if self.data.draw(st.integers(0, 4)) == 0:
            self.engine.refusals.append(EnSyncAuthenticationError("not this key"))

    async def lose_when_made(self) -> None:
        self.engine.lost_when_made.append(LOST)

    async def hold(self) -> None:
        kinds: list[Held] = [AUTHENTICATE, SUBSCRIBE, Heartbeat, Publish, Pause, Unsubscribe]
        self.engine.hold(self.data.draw(st.sampled_from(kinds)))

    async def heal(self) -> None:
        self.engine.heal()

    async def end_a_stream(self) -> None:
        reason = self.data.draw(st.sampled_from([StreamEnd.BROKEN, StreamEnd.FINISHED]))
        self.engine.end_stream(self.data.draw(st.sampled_from(NAMES)), reason, LOST)

    async def put_a_name_off(self) -> None:
        if interest := self.pick():
            self.engine.refused_names[interest.name].append(LOST)

    async def forget_the_client(self) -> None:
        self.engine.replies[Publish].append(Outcome(False, "who?", unauthenticated=True))

    async def deliver(self) -> None:
        if interest := self.pick():
            self.delivered += self.engine.deliver([event_of(interest.name, self.delivered)])

    async def let_time_pass(self) -> None:
        await anyio.sleep(self.data.draw(st.sampled_from([0.1, 1, 9, 70])))

    # The user

    async def publish(self) -> None:
        timeout = self.data.draw(st.sampled_from([1.0, 30.0]))
        self.call(lambda: self.client.publish("elsewhere", [SECRET.app_id], 1, timeout=timeout))

    async def subscribe(self) -> None:
        name = self.data.draw(st.sampled_from(NAMES))
        if name not in self.interests:
            interest = self.interests[name] = Interest(name)
            self.call(lambda: self.be_subscribed(interest))

    async def be_subscribed(self, interest: Interest) -> None:
        self.open_blocks.append(interest)
        try:
            with interest.scope:
                async with self.client.subscribe(interest.name) as interest.subscription:
                    self.tasks.start_soon(self.listen, interest, interest.subscription)
                    await interest.leave.wait()
        finally:
            self.open_blocks.remove(interest)
            self.forget(interest)

    async def listen(self, interest: Interest, subscription: Subscription[Any]) -> None:
        try:
            async for event in subscription:
                interest.seen.append(event.payload)
        except EnSyncError:
            interest.failed = True

    def forget(self, interest: Interest) -> None:
        if self.interests.get(interest.name) is interest:
            del self.interests[interest.name]

    async def leave(self) -> None:
        if interest := self.pick_of(self.open_blocks):
            interest.leave.set()

    async def cancel(self) -> None:
        if interest := self.pick_of(self.open_blocks):
            interest.scope.cancel()

    async def unsubscribe(self) -> None:
        async def call(interest: Interest, subscription: Subscription[Any]) -> None:
            await subscription.unsubscribe()
            self.forget(interest)

        self.control(call)

    async def pause(self) -> None:
        async def call(interest: Interest, subscription: Subscription[Any]) -> None:
            await subscription.pause()
            interest.paused = True

        self.control(call)

    async def resume(self) -> None:
        async def call(interest: Interest, subscription: Subscription[Any]) -> None:
            await subscription.resume()
            interest.paused = False

        self.control(call)

    def control(self, function: Callable[[Interest, Subscription[Any]], Awaitable[None]]) -> None:
        interest = self.pick()
        if interest is not None and (subscription := interest.subscription) is not None:
            self.call(lambda: function(interest, subscription))

    def pick(self) -> Interest | None:
        return self.pick_of(list(self.interests.values()))

    def pick_of(self, choices: list[Interest]) -> Interest | None:
        return self.data.draw(st.sampled_from(choices)) if choices else None

    def call(self, function: Callable[[], Awaitable[object]]) -> None:
        self.waiting += 1
        self.tasks.start_soon(self.wait_for, function)

    async def wait_for(self, function: Callable[[], Awaitable[object]]) -> None:
        try:
            await function()
        except EnSyncError:
            self.errors += 1
        finally:
            self.waiting -= 1

    # What must hold

    async def settle(self) -> None:
        """All is well for a long time: then everything is as it should be."""
        self.engine.heal()
        await anyio.sleep(200)
        if self.session.state is ClientState.CONNECTED:
            await self.check_that_it_serves()
        assert all(i.failed for i in self.interests.values()) or self.session.state is not (
            ClientState.CLOSED
        )
        for interest in self.open_blocks:
            interest.leave.set()
        await anyio.sleep(50)
        assert self.waiting == 0
        assert self.session.subscriptions.names == []
        assert self.engine.registered == set()

    async def check_that_it_serves(self) -> None:
        live = {name: interest for name, interest in self.interests.items() if not interest.failed}
        assert self.waiting == len(self.open_blocks)
        assert self.engine.registered == live.keys() == set(self.session.subscriptions.names)
        assert self.engine.paused == {name for name in live if live[name].paused}
        for name, interest in live.items():
            number = 1_000_000 + self.delivered
            assert self.engine.deliver([event_of(name, number)]) == (not interest.paused)
            await anyio.wait_all_tasks_blocked()
            assert (number in interest.seen) is not interest.paused
            assert len(set(interest.seen)) == len(interest.seen)

    def check_the_log(self) -> None:
        states = self.session.states
        assert states[0] is ClientState.CONNECTED
        assert states[-1] is ClientState.CLOSED
        assert set(pairwise(states)) <= LEGAL
        waits = failures = 0
        connected_at = 0.0
        is_first = True
        for (before, then), (what, now) in pairwise(self.session.log):
            is_healthy = now - connected_at >= POLICY.healthy_after
            if what == "connected":
                connected_at = now
            elif what == "was useful" or (what == "was useless" and is_healthy):
                failures = 0
            elif what == "failed" or (what == "was useless" and not is_first):
                failures += 1
            elif what == "reconnecting":
                is_first, waits = False, 0 if is_healthy else waits
            elif what == "attempt":
                assert before in {"reconnecting", "failed"}
                assert failures < (POLICY.max_attempts or 0)
                bound = min(POLICY.maximum, POLICY.initial * 2**waits)
                assert now - then == pytest.approx(self.random * bound)
                waits += 1


@settings(max_examples=100)
@given(data=st.data())
def test_random_histories(data: st.DataObject) -> None:
    async def run() -> None:
        await History(data).run()

    clock = trio.testing.MockClock(0, 0)
    anyio.run(run, backend="trio", backend_options={"clock": clock})
