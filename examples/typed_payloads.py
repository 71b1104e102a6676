"""Payloads as dataclasses, with a publisher that sends something else too."""

from dataclasses import dataclass

import anyio

import ensync


@dataclass
class Order:
    order_id: int
    total: float


async def main() -> None:
    async with ensync.connect() as client:
        await client.publish("examples/orders", [client.app_id], {"not": "an order"})
        await client.publish("examples/orders", [client.app_id], Order(7, 12.5))
        async with client.subscribe(
            "examples/orders", payload_type=Order, on_invalid="discard"
        ) as orders:
            async for event in orders:
                print(event.payload.order_id, event.payload.total)
                break
        print(orders.statistics().discarded, "discarded")


anyio.run(main)
