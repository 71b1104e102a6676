"""One app asks, another one answers; a local engine in this process is between them."""

import anyio

import ensync
from ensync.server.local import LocalEngine


async def answer(url: str, app_key: str, secret_key: str, ready: anyio.Event) -> None:
    async with (
        ensync.connect(url, app_key=app_key, app_secret_key=secret_key) as client,
        client.subscribe("prices/ask") as questions,
    ):
        ready.set()
        async for question in questions:
            await question.reply({"price": 12.5}, {"question": question.idem})


async def main() -> None:
    async with LocalEngine() as engine, anyio.create_task_group() as tasks:
        shop, prices = engine.create_app("shop"), engine.create_app("prices")
        ready = anyio.Event()
        tasks.start_soon(answer, engine.url, prices.app_key, prices.secret_key, ready)
        await ready.wait()
        async with (
            ensync.connect(
                engine.url, app_key=shop.app_key, app_secret_key=shop.secret_key
            ) as client,
            client.subscribe("prices/ask") as replies,
        ):
            receipt = await client.publish("prices/ask", [prices.app_id], {"product": "chair"})
            reply = await anext(aiter(replies))
            print(reply.payload, "answers", reply.metadata["question"] == receipt.event_id)
        tasks.cancel_scope.cancel()


anyio.run(main)
