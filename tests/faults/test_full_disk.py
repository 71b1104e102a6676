"""`ensync serve` while its disk is full: it says no, goes on, and keeps what it has accepted."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

import ensync
from ensync.cli.admin_client import AdminClient
from ensync.server.apps import App
from tests.faults.full_disks import Disk, limited_files, small_disk
from tests.unit.cli.command import LIMIT, started_command, stop
from tests.unit.cli.served import ANY_PORT, Served, served

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="fills disks as Linux allows it"),
]

EVENT_NAME = "orders/paid"
TEXT = "x" * 3_000
LARGE_TEXT = "x" * 60_000  # more than any write of the others
ROOM = 200_000  # bytes; for some events, but not for so many:
MANY = 200


class Published(NamedTuple):
    accepted: set[str]
    refused: list[ensync.EnSyncPublishError]


def connected(engine: Served, app: App) -> AbstractAsyncContextManager[ensync.EnSyncClient]:
    return ensync.connect(engine.told["url"], app_key=app.app_key, app_secret_key=app.secret_key)


async def publish(client: ensync.EnSyncClient, count: int) -> Published:
    published = Published(set(), [])

    async def publish_one() -> None:
        try:
            receipt = await client.publish(EVENT_NAME, [client.app_id], TEXT)
        except ensync.EnSyncPublishError as error:
            published.refused.append(error)
        else:
            published.accepted.add(receipt.event_id)

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(publish_one)
    return published


async def take(subscription: ensync.Subscription[object], count: int) -> list[ensync.Event[object]]:
    events: list[ensync.Event[object]] = []
    with anyio.fail_after(LIMIT):
        async for event in subscription:
            events.append(event)
            if len(events) == count:
                return events
    raise AssertionError("the subscription has ended")


async def fill_up(client: ensync.EnSyncClient, disk: Disk, engine: Served) -> set[str]:
    """Publishes until there is no room; returns what was accepted before."""
    disk.fill(engine.process.pid, ROOM)
    accepted, refused = await publish(client, MANY)
    assert accepted
    assert refused
    for error in refused:
        assert disk.told in str(error)
        assert client.app_id in error.rejected
    return accepted


async def use_what_failures_left(client: ensync.EnSyncClient, disk: Disk, engine: Served) -> str:
    """Leaves no room in the engine's files either, where a write that failed had begun."""
    disk.make_room(engine.process.pid)
    receipt = await client.publish(EVENT_NAME, [client.app_id], LARGE_TEXT)
    disk.fill(engine.process.pid)
    return receipt.event_id


async def settle_without_room(
    subscription: ensync.Subscription[object], disk: Disk, engine: Served
) -> None:
    """What can't be settled stays in hand, and what needs no room is done all the same."""
    events = await take(subscription, 3)
    settle = (events[0].ack, events[1].ack, events[2].discard)
    for each in settle:
        with pytest.raises(ensync.EnSyncSubscriptionError, match=disk.told):
            await each()
    assert (await subscription.replay(events[0].idem)).payload == TEXT
    disk.make_room(engine.process.pid)
    for each in settle:
        await each()


async def use_up(disk: Disk, engine: Served, app: App) -> set[str]:
    """Leaves the disk full for the second time; returns what was accepted."""
    async with (
        connected(engine, app) as client,
        client.subscribe(EVENT_NAME, auto_ack=False) as subscription,
    ):
        before = await fill_up(client, disk, engine)
        large = await use_what_failures_left(client, disk, engine)
        await settle_without_room(subscription, disk, engine)
        meanwhile = await publish(client, 3)
        assert not meanwhile.refused
        after = await fill_up(client, disk, engine)
        disk.fill(engine.process.pid)
        return before | {large} | meanwhile.accepted | after


def check_end(process: subprocess.Popen[str], end: signal.Signals, log: str) -> None:
    assert process.returncode == (0 if end is signal.SIGTERM else -end)
    assert "can't be used: " in log
    assert "can be used again" in log
    assert "Traceback" not in log


def check_no_start(disk: Disk) -> None:
    arguments = ("serve", *ANY_PORT, "--data", str(disk.data))
    with started_command(*arguments, launcher=disk.launcher_when_full) as process:
        output, told = process.communicate(timeout=LIMIT)
    assert (process.returncode, output) == (1, "")
    # The data file, or the one beside it that leads to the engine.
    assert re.fullmatch(
        f"error: (the data file )?{re.escape(str(disk.data))}(.admin)? can't be .*\n", told
    )


async def check_all_is_there(engine: Served, app: App, accepted: set[str]) -> None:
    (queue,) = AdminClient(engine.told["admin_url"]).ask("GET", "status")["queues"]
    assert (queue["acknowledged"], queue["discarded"]) == (2, 1)
    # As many as were accepted: nothing that was refused is there.
    assert queue["waiting"] == len(accepted) - 3
    async with connected(engine, app) as client, client.subscribe(EVENT_NAME) as subscription:
        events = await take(subscription, queue["waiting"])
    assert {event.idem for event in events} < accepted


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("disk_in", "end"), [(limited_files, signal.SIGKILL), (small_disk, signal.SIGTERM)]
)
async def test_what_was_accepted_is_there_when_there_is_room_again(
    disk_in: Callable[[Path], AbstractContextManager[Disk]], end: signal.Signals, tmp_path: Path
) -> None:
    with disk_in(tmp_path) as disk:
        with served("--data", str(disk.data), launcher=disk.launcher) as engine:
            app = App(**engine.told["app"])
            accepted = await use_up(disk, engine, app)
            _, log = stop(engine.process, by=end)
        check_end(engine.process, end, log)
        check_no_start(disk)
        disk.make_room()
        with served("--data", str(disk.data), launcher=disk.launcher) as engine:
            await check_all_is_there(engine, app, accepted)
