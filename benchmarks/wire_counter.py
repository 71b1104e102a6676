"""A proxy in a process of its own that counts the bytes of both directions.

Says its port in the first line of output; each line of input is answered with the counts.
"""

from __future__ import annotations

import json
import sys

import anyio

from ensync.testing import FaultProxy


async def serve(target: str) -> None:
    async with FaultProxy(target) as proxy:
        print(json.dumps({"port": proxy.port}), flush=True)
        async for _ in anyio.wrap_file(sys.stdin):
            counts = proxy.statistics()
            answer = {"upstream": counts.bytes_upstream, "downstream": counts.bytes_downstream}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    anyio.run(serve, sys.argv[1])
