"""Whatever a session is doing, whatever happens: every pair, over an engine without sockets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest

from ensync.connection import ClientState
from ensync.errors import (
    EnSyncAuthenticationError,
    EnSyncConnectionError,
    EnSyncError,
    EnSyncSubscriptionError,
)
from ensync.publishing import publish_all
from ensync.session import Session
from ensync.transports.base import (
    Discard,
    Heartbeat,
    Outcome,
    Publish,
    Request,
    StreamEnd,
    Unsubscribe,
)
from tests.unit.scripted_link import AUTHENTICATE, CLOSE, LOST, SUBSCRIBE, ScriptedEngine
from tests.unit.scripted_program import (
    BACK_OFF,
    BUSY,
    CONNECT_TIMEOUT,
    HEARTBEAT,
    KEPT,
    NO_SIDE,
    SECRET,
    SETTINGS,
    Program,
)

pytestmark = [pytest.mark.anyio, pytest.mark.mock_clock]

REFUSED_KEY = EnSyncAuthenticationError("the engine refuses the key")
UNKNOWN = Outcome(False, "unknown client", unauthenticated=True)

# What a session does, and what happens then: its state at once, and when all is well again:
#   - connecting, C connected, R reconnecting, X closed;
# and a ! where somebody got an error: who asked, or the loop over a subscription.
TABLE = """
what happens            |connecting|connected|backing off|retrying|gave up|draining|leaving|left
connect refused         |    --!   |   CC    |    RC     |   RC   |  XX   |   CX   |  XX   | XX
another protocol        |    --!   |   CC    |    RC     |   RC   |  XX   |   CX   |  XX   | XX
key refused             |    --!   |   CC    |    RX!    |   XX!  |  XX   |   CX   |  XX   | XX
connect hangs           |    --!   |   CC    |    RC     |   RC   |  XX   |   CX   |  XX   | XX
link lost               |    --!   |   RC    |    RC     |   RC   |  XX   |   XX   |  XX   | XX
link lost when made     |    RC    |   CC    |    RC     |   RC   |  XX   |   CX   |  XX   | XX
link lost, key refused  |    --!   |   XX!   |    RC     |   XX!  |  XX   |   XX   |  XX   | XX
client unknown          |    RC    |   RC    |    RC     |   RC   |  XX!  |  XX!   |  XX!  | XX!
stream: client unknown  |    -C    |   RC    |    RC     |   RC   |  XX   |   XX   |  XX   | XX
stream finished         |    -C    |   CC    |    RC     |   RC   |  XX   |   CX   |  XX   | XX
stream broken           |    -C    |   CC    |    RC     |   RC   |  XX   |   CX   |  XX   | XX
stream refused          |    -C    |   CC!   |    RC     |   RC   |  XX   |   CX   |  XX   | XX
heartbeat missed        |    -C    |   RC    |    RC     |   RC   |  XX   |   XX   |  XX   | XX
heartbeat refused       |    -C    |   RC    |    RC     |   RC   |  XX   |   XX   |  XX   | XX
heartbeat failed        |    -C    |   RC    |    RC     |   RC   |  XX   |   XX   |  XX   | XX
reply late              |    -C!   |   CC!   |    RC!    |   RC!  |  XX!  |   CX!  |  XX!  | XX!
reply: no such method   |   CC!    |   CC!   |    RC!    |   RC!  |  XX!  |   CX!  |  XX!  | XX!
resubscribing refused   |   -X!    |   CC!   |    RC!    |   RC!  |  XX   |   CX   |  XX   | XX
resubscribing put off   |    -C    |   CC    |    RC     |   RC   |  XX   |   CX   |  XX   | XX
the user leaves         |    -X    |   XX    |     XX    |   XX   |  XX   |   CX   |  XX   | XX
the user cancels        |    --    |   XX    |    XX     |   XX   |  XX   |   CX   |  XX   | XX
publish                 |    -C    |   CC    |    RC     |   RC   |  XX!  |   CX   |  XX!  | XX!
subscribe               |    -C    |   CC    |    RC     |   RC   |  XX!  |   CX   |  XX!  | XX!
unsubscribe             |    -C    |   CC    |    RC     |   RC   |  XX!  |   CX!  |  XX!  | XX!
pause                   |    -C    |   CC    |    RC     |   RC   |  XX!  |   CX   |  XX!  | XX!
resume                  |    -C    |   CC    |    RC     |   RC   |  XX!  |   CX   |  XX!  | XX!
"""

LETTERS = {
    ClientState.CONNECTING: "-",
    ClientState.CONNECTED: "C",
    ClientState.RECONNECTING: "R",
    ClientState.CLOSED: "X",
}

Step = Callable[[Program], Awaitable[None]]


# What a session does


async def connecting(program: Program) -> None:
    program.engine.hold(AUTHENTICATE)
    program.start()


async def connected(program: Program) -> None:
    program.start()
    await program.at_work.wait()


async def backing_off(program: Program) -> None:
    await connected(program)
    program.engine.lose()


async def retrying(program: Program) -> None:
    await backing_off(program)
    program.engine.hold(AUTHENTICATE)
    await anyio.sleep(BACK_OFF + 1)


async def gave_up(program: Program) -> None:
    await connected(program)
    program.engine.refusals.append(REFUSED_KEY)
    program.engine.lose()
    await anyio.sleep(BACK_OFF + 1)


async def draining(program: Program) -> None:
    await connected(program)
    program.engine.hold(Unsubscribe)
    program.leave.set()


async def leaving(program: Program) -> None:
    await connected(program)
    program.engine.hold(CLOSE)
    program.leave.set()


async def left(program: Program) -> None:
    await connected(program)
    program.leave.set()


SITUATIONS: dict[str, Step] = {
    "connecting": connecting,
    "connected": connected,
    "backing off": backing_off,
    "retrying": retrying,
    "gave up": gave_up,
    "draining": draining,
    "leaving": leaving,
    "left": left,
}


# What happens


def refuses_next(error: EnSyncError) -> Step:
    async def happen(program: Program) -> None:
        program.engine.refusals.append(error)
        if AUTHENTICATE in program.engine.held:
            program.engine.heal()

    return happen


async def connect_hangs(program: Program) -> None:
    program.engine.hold(AUTHENTICATE)
    await anyio.sleep(BACK_OFF + CONNECT_TIMEOUT + 1)


def link_lost(error: EnSyncConnectionError) -> Step:
    async def happen(program: Program) -> None:
        program.engine.lose(error)

    return happen


async def link_lost_when_made(program: Program) -> None:
    program.engine.lost_when_made.append(LOST)
    if AUTHENTICATE in program.engine.held:
        program.engine.heal()


def publish_answered(answer: Outcome) -> Step:
    async def happen(program: Program) -> None:
        program.engine.replies[Publish].append(answer)
        program.call(program.publish)
        if program.engine.held == {AUTHENTICATE} and not program.at_work.is_set():
            program.engine.heal()

    return happen


def stream_ends(reason: StreamEnd) -> Step:
    async def happen(program: Program) -> None:
        program.engine.end_stream(BUSY, reason, EnSyncSubscriptionError("it ended"))

    return happen


async def heartbeat_missed(program: Program) -> None:
    program.engine.hold(Heartbeat)
    await anyio.sleep(HEARTBEAT * 2.5)


def heartbeat_answered(answer: Outcome | EnSyncError) -> Step:
    async def happen(program: Program) -> None:
        program.engine.replies[Heartbeat].append(answer)
        await anyio.sleep(HEARTBEAT * 1.5)

    return happen


async def reply_late(program: Program) -> None:
    program.engine.hold(Publish)
    program.call(lambda: program.publish(timeout=3))
    await anyio.sleep(4)


def resubscribing_fails(*, retryable: bool) -> Step:
    async def happen(program: Program) -> None:
        refusal = EnSyncSubscriptionError("not now, or never", retryable=retryable)
        program.engine.refused_names[BUSY].append(refusal)
        program.engine.end_stream(BUSY, StreamEnd.BROKEN, LOST)

    return happen


async def the_user_leaves(program: Program) -> None:
    program.leave.set()


async def the_user_cancels(program: Program) -> None:
    program.cancel()


def user_calls(name: str) -> Step:
    async def happen(program: Program) -> None:
        program.call(getattr(program, name))

    return happen


HAPPENINGS: dict[str, Step] = {
    "connect refused": refuses_next(EnSyncConnectionError("nobody listens")),
    "another protocol": refuses_next(EnSyncConnectionError("no engine", code="protocol_error")),
    "key refused": refuses_next(REFUSED_KEY),
    "connect hangs": connect_hangs,
    "link lost": link_lost(LOST),
    "link lost when made": link_lost_when_made,
    "link lost, key refused": link_lost(REFUSED_KEY),
    "client unknown": publish_answered(UNKNOWN),
    "stream: client unknown": stream_ends(StreamEnd.UNAUTHENTICATED),
    "stream finished": stream_ends(StreamEnd.FINISHED),
    "stream broken": stream_ends(StreamEnd.BROKEN),
    "stream refused": stream_ends(StreamEnd.REFUSED),
    "heartbeat missed": heartbeat_missed,
    "heartbeat refused": heartbeat_answered(UNKNOWN),
    "heartbeat failed": heartbeat_answered(EnSyncConnectionError("reset")),
    "reply late": reply_late,
    "reply: no such method": publish_answered(Outcome(False, "no such method")),
    "resubscribing refused": resubscribing_fails(retryable=False),
    "resubscribing put off": resubscribing_fails(retryable=True),
    "the user leaves": the_user_leaves,
    "the user cancels": the_user_cancels,
    "publish": user_calls("publish"),
    "subscribe": user_calls("subscribe"),
    "unsubscribe": user_calls("unsubscribe"),
    "pause": user_calls("pause"),
    "resume": user_calls("resume"),
}


def expectations() -> dict[tuple[str, str], str]:
    header, *rows = (line.split("|") for line in TABLE.strip().splitlines())
    situations = [name.strip() for name in header[1:]]
    return {
        (situation, row[0].strip()): cell.strip()
        for row in rows
        for situation, cell in zip(situations, row[1:], strict=True)
    }


EXPECTED = expectations()


def test_every_pair_has_an_expectation() -> None:
    assert EXPECTED.keys() == {(s, h) for s in SITUATIONS for h in HAPPENINGS}
    assert all(EXPECTED.values())


@pytest.mark.parametrize("happening", HAPPENINGS)
@pytest.mark.parametrize("situation", SITUATIONS)
async def test_pair(situation: str, happening: str) -> None:
    async with Program().running() as program:
        await SITUATIONS[situation](program)
        await anyio.wait_all_tasks_blocked()
        program.told.clear()
        await HAPPENINGS[happening](program)
        await anyio.wait_all_tasks_blocked()
        at_once = program.session.state
        await program.all_is_well()
        in_the_end = program.session.state
        if in_the_end is ClientState.CONNECTED:
            await program.check_that_it_serves()
    error = "!" if program.told else ""
    assert LETTERS[at_once] + LETTERS[in_the_end] + error == EXPECTED[situation, happening]
    assert program.engine.most_open == 1
    assert program.engine.open_links == []


# A registration that is under way when its subscription is left


@pytest.mark.parametrize("again", [False, True], ids=["for good", "and subscribed to again"])
@pytest.mark.parametrize("streams_are_apart", [True, False])
async def test_left_while_it_is_being_registered_again(
    streams_are_apart: bool, again: bool
) -> None:
    async with Program(streams_are_apart=streams_are_apart).running() as program:
        await connected(program)
        program.engine.hold(SUBSCRIBE)
        program.engine.lose()
        await anyio.sleep(BACK_OFF + 1)
        program.call(program.unsubscribe)
        await anyio.wait_all_tasks_blocked()
        if again:
            program.call(lambda: program.subscribe(KEPT))
            await anyio.wait_all_tasks_blocked()
        await program.all_is_well()
        await program.check_that_it_serves()
        assert program.told == []


async def test_leaving_a_block_late_leaves_its_successor_alone() -> None:
    """A subscription that was unsubscribed, and one of the same name that came after."""
    async with Program().running() as program:
        await connected(program)
        leave_first = anyio.Event()

        async def subscribe_briefly() -> None:
            async with program.client.subscribe("again") as subscription:
                await subscription.unsubscribe()
                await leave_first.wait()

        program.call(subscribe_briefly)
        await anyio.wait_all_tasks_blocked()
        program.call(lambda: program.subscribe("again"))
        await anyio.wait_all_tasks_blocked()
        leave_first.set()
        await program.all_is_well()
        await program.check_that_it_serves()


async def test_pausing_and_resuming_at_once_ends_as_the_engine_has_it() -> None:
    async with Program().running() as program:
        await connected(program)
        for _ in range(20):  # trio runs them in any order
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(program.kept.resume)
                tasks.start_soon(program.kept.pause)
            assert (KEPT in program.engine.paused) is program.kept.is_paused


# A client that the engine has forgotten


async def _publish(session: Session) -> None:
    request = Publish(BUSY, SECRET.app_id, "payload", "", None)
    await publish_all(session, [request], 1_000)


async def _discard(session: Session) -> None:
    await session.request(Discard(BUSY, "idem", ""))


ASKING: dict[type[Request], Callable[[Session], Coroutine[Any, Any, None]]] = {
    Publish: _publish,
    Discard: _discard,
}


@pytest.mark.parametrize("kind", ASKING)
async def test_it_connects_anew_once_and_asks_again(kind: type[Request]) -> None:
    engine = ScriptedEngine()
    session = Session(NO_SIDE, engine.open_link, "key", SETTINGS, lambda: 1.0)
    await session.open()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(session.run)
        engine.replies[kind].append(UNKNOWN)
        tasks.start_soon(ASKING[kind], session)
        await anyio.wait_all_tasks_blocked()
        assert session.state is ClientState.RECONNECTING
        await anyio.sleep(5 * BACK_OFF)
        assert (session.state, session.reconnects) == (ClientState.CONNECTED, 1)
        assert engine.count(kind) == 2
        tasks.cancel_scope.cancel()
