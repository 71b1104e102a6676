"""An attacker's connection, and how a message is spoilt."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import anyio.abc

from ensync.server.apps import App

__all__ = ["PATIENCE", "Attack", "Line", "Prey", "connected", "lied_to", "spoilt"]

PATIENCE = 20.0
"""Seconds that a door has for anything, on a busy machine."""

T = TypeVar("T", str, bytes)


@dataclass
class Prey:
    """The door that is attacked, and what attackers know of it.

    Attributes:
        port: Where it listens.
        app: Whom attackers connect as.
        stranger: An app that they may not send to, and that may do nothing itself.
        thrown: How many inputs were thrown at it, by kind of attack.
        answers: How often it said what.
    """

    port: int
    app: App
    stranger: App
    thrown: Counter[str] = field(default_factory=Counter[str])
    answers: Counter[str] = field(default_factory=Counter[str])


Attack = Callable[[random.Random, Prey, "list[Line]"], Coroutine[Any, Any, None]]
"""Says on new lines what a lot decides. The lines are there to be looked at afterwards."""


class Line(anyio.abc.ByteStream):
    """A connection to a door that remembers all that was said."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self.said: list[bytes] = []

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self._stream.extra_attributes

    async def receive(self, max_bytes: int = 65536) -> bytes:
        with anyio.fail_after(PATIENCE):
            return await self._stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        self.said.append(item)
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def throw(self, *inputs: bytes) -> None:
        """Says something in one go, whether the door still listens or not."""
        self.said.extend(inputs)
        with suppress(anyio.BrokenResourceError), anyio.fail_after(PATIENCE):
            await self._stream.send(b"".join(inputs))

    async def hang_up(self) -> bytes:
        """Says no more. The door must close too; returns what it said until then."""
        with suppress(anyio.BrokenResourceError, OSError):
            await self.send_eof()
        heard = bytearray()
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                heard += await self.receive()
        return bytes(heard)


@asynccontextmanager
async def connected(prey: Prey, lines: list[Line]) -> AsyncIterator[Line]:
    """Opens a connection, and adds it to those that were used."""
    async with await anyio.connect_tcp("127.0.0.1", prey.port) as stream:
        lines.append(Line(stream))
        yield lines[-1]


def spoilt(lot: random.Random, message: T, pieces: Sequence[T], most: int = 3) -> T:
    """A message with a few things cut out, doubled, or put in."""
    for _ in range(lot.randint(0, most)):
        start, end = sorted(lot.choices(range(len(message) + 1), k=2))
        part, empty = message[start:end], message[:0]
        middle = lot.choice([empty, lot.choice(pieces), part + part, lot.choice(pieces) + part])
        rest = empty if lot.random() < 0.1 else message[end:]
        message = message[:start] + middle + rest
    return message


def lied_to(lot: random.Random, message: bytes, pieces: Sequence[bytes]) -> bytes:
    """A message that is spoilt, and has bits turned over and wrong lengths in it."""
    data = bytearray(spoilt(lot, message, pieces))
    for _ in range(lot.randint(0, 3)):
        position = lot.randrange(len(data) + 1)
        if lot.random() < 0.7 and position < len(data):
            data[position] ^= 1 << lot.randrange(8)
        else:
            size = lot.choice([1, 2, 3, 4, 8])
            number = lot.choice([0, 1, 2 ** (8 * size) - 1, lot.getrandbits(8 * size)])
            data[position : position + size] = number.to_bytes(size, "big")
    return bytes(data)
