"""A TCP proxy on loopback that does to a connection what networks do."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Literal, Self, TypeAlias

import anyio
import anyio.abc

from ensync.errors import EnSyncValidationError
from ensync.scopes import background_tasks
from ensync.testing.changes import Changes
from ensync.testing.connection import Connection
from ensync.testing.listener import Listener
from ensync.testing.proxy_statistics import ProxyStatistics
from ensync.testing.target import Target
from ensync.testing.wire import Cut, Direction, Slicer, Wire

__all__ = ["CutKind", "FaultProxy", "ProxyStatistics"]

CutKind: TypeAlias = Literal["reset", "close", "stall", "black_hole"]
"""How a connection ends at a cut; see ``FaultProxy.cut_after``."""

NOT_RUNNING = "this FaultProxy is not running: use it inside its async with"


class FaultProxy(anyio.AsyncContextManagerMixin):
    """Stands between clients and an engine, and breaks their connections on request.

        async with LocalEngine() as engine, FaultProxy(engine.url) as proxy:
            async with ensync.connect(proxy.url, app_key=...) as client:
                proxy.reset()
                ...  # the client reconnects, through the proxy

    It runs on asyncio and on trio, listens on a free port of 127.0.0.1 and forwards
    every connection to the target; TLS passes through it unopened. Each fault is a
    plain method that takes effect at once, on the connections that are open and,
    where it makes sense, on new ones. Faults add up until ``heal()``. Those that take
    a ``direction`` work on ``"upstream"`` (from the client to the engine),
    ``"downstream"`` (back), or on both when it is left out.

    Times are those of anyio's clock, so tests under trio's ``MockClock`` wait for
    nothing. A proxy holds at most half a megabyte per connection and direction; to
    fill up the senders' own buffers sooner, give a small ``buffer_size``.

    Attributes:
        port: The port that it listens on, once it is entered.
    """

    def __init__(
        self, target: str | tuple[str, int], *, port: int = 0, buffer_size: int | None = None
    ) -> None:
        """Prepares a proxy; it listens from entering the block to leaving it.

        Args:
            target: Where to forward to: a URL with a port, such as ``engine.url`` or
                ``engine.websocket_url``, a ``"host:port"``, or a pair of both.
            port: The port to listen on; 0 takes a free one.
            buffer_size: Size of the proxy's socket buffers, in bytes. None leaves
                them to the operating system, which may hold several megabytes.

        Raises:
            EnSyncValidationError: The target has no host or no port.
        """
        self._target = Target.parse(target)
        self.port = port
        self._buffer_size = buffer_size
        self._wires: Mapping[Direction, Wire] = {"upstream": Wire(), "downstream": Wire()}
        self._connections: set[Connection] = set()
        self._arrivals = Changes()
        self._accepted_total = 0
        self._resets_new = False
        self._listener: Listener | None = None

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        self._listener = Listener("127.0.0.1", self.port)
        self.port = self._listener.port
        try:
            self._listener.open()
            async with background_tasks() as tasks:
                tasks.start_soon(self._accept, self._listener, tasks, name="ensync fault proxy")
                yield self
        finally:
            self._listener.close()
            self._listener = None

    def __repr__(self) -> str:
        states = [
            f"{direction} {fault}"
            for direction, wire in self._wires.items()
            for fault in wire.faults()
        ]
        state = ", ".join([f"{self.connections} connections", *states])
        place = f"127.0.0.1:{self.port} to {self._target.host}:{self._target.port}"
        return f"<FaultProxy {place}: {state}>"

    # Where it is, and what it has seen

    @property
    def url(self) -> str:
        """The target's URL with this proxy's address in place of the target's.

        Raises:
            RuntimeError: The proxy has no port yet, because it was not entered.
        """
        if self.port == 0:
            raise RuntimeError(NOT_RUNNING)
        return self._target.url_at("127.0.0.1", self.port)

    @property
    def connections(self) -> int:
        """How many connections of clients are open."""
        return len(self._connections)

    @property
    def accepted_total(self) -> int:
        """How many connections were accepted since the start."""
        return self._accepted_total

    def bytes_total(self, direction: Direction) -> int:
        """How many bytes were taken from the senders of a direction since the start."""
        return self._wire(direction).read_total

    def statistics(self) -> ProxyStatistics:
        """Returns all counters at this moment."""
        upstream, downstream = self._wire("upstream"), self._wire("downstream")
        return ProxyStatistics(
            connections=self.connections,
            accepted_total=self.accepted_total,
            bytes_upstream=upstream.read_total,
            bytes_downstream=downstream.read_total,
            dropped_upstream=upstream.dropped_total,
            dropped_downstream=downstream.dropped_total,
        )

    async def wait_connections(self, count: int) -> None:
        """Waits until exactly so many connections are open."""
        await self._arrivals.until(lambda: self.connections == count)

    async def wait_accepted(self, total: int) -> None:
        """Waits until so many connections, or more, were accepted since the start."""
        await self._arrivals.until(lambda: self._accepted_total >= total)

    async def wait_bytes(self, direction: Direction, total: int) -> None:
        """Waits until so many bytes, or more, were taken in a direction since the start.

        For a number from now on, add ``bytes_total(direction)`` as it was before. Bytes
        are taken also while they are dropped or delayed, and not while they are stalled.
        """
        wire = self._wire(direction)
        await wire.progress.until(lambda: wire.read_total >= total)

    def retarget(self, target: str | tuple[str, int]) -> None:
        """Forwards new connections to another place, such as a restarted engine.

        The connections that are open stay as they are, and so does ``url``.

        Raises:
            EnSyncValidationError: The target has no host or no port.
        """
        self._target = Target.parse(target)

    # Faults

    def heal(self) -> None:
        """Ends all faults, also those that were announced and have not happened yet.

        Connections that were stalled, delayed or throttled go on where they were.
        What lost bytes in a black hole stays one: no later byte could make sense to
        its receiver. Only new connections are whole then.
        """
        self._resets_new = False
        if self._listener is not None:
            self._listener.open()
        for connection in self._connections:
            connection.dropping.clear()
        for wire in self._wires.values():
            wire.heal()

    def stall(self, direction: Direction | None = None) -> None:
        """Stops moving bytes, and keeps the connections open.

        Nothing is read, so the senders' buffers fill up, as on a link that is down.
        After ``heal()`` everything arrives.
        """
        for wire in self._changing(direction):
            wire.stalled = True

    def black_hole(
        self, direction: Direction | None = None, *, connection: int | None = None
    ) -> None:
        """Takes all bytes and passes none on; closing and resetting go unheard too.

        Args:
            direction: Which direction; both by default.
            connection: The number of one connection, counted from 1 in the order in which
                they were accepted: the others go on. All by default, also new ones.

        Raises:
            EnSyncValidationError: No connection of this number is open.
        """
        if connection is None:
            for wire in self._changing(direction):
                wire.dropping = True
            return
        chosen = [each for each in self._connections if each.number == connection]
        _check(bool(chosen), f"connection={connection!r}: there is none of this number")
        for each in chosen:
            each.dropping.update(self._wires if direction is None else [direction])
        for _ in self._changing(direction):
            """What waits there is told."""

    def delay(self, seconds: float, direction: Direction | None = None) -> None:
        """Adds a latency to each direction: twice that to a round trip.

        Bytes under way are delayed too, and stay in order. 0 ends the delay.

        Raises:
            EnSyncValidationError: The time is negative.
        """
        _check(seconds >= 0, f"a delay of {seconds!r} seconds: it can't be negative")
        for wire in self._changing(direction):
            wire.latency = seconds

    def throttle(self, bytes_per_second: float | None, direction: Direction | None = None) -> None:
        """Limits the bandwidth of each connection in each direction.

        None ends the limit.

        Raises:
            EnSyncValidationError: The rate is not above 0; to stop all, use ``stall()``.
        """
        valid = bytes_per_second is None or bytes_per_second > 0
        _check(valid, f"a rate of {bytes_per_second!r} bytes/s: it must be above 0")
        for wire in self._changing(direction):
            wire.rate = bytes_per_second

    def slicer(
        self,
        seed: int,
        *,
        max_size: int = 16,
        pause: float = 0.0,
        direction: Direction | None = None,
    ) -> None:
        """Passes data on in pieces of random sizes, as a slow path may.

        Args:
            seed: Decides about the sizes.
            max_size: The largest piece, in bytes.
            pause: Time after each piece, in seconds. Without one, a receiver in
                another process may find several pieces at once.
            direction: Which direction; both by default.

        Raises:
            EnSyncValidationError: ``max_size`` is below 1, or ``pause`` negative.
        """
        _check(max_size >= 1, f"max_size={max_size!r}: it must be 1 or more")
        _check(pause >= 0, f"pause={pause!r}: it can't be negative")
        for wire in self._changing(direction):
            # One of its own for each direction, so that what one carries can't sway the other.
            wire.slicer = Slicer(random.Random(seed), max_size, pause)  # noqa: S311

    def corrupt_next(self, direction: Direction = "downstream") -> None:
        """Flips every bit of the next chunk that passes: the receiver gets a bad frame."""
        for wire in self._changing(direction):
            wire.corrupting = True

    def cut_after(
        self, n_bytes: int, direction: Direction, *, how: CutKind = "reset"
    ) -> anyio.Event:
        """Cuts a connection in the middle of what it carries.

        So many further bytes pass in the given direction, counted over all connections;
        then the connection that carried the last one is cut. 0 cuts in place of the next
        byte. It happens once; a second call replaces the first.

        Args:
            n_bytes: How many bytes still pass.
            direction: Where they are counted.
            how: ``"reset"`` or ``"close"`` that connection, or ``"stall"`` or
                ``"black_hole"`` everything from there on, as the methods of these names.

        Returns:
            An event that is set when it has happened.

        Raises:
            EnSyncValidationError: The number is negative, or ``how`` is none of these.
        """
        _check(n_bytes >= 0, f"n_bytes={n_bytes!r}: it can't be negative")
        acts: dict[str, Callable[[Connection], None]] = {
            "reset": Connection.reset,
            "close": Connection.close,
            "stall": lambda _: self.stall(),
            "black_hole": lambda _: self.black_hole(),
        }
        _check(how in acts, f"how={how!r}: accepted are {', '.join(acts)}")
        cut = Cut(n_bytes, acts[how], anyio.Event())
        for wire in self._changing(direction):
            wire.cut = cut
        return cut.done

    def truncate_after(self, n_bytes: int, direction: Direction) -> anyio.Event:
        """Closes a connection in an orderly way in the middle of what it carries.

        The same as ``cut_after(n_bytes, direction, how="close")``.
        """
        return self.cut_after(n_bytes, direction, how="close")

    def reset(self) -> None:
        """Ends all open connections by a reset (RST), on both sides. New ones are served."""
        for connection in self._connections:
            connection.reset()

    def close(self) -> None:
        """Ends all open connections in an orderly way (FIN), on both sides.

        What is still sent over them is dropped. They count as open until both ends
        have closed them, too. New ones are served.
        """
        for connection in self._connections:
            connection.close()
        self._notify_wires()

    def half_close(self, direction: Direction) -> None:
        """Tells the receivers of one direction that nothing more will come (FIN).

        The other direction goes on.
        """
        self._wire(direction)
        for connection in self._connections:
            connection.finish(direction)
        self._notify_wires()

    def refuse(self) -> None:
        """Refuses new connections, as if nothing listened there. Open ones go on."""
        self._running().refuse()

    def reset_new(self) -> None:
        """Accepts new connections and resets each at once. Open ones go on."""
        self._resets_new = True

    def hang_new(self) -> None:
        """Leaves new connections unanswered: connecting neither succeeds nor fails.

        After ``heal()``, the operating system's next attempt succeeds. It needs Linux's
        way of treating a full queue.
        """
        self._running().hang()

    # Inside

    def _running(self) -> Listener:
        if self._listener is None:
            raise RuntimeError(NOT_RUNNING)
        return self._listener

    def _wire(self, direction: Direction) -> Wire:
        accepted = ", ".join(self._wires)
        _check(direction in self._wires, f"direction={direction!r}: accepted are {accepted}")
        return self._wires[direction]

    def _changing(self, direction: Direction | None) -> Iterator[Wire]:
        wires = self._wires.values() if direction is None else [self._wire(direction)]
        for wire in wires:
            yield wire
            wire.changes.notify()

    def _notify_wires(self) -> None:
        for wire in self._wires.values():
            wire.changes.notify()

    async def _accept(self, listener: Listener, tasks: anyio.abc.TaskGroup) -> None:
        while True:
            client = await listener.accept()
            self._accepted_total += 1
            connection = Connection(client, self._wires, self._buffer_size, self._accepted_total)
            self._connections.add(connection)
            self._arrivals.notify()
            if self._resets_new:
                connection.reset()
            tasks.start_soon(self._serve, connection, name="ensync fault proxy, connection")

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.run(self._target.host, self._target.port)
        finally:
            self._connections.discard(connection)
            self._arrivals.notify()


def _check(valid: bool, message: str) -> None:
    if not valid:
        raise EnSyncValidationError(message)
