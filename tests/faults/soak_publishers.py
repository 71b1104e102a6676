"""Programs that publish: one event after the other, and many at a time."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator

import anyio

import ensync
from ensync.event import OutgoingEvent, PublishOutcome
from ensync.publishing import Encryption
from tests.faults.soak_engine import NUMBER
from tests.faults.soak_scene import Scene

__all__ = ["publish_batches", "publish_singly"]

TASKS = 4


def next_event(scene: Scene, lot: random.Random) -> OutgoingEvent:
    """Enters an event that is to be sent now."""
    name = lot.choice(scene.names)
    recipients = scene.recipients(name, lot)
    number = scene.ledger.sending(recipients)
    encryption: Encryption = "hybrid" if lot.random() < 0.1 else "sealed"
    payload = scene.payload_of(number)
    return OutgoingEvent(name, recipients, payload, {NUMBER: number}, encryption, number)


async def publish_singly(scene: Scene, url: str, rate: float, lot: random.Random) -> None:
    """Several tasks share a client, which is left and made anew from time to time."""
    while scene.publishing:
        with scene.noting():
            async with scene.client(scene.till, url) as client:
                with anyio.move_on_after(lot.uniform(2, 20)):
                    async with anyio.create_task_group() as tasks:
                        for _ in range(TASKS):
                            own_lot = random.Random(lot.random())
                            tasks.start_soon(keep_publishing, scene, client, rate / TASKS, own_lot)
        await anyio.sleep(lot.uniform(0, 0.1))


async def keep_publishing(
    scene: Scene, client: ensync.EnSyncClient, rate: float, lot: random.Random
) -> None:
    while scene.publishing and client.state is not ensync.ClientState.CLOSED:
        await anyio.sleep(lot.expovariate(rate))
        patience = lot.uniform(0, 0.02) if lot.random() < 0.05 else math.inf
        with anyio.move_on_after(patience):
            await publish(scene, client, lot)


async def publish(scene: Scene, client: ensync.EnSyncClient, lot: random.Random) -> None:
    event = next_event(scene, lot)
    try:
        receipt = await client.publish(
            event.event_name,
            event.recipients,
            event.payload,
            event.metadata,
            encryption=event.encryption,
            timeout=lot.uniform(0.2, 2),
        )
    except ensync.EnSyncPublishError as error:
        note(scene, event, error)
    else:
        scene.ledger.answered(number_of(event), receipt.event_ids)


async def publish_batches(scene: Scene, url: str, rate: float, lot: random.Random) -> None:
    """Publishes many at a time, leaves some of these scopes early."""
    while scene.publishing:
        with scene.noting():
            async with scene.client(scene.till, url) as client:
                for _ in range(lot.randint(1, 5)):
                    if scene.publishing:
                        await publish_batch(scene, client, rate, lot)
        await anyio.sleep(lot.uniform(0, 0.1))


async def publish_batch(
    scene: Scene, client: ensync.EnSyncClient, rate: float, lot: random.Random
) -> None:
    size = lot.randint(1, 100)
    last = lot.randint(1, size) if lot.random() < 0.1 else size
    async with client.publish_many(
        paced_events(scene, size, rate, lot), max_in_flight=lot.randint(1, 16), timeout=1
    ) as outcomes:
        done = 0
        async for outcome in outcomes:
            note_outcome(scene, outcome)
            done += 1
            if done == last:
                break


async def paced_events(
    scene: Scene, size: int, rate: float, lot: random.Random
) -> AsyncIterator[OutgoingEvent]:
    for _ in range(size):
        await anyio.sleep(lot.expovariate(rate))
        yield next_event(scene, lot)


def note_outcome(scene: Scene, outcome: PublishOutcome) -> None:
    if outcome.receipt is not None:
        scene.ledger.answered(number_of(outcome.event), outcome.receipt.event_ids)
        return
    assert isinstance(outcome.error, ensync.EnSyncPublishError)
    note(scene, outcome.event, outcome.error)


def note(scene: Scene, event: OutgoingEvent, error: ensync.EnSyncPublishError) -> None:
    scene.ledger.answered(number_of(event), error.accepted, error.rejected)


def number_of(event: OutgoingEvent) -> int:
    assert isinstance(event.key, int)
    return event.key
