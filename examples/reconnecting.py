"""An engine restarts; the subscription goes on by itself."""

import anyio

import ensync
from ensync.testing import RestartableEngine


async def show_states(client: ensync.EnSyncClient) -> None:
    async for state in client.states():
        print("state:", state)


async def main() -> None:
    async with RestartableEngine() as engine:
        app = engine.create_app("shop")
        async with (
            ensync.connect(
                engine.url,
                app_key=app.app_key,
                app_secret_key=app.secret_key,
                reconnect=ensync.Reconnect(initial=0.05),
            ) as client,
            anyio.create_task_group() as tasks,
            client.subscribe("orders") as orders,
        ):
            tasks.start_soon(show_states, client)
            await client.publish("orders", [client.app_id], {"number": 1})
            async for event in orders:
                print("got", event.payload)
                if event.payload == {"number": 2}:
                    break
                await engine.restart(crash=True)
                await client.publish("orders", [client.app_id], {"number": 2})
            tasks.cancel_scope.cancel()


anyio.run(main)
