"""Which faults happen to which calls, with the doors left out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensync.errors import EnSyncValidationError
from ensync.scopes import background_tasks
from ensync.server.hooks import DoorCall, DoorConnection, DoorFault
from ensync.server.refusal import Reason, Refusal
from ensync.server.store import NewEvent, QueueKey, StoredEvent
from ensync.testing import FaultRule, Faults, RandomFaultKind
from ensync.testing.acts import STATUSES
from tests.unit.testing.echo import eventually, many_turns, within

pytestmark = pytest.mark.anyio

STORED = StoredEvent("idem", 0, 0, NewEvent(QueueKey("app", "a/b"), "sender", "", "{}"))


class FakeConnection(DoorConnection):
    def __init__(self) -> None:
        self.done: list[str] = []

    def abort(self) -> None:
        self.done.append("abort")

    def go_away(self, *, error: bool = False) -> None:
        self.done.append("go_away with error" if error else "go_away")

    def freeze(self) -> None:
        self.done.append("freeze")


def call(
    method: str, event_name: str = "a/b", connection: DoorConnection | None = None
) -> DoorCall:
    return DoorCall("grpc", method, "client", event_name, connection or FakeConnection())


async def reported(what: Awaitable[object]) -> str:
    """What a hook did to a call: the name of a fault, or nothing."""
    try:
        await what
    except DoorFault as fault:
        return "silence" if fault.silent else "reset" if fault.reset else fault.status
    except Refusal as refusal:
        return f"refused: {refusal}"
    return ""


# Each fault, at its moment


BEFORE_HANDLING: list[tuple[Callable[[Faults], FaultRule], str]] = [
    (lambda f: f.fail_next("publish"), "UNAVAILABLE"),
    (lambda f: f.fail_next("publish", status=13), "INTERNAL"),
    (lambda f: f.fail_next("publish", status="OK"), "OK"),
    (lambda f: f.refuse_next("publish", "no"), "refused: no"),
    (lambda f: f.drop_request("publish"), "silence"),
    (lambda f: f.reset_next("publish"), "reset"),
    (lambda f: f.abort_next("publish"), "silence"),
]


@pytest.mark.parametrize(("ask", "expected"), BEFORE_HANDLING)
async def test_a_fault_before_handling(ask: Callable[[Faults], FaultRule], expected: str) -> None:
    faults = Faults()
    rule = ask(faults)
    assert await reported(faults.before_handling(call("heartbeat"))) == ""
    assert await reported(faults.before_reply(call("publish"))) == ""
    assert await reported(faults.before_handling(call("publish"))) == expected
    assert await reported(faults.before_handling(call("publish"))) == ""
    assert (rule.happened, rule.is_over) == (1, True)


AFTER_THE_COMMIT: list[tuple[Callable[[Faults], FaultRule], str]] = [
    (lambda f: f.fail_next("publish", after_commit=True), "UNAVAILABLE"),
    (lambda f: f.refuse_next("publish", "no", after_commit=True), "refused: no"),
    (lambda f: f.drop_reply("publish"), "silence"),
    (lambda f: f.reset_next("publish", after_commit=True), "reset"),
    (lambda f: f.abort_next("publish", after_commit=True), "silence"),
]


@pytest.mark.parametrize(("ask", "expected"), AFTER_THE_COMMIT)
async def test_a_fault_after_the_commit(ask: Callable[[Faults], FaultRule], expected: str) -> None:
    faults = Faults()
    ask(faults)
    assert await reported(faults.before_handling(call("publish"))) == ""
    assert await reported(faults.before_reply(call("publish"))) == expected
    assert await reported(faults.before_reply(call("publish"))) == ""


async def test_abort_next_cuts_the_connection_of_the_call() -> None:
    faults, mine, other = Faults(), FakeConnection(), FakeConnection()
    faults.abort_next("publish")
    await faults.before_handling(call("heartbeat", connection=other))
    await reported(faults.before_handling(call("publish", connection=mine)))
    assert (mine.done, other.done) == (["abort"], [])


OF_DELIVERIES: list[tuple[Callable[[Faults], FaultRule], int]] = [
    (lambda f: f.drop_delivery(), 0),
    (lambda f: f.duplicate_delivery(), 2),
    (lambda f: f.duplicate_delivery(copies=3), 3),
    (lambda f: f.abort_next("delivery"), 0),
    (lambda f: f.delay("delivery", 0), 1),
]


@pytest.mark.parametrize(("ask", "copies"), OF_DELIVERIES)
async def test_a_fault_of_a_delivery(ask: Callable[[Faults], FaultRule], copies: int) -> None:
    faults = Faults()
    ask(faults)
    assert await faults.before_delivery(call("subscribe"), STORED) == copies
    assert await faults.before_delivery(call("subscribe"), STORED) == 1


async def test_failing_a_delivery_ends_its_stream() -> None:
    faults = Faults()
    faults.fail_next("delivery", status="INTERNAL")
    assert await reported(faults.before_delivery(call("subscribe"), STORED)) == "INTERNAL"


async def test_count_and_event_name_choose_the_calls() -> None:
    faults = Faults()
    rule = faults.fail_next("publish", count=2, event_name="a/b")
    names = ["x", "a/b", "x", "a/b", "a/b"]
    seen = [await reported(faults.before_handling(call("publish", name))) for name in names]
    assert seen == ["", "UNAVAILABLE", "", "UNAVAILABLE", ""]
    assert rule.happened == 2


async def test_no_count_means_until_it_is_taken_back() -> None:
    faults = Faults()
    rule = faults.swallow_heartbeats()
    for _ in range(3):
        assert await reported(faults.before_handling(call("heartbeat"))) == "silence"
    assert await reported(faults.before_handling(call("publish"))) == ""
    rule.cancel()
    assert await reported(faults.before_handling(call("heartbeat"))) == ""


async def test_faults_of_one_call_happen_in_their_order() -> None:
    faults = Faults()
    held = faults.hold("publish")
    faults.fail_next("publish", status="INTERNAL")
    faults.fail_next("publish", status="ABORTED")
    seen: list[str] = []
    with within():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(report_into, seen, faults.before_handling(call("publish")))
            await held.wait()
            assert seen == []
            held.cancel()
    assert seen == ["INTERNAL"]
    assert await reported(faults.before_handling(call("publish"))) == "ABORTED"


async def report_into(seen: list[str], what: Awaitable[object]) -> None:
    seen.append(await reported(what))


# Waiting


@pytest.mark.mock_clock
async def test_delay_takes_its_time() -> None:
    faults = Faults()
    faults.delay("publish", 60)
    faults.delay("publish", 5, after_commit=True)
    await faults.before_handling(call("publish"))
    assert anyio.current_time() == 60
    await faults.before_reply(call("publish"))
    assert anyio.current_time() == 65


async def test_heal_takes_back_and_lets_go() -> None:
    faults = Faults()
    faults.delay("publish", 3600)
    faults.fail_next("acknowledge", count=None)
    seen: list[str] = []
    with within():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(report_into, seen, faults.before_handling(call("publish")))
            await faults.wait_calls("publish", 1)
            await many_turns()
            assert seen == []
            faults.heal()
    assert seen == [""]
    assert await reported(faults.before_handling(call("acknowledge"))) == ""


async def test_what_happened_can_be_waited_for_and_counted() -> None:
    faults = Faults()
    rule = faults.fail_next("publish", count=2)
    async with background_tasks() as tasks:
        with within():
            tasks.start_soon(reported, faults.before_handling(call("publish")))
            await rule.wait()
            tasks.start_soon(reported, faults.before_handling(call("publish")))
            await rule.wait(2)
            await faults.wait_calls("publish", 2)
    assert faults.calls("publish") == 2
    assert faults.happened == {"fail_next": 2}


# Connections and streams


OF_CONNECTIONS: list[tuple[Callable[[Faults], None], str]] = [
    (lambda f: f.goaway(), "go_away"),
    (lambda f: f.goaway(error=True), "go_away with error"),
    (lambda f: f.abort_connections(), "abort"),
    (lambda f: f.freeze_connections(), "freeze"),
]


@pytest.mark.parametrize(("ask", "done"), OF_CONNECTIONS)
async def test_faults_of_every_connection(ask: Callable[[Faults], None], done: str) -> None:
    faults, connections = Faults(), [FakeConnection(), FakeConnection()]
    for connection in connections:
        await faults.before_handling(call("connect", connection=connection))
    ask(faults)
    assert [connection.done for connection in connections] == [[done], [done]]


async def test_connections_that_are_gone_are_forgotten() -> None:
    faults = Faults()
    await faults.before_handling(call("connect"))
    faults.abort_connections()
    assert faults.happened == {"abort_connections": 1}


@pytest.mark.parametrize("number", range(17))
async def test_end_streams_by_each_status(number: int) -> None:
    faults = Faults()
    seen: list[str] = []
    with within():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(report_into, seen, faults.during_stream(call("subscribe")))
            await faults.wait_streams(1)
            assert faults.end_streams(number) == 1
            await faults.wait_streams(0)
    assert seen == [STATUSES[number]]


async def test_end_streams_of_one_name_by_reset() -> None:
    faults = Faults()
    seen: list[str] = []
    with within():
        async with background_tasks() as tasks:
            for name in ("a", "b"):
                tasks.start_soon(report_into, seen, faults.during_stream(call("subscribe", name)))
            await faults.wait_streams(2)
            assert faults.end_streams(reset=True, event_name="a") == 1
            await eventually(lambda: seen == ["reset"])
            assert faults.streams == 1
    assert faults.streams == 0


# At random


async def happenings(seed: int, rate: float, **options: Any) -> list[str]:
    faults = Faults()
    faults.random(seed, rate, longest_delay=0, **options)
    seen: list[str] = []
    for _ in range(40):
        seen.append(await reported(faults.before_handling(call("publish"))))
        seen.append(await reported(faults.before_reply(call("publish"))))
        try:
            seen.append(str(await faults.before_delivery(call("subscribe"), STORED)))
        except DoorFault as fault:
            seen.append(fault.status)
    return [*seen, str(sorted(faults.happened.items()))]


async def test_the_same_seed_has_the_same_faults() -> None:
    assert await happenings(7, 0.3) == await happenings(7, 0.3)
    assert await happenings(7, 0.3) != await happenings(8, 0.3)


async def test_rate_0_does_nothing_and_rate_1_always_something() -> None:
    assert set((await happenings(1, 0))[:-1]) == {"", "1"}
    faults = Faults()
    rule = faults.random(1, 1.0)
    for _ in range(20):
        await reported(faults.before_reply(call("publish")))
    assert rule.happened == 20
    faults.heal()
    assert await reported(faults.before_reply(call("publish"))) == ""


async def test_random_faults_are_of_the_kinds_asked_for() -> None:
    faults = Faults()
    faults.random(3, 1.0, kinds=["drop_delivery"])
    assert await faults.before_delivery(call("subscribe"), STORED) == 0
    assert await reported(faults.before_handling(call("publish"))) == ""
    assert faults.happened == {"drop_delivery": 1}


async def test_by_default_no_random_fault_keeps_an_event_from_its_client() -> None:
    # A lost delivery would come back only when the stream ends.
    faults = Faults()
    faults.random(1, 1.0, longest_delay=0)
    for _ in range(100):
        await reported(faults.before_delivery(call("subscribe"), STORED))
    assert set(faults.happened) == {"delay", "fail", "reset", "abort", "duplicate_delivery"}


@pytest.mark.parametrize(
    ("kind", "done"),
    [("fail", "abort"), ("reset", "abort"), ("drop_request", "freeze"), ("drop_reply", "freeze")],
)
async def test_random_faults_befall_the_whole_connection_over_websocket(
    kind: RandomFaultKind, done: str
) -> None:
    # A refusal is an answer, and a single lost reply shifts all that follow.
    faults, connection = Faults(), FakeConnection()
    faults.random(1, 1.0, kinds=[kind])
    over_websocket = call("connect", connection=connection)._replace(door="websocket")
    at = faults.before_reply if kind == "drop_reply" else faults.before_handling
    assert await reported(at(over_websocket)) == "silence"
    assert connection.done == [done]


# Arguments


@given(st.one_of(st.integers(max_value=-1), st.integers(min_value=17), st.text()))
def test_a_status_is_checked(status: int | str) -> None:
    if status in STATUSES:
        return
    with pytest.raises(EnSyncValidationError, match="0 to 16"):
        Faults().fail_next("publish", status=status)


async def test_a_wrong_argument_names_what_is_accepted() -> None:
    faults = Faults()
    with pytest.raises(EnSyncValidationError, match="connect, heartbeat, publish"):
        faults.fail_next("published")  # type: ignore[arg-type]
    with pytest.raises(EnSyncValidationError, match="drop_delivery"):
        faults.drop_reply("delivery")
    with pytest.raises(EnSyncValidationError, match="negative"):
        faults.delay("publish", -1)
    with pytest.raises(EnSyncValidationError, match="between 0 and 1"):
        faults.random(1, 2)
    with pytest.raises(EnSyncValidationError, match="drop_request, drop_reply"):
        faults.random(1, 0.5, kinds=["explode"])  # type: ignore[list-item]
    with pytest.raises(EnSyncValidationError, match="0 to 16"):
        faults.end_streams("SAD")


async def test_repr_says_what_is_waiting() -> None:
    faults = Faults()
    assert repr(faults) == "<Faults: none>"
    faults.drop_reply("publish")
    assert "drop_reply for publish: happened 0 times, waiting" in repr(faults)


async def test_refusals_have_a_reason() -> None:
    faults = Faults()
    faults.refuse_next("heartbeat", reason=Reason.UNKNOWN_CLIENT)
    with pytest.raises(Refusal) as caught:
        await faults.before_handling(call("heartbeat"))
    assert caught.value.reason is Reason.UNKNOWN_CLIENT
