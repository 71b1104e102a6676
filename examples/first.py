"""Publishes an event to its own app, and reads it."""

import anyio

import ensync


async def main() -> None:
    async with ensync.connect() as client:  # $ENSYNC_URL, $ENSYNC_APP_KEY, $ENSYNC_SECRET_KEY
        receipt = await client.publish(
            "examples/first", [client.app_id], {"order_id": "order-123"}, {"source": "web"}
        )
        print("published", receipt)
        async with client.subscribe("examples/first") as subscription:
            async for event in subscription:
                print(event.payload, event.metadata)
                break


anyio.run(main, backend="trio")  # or "asyncio": same program
