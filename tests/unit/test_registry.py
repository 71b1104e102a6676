"""Which subscription gets an event, and which registrations are made, kept and ended."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from ensync.connection import Connection
from ensync.errors import EnSyncConnectionError, EnSyncError, EnSyncSubscriptionError
from ensync.ledger import EventKey
from ensync.session import Session
from ensync.transports.base import (
    Acknowledge,
    Delivery,
    Stream,
    StreamEnd,
    StreamEnded,
    Unsubscribe,
)
from tests.unit.scripted_link import LOST, SUBSCRIBE, ScriptedEngine
from tests.unit.scripted_program import BACK_OFF, NO_SIDE, SETTINGS, event_of

pytestmark = [pytest.mark.anyio, pytest.mark.mock_clock]

ENDED = EnSyncSubscriptionError("the stream ended", retryable=True)


class Noting:
    """A subscriber that notes what it is told."""

    finished = False

    def __init__(self, event_name: str) -> None:
        self.event_name = event_name
        self.got: list[int] = []
        self.stream: Stream | None = None
        self.error: EnSyncError | None = None
        self.times_attached = 0
        self.shares = False

    @property
    def is_attached(self) -> bool:
        return self.stream is not None

    def deliver(self, delivery: Delivery) -> None:
        self.got.append(delivery.block)

    def attached(self, connection: Connection, stream: Stream) -> None:
        self.stream = stream
        self.times_attached += 1

    async def restore_pause(self) -> None:
        """It is never paused."""

    def may_share_stream(self) -> None:
        self.shares = True

    def detached(self) -> None:
        self.stream = None

    def retry(self) -> None:
        """It asks for nothing."""

    def failed(self, error: EnSyncError) -> None:
        self.stream, self.error = None, error

    def acknowledged(self, key: EventKey) -> None:
        raise AssertionError(key)

    def acknowledgement_refused(self, key: EventKey, reason: str) -> None:
        raise AssertionError(key, reason)


class Bench:
    def __init__(self) -> None:
        self.engine = ScriptedEngine()
        self.session = Session(NO_SIDE, self.engine.open_link, "key", SETTINGS, lambda: 1.0)
        self.registry = self.session.subscriptions

    async def add(self, *names: str) -> list[Noting]:
        subscribers = [Noting(name) for name in names]
        for subscriber in subscribers:
            await self.registry.add(subscriber)
        return subscribers

    def remove(self, subscriber: Noting) -> None:
        self.registry.remove(subscriber, subscriber.stream)

    def deliver(self, stream_name: str, *events: tuple[str, int]) -> None:
        """Sends events on the stream of one name, whatever theirs are."""
        for name, number in events:
            self.engine.link.every_stream[stream_name].on_delivery(event_of(name, number))

    @property
    def streams(self) -> set[str]:
        return set(self.engine.link.streams)

    @property
    def connection(self) -> Connection:
        assert self.session.current is not None
        return self.session.current

    @property
    def registered_names(self) -> list[str]:
        """Those of all registrations that are kept, in the order in which they were made."""
        return [each.event_name for each in self.connection.registrations]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.session.open()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.session.run)
        await anyio.wait_all_tasks_blocked()
        yield bench
        tasks.cancel_scope.cancel()


async def test_events_go_by_their_name_whatever_stream_they_come_on(bench: Bench) -> None:
    first, second = await bench.add("first", "second")
    bench.deliver("first", ("second", 1), ("first", 2), ("nobody's", 3))
    bench.deliver("second", ("second", 4), ("first", 5))
    assert (first.got, second.got) == ([2, 5], [1, 4])
    assert bench.registry.unsolicited == 1


async def test_a_name_is_subscribed_to_once(bench: Bench) -> None:
    (first,) = await bench.add("a")
    with pytest.raises(EnSyncSubscriptionError, match="already") as caught:
        await bench.add("a")
    assert caught.value.code == "already_subscribed"
    bench.remove(first)
    await bench.add("a")
    assert bench.registry.names == ["a"]


@pytest.mark.parametrize("kind", [EnSyncSubscriptionError, EnSyncConnectionError])
async def test_a_refused_name_is_free_again(bench: Bench, kind: type[EnSyncError]) -> None:
    bench.engine.refused_names["a"].append(kind("never", retryable=False))
    with pytest.raises(kind, match="never"):
        await bench.add("a")
    assert bench.registry.names == []
    (again,) = await bench.add("a")
    bench.deliver("a", ("a", 1))
    assert again.got == [1]


@pytest.mark.parametrize("refusal", [ENDED, LOST], ids=["subscription", "connection"])
async def test_a_refusal_that_may_pass_is_not_the_last_word(
    bench: Bench, refusal: EnSyncError
) -> None:
    bench.engine.refused_names["a"].append(refusal)
    started = anyio.current_time()
    (added,) = await bench.add("a")
    assert added.times_attached == 1
    assert anyio.current_time() - started == BACK_OFF


async def test_an_engine_that_does_not_register_is_not_waited_for_for_ever(bench: Bench) -> None:
    bench.engine.hold(SUBSCRIBE)
    started = anyio.current_time()
    with pytest.raises(EnSyncConnectionError, match="in time") as caught:
        await bench.add("a")
    assert caught.value.code == "timeout"
    assert anyio.current_time() - started == SETTINGS.request_timeout
    assert bench.registry.names == []


async def test_a_link_lost_while_registering_is_followed_by_another(bench: Bench) -> None:
    bench.engine.hold(SUBSCRIBE)
    added = Noting("a")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.registry.add, added)
        await anyio.wait_all_tasks_blocked()
        bench.engine.lose()
        bench.engine.heal()
    assert (added.times_attached, len(bench.engine.links)) == (1, 2)


async def test_the_stream_that_carries_others_outlives_its_subscription(bench: Bench) -> None:
    first, second, third = await bench.add("first", "second", "third")
    bench.deliver("first", ("second", 1))
    bench.remove(first)
    assert "first" in bench.streams
    bench.deliver("first", ("second", 2), ("third", 3))
    assert (second.got, third.got) == ([1, 2], [3])
    bench.remove(second)
    assert bench.streams == {"first", "third"}
    bench.remove(third)
    assert bench.streams == set()


async def test_no_more_than_one_stream_stays_for_what_it_may_carry(bench: Bench) -> None:
    first, _ = await bench.add("first", "second")
    for _ in range(10):
        bench.remove(first)
        (first,) = await bench.add("first")
    bench.remove(first)
    assert bench.registered_names == ["first", "second"]


async def test_what_stays_goes_as_soon_as_streams_are_seen_to_be_apart(bench: Bench) -> None:
    first, second = await bench.add("first", "second")
    bench.remove(first)
    assert bench.streams == {"first", "second"}
    bench.deliver("second", ("second", 1))
    assert bench.streams == {"second"}
    assert bench.registered_names == ["second"]
    assert second.got == [1]


async def test_a_stream_of_an_engine_that_keeps_them_apart_ends_at_once(bench: Bench) -> None:
    first, second = await bench.add("first", "second")
    bench.deliver("second", ("second", 1))
    bench.remove(first)
    assert bench.streams == {"second"}
    assert second.is_attached


async def test_when_the_carrying_stream_ends_all_are_registered_again(bench: Bench) -> None:
    subscribers = await bench.add("first", "second")
    bench.deliver("first", ("second", 1))
    bench.engine.end_stream("first", StreamEnd.BROKEN, ENDED)
    await anyio.sleep(BACK_OFF + 1)
    assert [each.times_attached for each in subscribers] == [2, 2]
    assert len(bench.engine.links) == 1


@pytest.mark.parametrize("carrier_first", [True, False])
@pytest.mark.parametrize("multiplexing", [True, False])
async def test_when_all_streams_end_each_is_registered_again_once(
    bench: Bench, multiplexing: bool, carrier_first: bool
) -> None:
    names = ["first", "second", "third"]
    subscribers = await bench.add(*names)
    for times in range(1, 6):
        carrier, *others = bench.registered_names
        bench.deliver(carrier if multiplexing else others[0], (others[0], times))
        for name in (carrier, *others) if carrier_first else (*others, carrier):
            bench.engine.end_stream(name, StreamEnd.BROKEN, ENDED)
        await anyio.sleep(BACK_OFF + 1)
        assert [each.times_attached for each in subscribers] == [1 + times] * 3
        assert sorted(bench.registered_names) == names
        assert bench.streams == set(names)


async def test_a_carrying_stream_that_is_refused_fails_its_own_subscription_alone(
    bench: Bench,
) -> None:
    first, second = await bench.add("first", "second")
    bench.deliver("first", ("second", 1))
    bench.engine.end_stream("first", StreamEnd.REFUSED, ENDED)
    assert first.error is ENDED
    await anyio.sleep(BACK_OFF + 1)
    assert second.times_attached == 2
    assert bench.registered_names == ["second"]


async def test_what_was_being_registered_as_the_carrying_stream_ended_is_registered_again(
    bench: Bench,
) -> None:
    await bench.add("first", "second")
    bench.deliver("first", ("second", 1))
    bench.engine.hold(SUBSCRIBE)
    third = Noting("third")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.registry.add, third)
        await anyio.wait_all_tasks_blocked()
        bench.engine.end_stream("first", StreamEnd.BROKEN, ENDED)
        await anyio.wait_all_tasks_blocked()
        bench.engine.heal()
    # It was asked for once more, by itself, and the first answer was not waited for.
    assert (third.times_attached, bench.engine.link.times_asked["third"]) == (1, 2)
    await anyio.sleep(BACK_OFF + 1)
    assert sorted(bench.registered_names) == ["first", "second", "third"]


async def test_the_end_of_a_stream_that_was_replaced_is_nobodys(bench: Bench) -> None:
    first, second = await bench.add("first", "second")
    bench.deliver("first", ("second", 1))
    replaced = bench.engine.link.every_stream["second"]
    bench.engine.end_stream("first", StreamEnd.BROKEN, ENDED)
    await anyio.sleep(BACK_OFF + 1)
    for reason in (StreamEnd.BROKEN, StreamEnd.REFUSED, StreamEnd.UNAUTHENTICATED):
        replaced.on_end(StreamEnded(reason, ENDED))
    await anyio.sleep(BACK_OFF + 1)
    assert [each.times_attached for each in (first, second)] == [2, 2]
    assert second.error is None
    assert len(bench.engine.links) == 1


async def test_what_ends_while_the_rest_is_still_to_be_registered_comes_back_once(
    bench: Bench,
) -> None:
    """On a new link acknowledgements go first, and subscribing does not wait for them."""
    (first,) = await bench.add("first")
    bench.engine.hold(Acknowledge)
    bench.session.acknowledgements.add(first, EventKey("done", 1))
    bench.engine.lose()
    await anyio.sleep(BACK_OFF + 1)
    (late,) = await bench.add("late")
    bench.engine.end_stream("late", StreamEnd.BROKEN, ENDED)
    await anyio.sleep(2 * BACK_OFF)
    assert [each.times_attached for each in (first, late)] == [2, 2]
    assert sorted(bench.registered_names) == ["first", "late"]


@pytest.mark.parametrize(("reason", "times"), [(StreamEnd.FINISHED, 1), (StreamEnd.BROKEN, 2)])
async def test_a_registering_stream_may_finish_where_the_first_carries_all(
    bench: Bench, reason: StreamEnd, times: int
) -> None:
    _, second = await bench.add("first", "second")
    bench.deliver("first", ("second", 1))
    bench.engine.end_stream("second", reason, ENDED)
    await anyio.sleep(BACK_OFF + 1)
    assert second.times_attached == times
    bench.deliver("first", ("second", 2))
    assert second.got == [1, 2]


@pytest.mark.parametrize(("name", "is_attached"), [("first", False), ("second", True)])
async def test_a_stream_that_finishes_at_once_may_have_been_there_to_register_only(
    bench: Bench, name: str, is_attached: bool
) -> None:
    """What it is for is not known before an event comes, and it can be paused meanwhile."""
    if name != "first":
        await bench.add("first")
    bench.engine.hold(SUBSCRIBE)
    subscriber = Noting(name)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.registry.add, subscriber)
        await anyio.wait_all_tasks_blocked()
        finished = StreamEnded(StreamEnd.FINISHED, ENDED)
        bench.engine.link.every_stream[name].on_end(finished)
        bench.engine.heal()
    assert subscriber.is_attached is is_attached
    await anyio.sleep(BACK_OFF + 1)
    assert (subscriber.is_attached, subscriber.times_attached) == (True, 2)


async def test_a_stream_that_can_not_be_had_again_fails_its_subscription_alone(
    bench: Bench,
) -> None:
    first, second = await bench.add("first", "second")
    bench.engine.refused_names["second"].extend([ENDED] * 100)
    bench.engine.end_stream("second", StreamEnd.BROKEN, ENDED)
    await anyio.sleep(11 * BACK_OFF)
    assert second.error is not None
    assert second.error.code == "gave_up"
    assert second.error.__cause__ is ENDED
    assert first.is_attached
    assert bench.registry.names == ["first"]
    assert len(bench.engine.refused_names["second"]) == 90


async def test_the_first_stream_is_shared_as_soon_as_there_is_another(bench: Bench) -> None:
    (first,) = await bench.add("first")
    connection = bench.connection
    assert not connection.may_share_stream("first")
    (second,) = await bench.add("second")
    assert (first.shares, second.shares) == (True, False)
    assert connection.may_share_stream("first")
    assert not connection.may_share_stream("second")
    # Until it is seen that the engine keeps them apart.
    bench.deliver("second", ("second", 1))
    assert not connection.may_share_stream("first")


async def test_what_was_removed_is_not_registered_again(bench: Bench) -> None:
    first, second = await bench.add("first", "second")
    bench.engine.end_stream("first", StreamEnd.BROKEN, ENDED)
    bench.remove(first)
    bench.engine.lose()
    await anyio.sleep(BACK_OFF + 1)
    assert bench.engine.registered == {"second"}
    assert (first.times_attached, second.times_attached) == (1, 2)
    assert bench.engine.count(Unsubscribe) == 0


async def test_who_was_left_before_it_came_back_leaves_its_successor_alone(bench: Bench) -> None:
    (left,) = await bench.add("a")
    bench.engine.end_stream("a", StreamEnd.BROKEN, LOST)
    await anyio.wait_all_tasks_blocked()
    bench.remove(left)
    (successor,) = await bench.add("a")
    await anyio.sleep(BACK_OFF + 1)
    assert left.times_attached == 1
    assert bench.engine.registered == {"a"}
    bench.deliver("a", ("a", 1))
    assert successor.got == [1]
