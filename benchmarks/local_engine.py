"""The local engine in a process of its own, to be measured against.

Says where it is in its first line of output. Commands come as lines of JSON on standard
input, and each is answered with one: ``["fill", NAME, COUNT, SIZE]`` puts events into a
queue as if they had been published, ``["stats"]`` counts. It ends when its input ends.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import anyio

from benchmarks.clients.payloads import make_payloads
from ensync.crypto import seal
from ensync.server.local import LocalEngine
from ensync.server.memory import MemoryStore
from ensync.server.store import NewEvent, QueueKey

RECIPIENTS = 50
# Backlogs of a million events are measured, several of them in one run.
ROOM = 16 << 30


async def serve() -> None:
    async with LocalEngine(store=MemoryStore(max_bytes=ROOM)) as engine:
        apps = [engine.create_app(f"app-{number}") for number in range(RECIPIENTS)]
        ready = {
            "url": engine.url,
            "websocket_url": engine.websocket_url,
            "app_key": apps[0].app_key,
            "secret_key": apps[0].secret_key,
            "recipients": [app.app_id for app in apps],
        }
        print(json.dumps(ready), flush=True)
        async for line in anyio.wrap_file(sys.stdin):
            print(json.dumps(await _answer(engine, apps[0].app_id, *json.loads(line))), flush=True)


async def _answer(engine: LocalEngine, app_id: str, command: str, *args: Any) -> dict[str, Any]:
    if command == "fill":
        await _fill(engine, app_id, *args)
        return {}
    return engine.statistics()._asdict()


async def _fill(engine: LocalEngine, app_id: str, name: str, count: int, size: int) -> None:
    queue = QueueKey(app_id, name)
    envelopes = [seal(json.dumps(payload).encode(), app_id) for payload in make_payloads(size)]
    for number in range(count):
        payload = envelopes[number % len(envelopes)]
        await engine.broker.store.append(NewEvent(queue, app_id, payload, "{}"))


if __name__ == "__main__":
    anyio.run(serve)
