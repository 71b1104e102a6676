"""A program that publishes and receives an event by grpcio, with each of its codings.

It is given the messages of a publish and of a subscription in hex, and for each coding a
port. What it prints are the replies and the events, as JSON.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

grpc: Any = importlib.import_module("grpc")  # it has no types

SERVICE = "/ensync.EnSyncService/"


def answers(port: str, compression: Any, publish: bytes, subscribe: bytes) -> tuple[str, str]:
    with grpc.insecure_channel(
        f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)], compression=compression
    ) as channel:
        reply = channel.unary_unary(SERVICE + "PublishEvent")(publish, timeout=10)
        events = channel.unary_stream(SERVICE + "Subscribe")(subscribe, timeout=10)
        event = next(events)
        events.cancel()
        return reply.hex(), event.hex()


if __name__ == "__main__":
    messages = [bytes.fromhex(text) for text in sys.argv[1:3]]
    pairs = zip(sys.argv[3:], grpc.Compression, strict=True)
    print(json.dumps({each.name: answers(port, each, *messages) for port, each in pairs}))
