"""Publishes many events from a process of its own.

``python bulk_publisher.py URL APP_KEY RECIPIENT EVENT_NAME COUNT BACKEND``; says how many
were accepted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import anyio

import ensync


def outgoing(recipient: str, event_name: str, count: int) -> Iterator[ensync.OutgoingEvent]:
    for number in range(count):
        payload = {"number": number, "padding": "x" * 220}
        yield ensync.OutgoingEvent(event_name, [recipient], payload)


async def main(arguments: list[str]) -> None:
    url, app_key, recipient, event_name, count = arguments
    events = outgoing(recipient, event_name, int(count))
    async with (
        ensync.connect(url, app_key=app_key) as client,
        client.publish_many(events) as outcomes,
    ):
        receipts = [outcome.unwrap() async for outcome in outcomes]
    print(len(receipts))


if __name__ == "__main__":
    anyio.run(main, sys.argv[1:6], backend=sys.argv[6])
