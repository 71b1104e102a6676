"""What goes wrong in a soak, as the dice say: on the network, and in the engine."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio

from ensync.testing import Direction, FaultProxy, Faults, Method
from tests.faults.soak_engine import DurableEngine

__all__ = ["bad_engine", "bad_network"]

LONGEST = 1.5
RATE_OF_ALL_CALLS = 0.003

BOTH: list[Direction | None] = ["upstream", "downstream", None]
ONE: list[Direction] = ["upstream", "downstream"]

# After which a client may try again: it can't know what became of the request.
PASSING = ["CANCELLED", "UNKNOWN", "ABORTED", "INTERNAL", "UNAVAILABLE"]
CALLS: list[Method] = [
    "publish",
    "publish",
    "acknowledge",
    "acknowledge",
    "defer",
    "discard",
    "subscribe",
    "unsubscribe",
    "pause",
    "continue",
    "replay",
]

Act: TypeAlias = Callable[[], object]
Menu: TypeAlias = dict[str, Act]


async def bad_network(
    proxy: FaultProxy, gap: float, lot: random.Random, counts: Counter[str]
) -> None:
    """Has the network fail again and again; in between it is whole for a moment."""
    instant, lasting = _instant_faults(proxy, lot), _lasting_faults(proxy, lot)
    while True:
        await anyio.sleep(lot.expovariate(1 / gap))
        kind = lot.choice([*instant, *lasting])
        counts[f"network: {kind}"] += 1
        (instant | lasting)[kind]()
        if kind in lasting:
            await anyio.sleep(lot.uniform(0, LONGEST))
            proxy.heal()


def _instant_faults(proxy: FaultProxy, lot: random.Random) -> Menu:
    return {
        "reset": proxy.reset,
        "close": proxy.close,
        "half-close": lambda: proxy.half_close(lot.choice(ONE)),
        "cut": lambda: proxy.cut_after(lot.randint(0, 5000), lot.choice(ONE)),
        "truncate": lambda: proxy.truncate_after(lot.randint(0, 5000), lot.choice(ONE)),
    }


def _lasting_faults(proxy: FaultProxy, lot: random.Random) -> Menu:
    return {
        "black hole": lambda: proxy.black_hole(lot.choice(BOTH)),
        "stall": lambda: proxy.stall(lot.choice(BOTH)),
        "delay": lambda: proxy.delay(lot.uniform(0.001, 0.2), lot.choice(BOTH)),
        "throttle": lambda: proxy.throttle(lot.uniform(5_000, 100_000), lot.choice(BOTH)),
        "slices": lambda: proxy.slicer(lot.getrandbits(32), max_size=lot.randint(1, 100)),
        "stall in the middle": lambda: proxy.cut_after(
            lot.randint(0, 2000), lot.choice(ONE), how="stall"
        ),
        "black hole in the middle": lambda: proxy.cut_after(
            lot.randint(0, 2000), lot.choice(ONE), how="black_hole"
        ),
        "refuse": lambda: _shut_out(proxy, proxy.refuse),
        "reset new": lambda: _shut_out(proxy, proxy.reset_new),
        "hang new": lambda: _shut_out(proxy, proxy.hang_new),
    }


def _shut_out(proxy: FaultProxy, how: Act) -> None:
    how()
    proxy.reset()


async def bad_engine(
    engine: DurableEngine, gap: float, grpc: bool, lot: random.Random, counts: Counter[str]
) -> None:
    """Has the engine fail again and again, and single calls all the time."""
    faults = engine.faults
    faults.random(lot.getrandbits(32), RATE_OF_ALL_CALLS)
    menu = _engine_faults(faults, lot) | (_grpc_faults(faults, lot) if grpc else {})
    restarts: dict[str, Callable[[], Awaitable[None]]] = {
        "restart": engine.restart,
        "crash": lambda: engine.restart(crash=True),
        "outage": lambda: _outage(engine, lot),
    }
    kinds = [*menu, *menu, *restarts]
    while True:
        await anyio.sleep(lot.expovariate(1 / gap))
        kind = lot.choice(kinds)
        if kind in menu:
            menu[kind]()  # counted when it happens, by those whom it befalls
            continue
        counts[f"engine: {kind}"] += 1
        with anyio.CancelScope(shield=True):  # an engine is not left half stopped
            await restarts[kind]()


async def _outage(engine: DurableEngine, lot: random.Random) -> None:
    await engine.stop(crash=lot.random() < 0.5)
    await anyio.sleep(lot.uniform(0, LONGEST))
    await engine.start()


def _engine_faults(faults: Faults, lot: random.Random) -> Menu:
    return {
        "go away": lambda: faults.goaway(error=lot.random() < 0.5),
        "abort": faults.abort_connections,
        "freeze": faults.freeze_connections,
        "lose an event": faults.drop_delivery,
        "send events twice": lambda: faults.duplicate_delivery(count=lot.randint(1, 20)),
        "abort at a call": lambda: faults.abort_next(
            lot.choice(CALLS), after_commit=lot.random() < 0.5
        ),
        "delay calls": lambda: faults.delay(
            lot.choice(CALLS),
            lot.uniform(0, 2 * LONGEST),
            after_commit=lot.random() < 0.5,
            count=lot.randint(1, 5),
        ),
        "refuse a publish": lambda: faults.refuse_next("publish", count=lot.randint(1, 5)),
        "refuse a call": lambda: faults.refuse_next(lot.choice(CALLS)),
    }


def _grpc_faults(faults: Faults, lot: random.Random) -> Menu:
    """Those of single calls, and of streams, which a WebSocket does not have."""
    return {
        "end streams": lambda: faults.end_streams(lot.randrange(17)),
        "reset streams": lambda: faults.end_streams(reset=True),
        "ignore heartbeats": lambda: faults.swallow_heartbeats(lot.randint(1, 10)),
        "lose a request": lambda: faults.drop_request(lot.choice(CALLS)),
        "lose a reply": lambda: faults.drop_reply(lot.choice(CALLS)),
        "reset a call": lambda: faults.reset_next(
            lot.choice(CALLS), after_commit=lot.random() < 0.5
        ),
        "fail a call": lambda: faults.fail_next(
            lot.choice(CALLS), status=lot.choice(PASSING), after_commit=lot.random() < 0.5
        ),
    }
