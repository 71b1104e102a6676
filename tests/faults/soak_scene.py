"""What everybody in a soak shares: the books, the apps, and when to stop."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio

import ensync
from ensync.server.apps import App
from ensync.transports.grpc_connection import Http2
from tests.faults.soak_conditions import Conditions
from tests.faults.soak_ledger import Ledger

__all__ = ["Oops", "Scene"]

ONE_RECIPIENT = ("soak/loop", "soak/hand", "soak/interrupted", "soak/paused")
SEVERAL_RECIPIENTS = ("soak/both", "soak/scopes", "soak/handlers")

LONGEST_SMALL_PAYLOAD = 200
LONGEST_PAYLOAD = 100_000  # as hexadecimal digits it is twice as long
ONE_IS_LARGE_IN = 100

HEARTBEAT = 0.7
REQUEST_TIMEOUT = 1.5
CONNECT_TIMEOUT = 3.0
DRAIN_TIMEOUT = 2.0
RECONNECT = ensync.Reconnect(initial=0.02, maximum=0.3, max_attempts=None, healthy_after=1.0)


class Oops(Exception):
    """What a program's own code raises in the middle of an event."""


class Scene:
    """One soak's people and things.

    Attributes:
        conditions: What the seed chose.
        names: What events are published under.
        publishing: Whether more is to be published.
        working: Whether clients are to connect again when they have left.
        calm: Whether the faults are over, so that everything has to come right.
        faults: How often what was done on purpose.
        errors: What programs were told, by class and code.
        error_texts: One text of each kind.
        slowest_leave: How long it took at most to leave a client's block, in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        conditions: Conditions,
        apps: tuple[App, App, App],
        http2: Http2,
    ) -> None:
        self.ledger = ledger
        self.conditions = conditions
        self.shop, self.billing, self.till = apps
        self.http2: Http2 = http2
        self.more_names = [f"soak/more/{number}" for number in range(conditions.more_names)]
        self.names = [*ONE_RECIPIENT, *SEVERAL_RECIPIENTS, *self.more_names]
        self.publishing = self.working = True
        self.calm = False
        self.faults: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.error_texts: dict[str, str] = {}
        self.reconnects = 0
        self.slowest_leave = 0.0

    def recipients(self, name: str, lot: random.Random) -> list[str]:
        """Whom an event of this name goes to."""
        shop, billing = self.shop.app_id, self.billing.app_id
        if name not in SEVERAL_RECIPIENTS:
            return [shop]
        return lot.choice([[shop], [billing], [shop, billing]])

    def payload_of(self, number: int) -> dict[str, Any]:
        """What an event with this number says: from nothing much to a few hundred bytes.

        Where payloads may be large, one in a hundred is of up to 200 KB.
        """
        lot, size = random.Random(number), number % LONGEST_SMALL_PAYLOAD
        if self.conditions.large_payloads and number % ONE_IS_LARGE_IN == 0:
            size = lot.randint(0, LONGEST_PAYLOAD)
        return {"number": number, "text": lot.randbytes(size).hex()}

    @asynccontextmanager
    async def client(self, app: App, url: str) -> AsyncIterator[ensync.EnSyncClient]:
        """A client that is quick to notice what is wrong."""
        left = anyio.current_time()
        async with ensync.connect(
            url,
            app_key=app.app_key,
            app_secret_key=app.secret_key,
            heartbeat_interval=HEARTBEAT,
            request_timeout=REQUEST_TIMEOUT,
            connect_timeout=CONNECT_TIMEOUT,
            drain_timeout=DRAIN_TIMEOUT,
            reconnect=RECONNECT,
            http2=self.http2,
        ) as client:
            try:
                yield client
            finally:
                self.reconnects += client._session.reconnects
                left = anyio.current_time()
        self.slowest_leave = max(self.slowest_leave, anyio.current_time() - left)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Counts what the library tells a program, and what a program does wrong."""
        try:
            yield
        except* ensync.EnSyncError as group:
            for error in _leaves(group):
                kind = f"{type(error).__name__} {error.code}"
                self.errors[kind] += 1
                self.error_texts[kind] = str(error)
        except* Oops:
            self.errors["a program's own"] += 1


def _leaves(group: ExceptionGroup[ensync.EnSyncError]) -> Iterator[ensync.EnSyncError]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
