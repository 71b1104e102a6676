"""Takes the picture of the page that the documentation shows: a shop at work, for five minutes.

``python -m scripts.take_screenshot docs/images/page.png``, in a checkout and with Chromium.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import anyio.to_thread

import ensync
from ensync.server.apps import App
from ensync.server.local import LocalEngine
from ensync.server.ui import open_page
from tests.browser.chromium import EXECUTABLES, Screen, browser, executable

SCREEN = Screen(width=800, height=1204)
ALL_OF_THE_PLOT = 300.0  # seconds
LIVE = "document.querySelector('#connection')?.textContent === 'live'"

# How lively the shop is: orders per second, and how they come and go.
ORDERS = 40.0
TIDE = 0.5
TIDE_SECONDS = 95.0

LUNCH = 3.0  # seconds
BETWEEN_LUNCHES = 110.0

rng = random.Random(4)


def connected(engine: LocalEngine, app: App) -> AbstractAsyncContextManager[ensync.EnSyncClient]:
    return ensync.connect(engine.url, app_key=app.app_key, app_secret_key=app.secret_key)


async def sell(engine: LocalEngine, shop: App, billing: App, mailing: App) -> None:
    async with connected(engine, shop) as client:
        for number in itertools.count(1):
            source = {"source": rng.choice(["web", "web", "phone"])}
            await client.publish("orders/new", [billing.app_id], {"order_id": number}, source)
            if number % 100 == 0:
                await client.publish("newsletters/monthly", [mailing.app_id], {"order_id": number})
            if number % 150 == 0:
                await client.publish("offers/today", [mailing.app_id], {"off": 0.1}, {"ttl": 20})
            await anyio.sleep(rng.uniform(0, 2) / orders_per_second(anyio.current_time()))


def orders_per_second(now: float) -> float:
    return ORDERS * (1 + TIDE * math.sin(2 * math.pi * now / TIDE_SECONDS))


async def bill(engine: LocalEngine, billing: App, shipping: App) -> None:
    async with (
        connected(engine, billing) as client,
        client.subscribe("orders/new", auto_ack=False) as orders,
    ):
        async for order in orders:
            dice = rng.random()
            if dice < 0.01:
                await order.defer(delay=30, reason="no answer from the bank")
            elif dice < 0.012:
                await order.discard(reason="never meant")
            else:
                paid = {"trace": f"{rng.getrandbits(64):x}"}
                await client.publish("orders/paid", [shipping.app_id], order.payload, paid)
                await order.ack()


async def ship(engine: LocalEngine, shipping: App) -> None:
    async with (
        connected(engine, shipping) as client,
        client.subscribe("orders/paid") as orders,
        client.subscribe("stock/counted") as counted,
        anyio.create_task_group() as tasks,
    ):
        await counted.pause(reason="until there are people for it")
        tasks.start_soon(have_lunch, orders)
        await orders.for_each(pack, concurrency=8)


async def have_lunch(orders: ensync.Subscription[object]) -> None:
    """What is to be shipped waits meanwhile, and is caught up with afterwards."""
    while True:
        await anyio.sleep(BETWEEN_LUNCHES)
        async with orders.paused("lunch"):
            await anyio.sleep(LUNCH)


async def pack(_order: ensync.Event[object]) -> None:
    await anyio.sleep(rng.uniform(0.02, 0.2))


def take(url: str, path: Path) -> None:
    program = executable()
    if program is None:
        raise SystemExit(f"there is no browser: none of {', '.join(EXECUTABLES)} is on the path")
    with browser(program) as tab:
        tab.use(SCREEN)
        tab.call("Emulation.setScrollbarsHidden", hidden=True)
        tab.open(url)
        tab.wait_for(LIVE)
        path.parent.mkdir(parents=True, exist_ok=True)
        tab.screenshot(path)


async def main(path: Path, seconds: float) -> None:
    async with LocalEngine() as engine, open_page(engine) as page:
        apps = (engine.create_app(name) for name in ("shop", "billing", "shipping", "mailing"))
        shop, billing, shipping, mailing = apps
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sell, engine, shop, billing, mailing)
            tasks.start_soon(bill, engine, billing, shipping)
            tasks.start_soon(ship, engine, shipping)
            await anyio.sleep(seconds)
            await anyio.to_thread.run_sync(take, page.url, path)
            tasks.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m scripts.take_screenshot", description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--seconds", type=float, default=ALL_OF_THE_PLOT)
    options = parser.parse_args()
    anyio.run(main, options.path, options.seconds)
