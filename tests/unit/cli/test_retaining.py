"""`ensync serve --retain-...`: what it keeps, and what it says to nonsense."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from typer.testing import CliRunner

import ensync
from ensync.cli.app import app
from ensync.errors import EnSyncError
from ensync.subscription import Subscription
from tests.unit.cli.command import LIMIT
from tests.unit.cli.served import Served, served

NAME = "retained"


async def settle(engine: Served, events: int, kept: int) -> list[bool]:
    """Publishes and acknowledges events, and waits until so many of them are left.

    Returns:
        Of each whether it can be replayed.
    """
    keys = engine.told["app"]
    with anyio.fail_after(LIMIT):
        async with (
            ensync.connect(
                engine.told["url"], app_key=keys["app_key"], app_secret_key=keys["secret_key"]
            ) as client,
            client.subscribe(NAME, auto_ack=False) as subscription,
        ):
            idems: list[str] = []
            for number in range(events):
                receipt = await client.publish(NAME, [client.app_id], number)
                idems.append(receipt.event_id)
                await (await anext(aiter(subscription))).ack()
            while sum(left := [await is_kept(subscription, idem) for idem in idems]) > kept:
                continue
            return left


async def is_kept(subscription: Subscription[object], idem: str) -> bool:
    try:
        await subscription.replay(idem)
    except EnSyncError as error:
        if "no longer kept" not in str(error):
            raise
        return False
    return True


@pytest.mark.parametrize(
    ("flag", "value", "kept"),
    [
        ("--retain-count", "2", 2),
        ("--retain-count", "0", 0),
        # The encrypted events take 300 bytes, and in memory 1 KiB more.
        ("--retain-size", "4kB", 3),
        ("--retain-for", "0.001s", 0),
    ],
)
def test_so_many_settled_events_are_kept(flag: str, value: str, kept: int) -> None:
    with served(flag, value) as engine:
        assert anyio.run(settle, engine, 4, kept) == [number >= 4 - kept for number in range(4)]


def test_so_many_are_kept_in_a_file(tmp_path: Path) -> None:
    flags = ("--retain-count", "1", "--retain-for", "7d", "--retain-size", "1GiB")
    with served(*flags, "--data", str(tmp_path / "engine.sqlite")) as engine:
        assert anyio.run(settle, engine, 3, 1) == [False, False, True]


@pytest.mark.parametrize(
    ("flag", "value", "text"),
    [
        ("--retain-for", "7 parsecs", "'7 parsecs' is no duration."),
        ("--retain-for", "0d", "'0d' is no duration."),
        ("--retain-count", "-1", "Invalid value"),
        ("--retain-count", "many", "Invalid value"),
        ("--retain-size", "1 potato", "'1 potato' is no size."),
    ],
)
def test_nonsense_is_named(flag: str, value: str, text: str) -> None:
    done = CliRunner().invoke(app, ["serve", flag, value])
    assert done.exit_code == 2
    words = " ".join(done.output.replace("\u2502", " ").split())
    assert flag in words
    assert text in words
