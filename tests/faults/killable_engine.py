"""An engine in a process of its own: ``python killable_engine.py DATA_FILE BACKEND``.

Its first line is JSON that tells its URL, as that of ``ensync serve --json`` does.
"""

from __future__ import annotations

import json
import sys

import anyio

from ensync.server.local import LocalEngine


async def main(data: str) -> None:
    async with LocalEngine(data=data) as engine:
        print(json.dumps({"url": engine.url}), flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], backend=sys.argv[2])
