"""Whatever is thrown at the doors, they stand, and nobody beside is harmed.

ENSYNC_FUZZ_FRAMES says how much is thrown, ENSYNC_FUZZ_SEED what.
"""

from __future__ import annotations

import os

import pytest

from tests.faults.fuzzing import Report, fuzz

pytestmark = pytest.mark.anyio

MIB = 1 << 20
FRAMES = int(os.environ.get("ENSYNC_FUZZ_FRAMES", "5000"))
SEED = int(os.environ.get("ENSYNC_FUZZ_SEED", "1"))

# What attackers can claim at once: large messages, in a few copies each.
MOST_GROWTH = 150 * MIB

# Where garbage must get to, lest this test shows that a wall stands.
GRPC_ANSWERS = [
    "INVALID_ARGUMENT: the request can",
    "INVALID_ARGUMENT: the request ended too early",
    "INVALID_ARGUMENT: the request has fields that PublishEventRequest",
    "RESOURCE_EXHAUSTED: the message is too large",
    "INTERNAL: the message is said to be compressed",
    "INVALID_ARGUMENT: the compressed message can",
    "INVALID_ARGUMENT: the flag of the message is",
    "RESOURCE_EXHAUSTED: the message is too large: more than",
    "UNIMPLEMENTED: this engine has no such method",
    "PublishEvent: done",
    "ReplayMessage: done",
    "delay must be",
    "event_name must have",
    "this client is not subscribed to",
    "unknown client_id",
]
WEBSOCKET_ANSWERS = [
    "+PASS",
    "+REPLAY",
    "a binary message; requests are text",
    "a field is not of the form KEY=:value",
    "METADATA is not JSON",
    "ACK has no field",
    "PUB needs",
    " twice",
    "delay must be",
    "unknown app key",
    "unknown client_id",
    "unknown command",
]


@pytest.mark.timeout(60 + FRAMES // 50)
async def test_garbage_harms_nobody() -> None:
    report = await fuzz(FRAMES, SEED)
    print(*report.lines(), sep="\n")
    assert report.thrown >= FRAMES
    assert report.memory.most - report.memory.when_warm < MOST_GROWTH
    assert all(pair.numbers for pair in report.bystanders)
    _check_reached(report, "grpc", GRPC_ANSWERS)
    _check_reached(report, "websocket", WEBSOCKET_ANSWERS)


def _check_reached(report: Report, door: str, answers: list[str]) -> None:
    heard = report.preys[door].answers
    missed = [text for text in answers if not any(text in answer for answer in heard)]
    assert not missed
