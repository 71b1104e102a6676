"""Publishes many events, a bounded number at a time, and looks at each outcome."""

from collections.abc import Iterator

import anyio

import ensync


def rows(app_id: str) -> Iterator[ensync.OutgoingEvent]:
    for number in range(500):
        yield ensync.OutgoingEvent("examples/import", [app_id], {"row": number}, key=number)


async def main() -> None:
    accepted, failed = 0, dict[object, ensync.EnSyncError]()
    async with (
        ensync.connect() as client,
        client.publish_many(rows(client.app_id), max_in_flight=64) as outcomes,
    ):
        async for outcome in outcomes:
            if outcome.error is None:
                accepted += 1
            else:
                failed[outcome.event.key] = outcome.error
    print(accepted, "accepted,", len(failed), "not")


anyio.run(main)
