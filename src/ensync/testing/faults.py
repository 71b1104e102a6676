"""Faults inside the local engine, which no network in between could make."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Mapping
from weakref import WeakSet

from ensync.errors import EnSyncValidationError
from ensync.server.hooks import DoorCall, DoorConnection, DoorFault, DoorHooks
from ensync.server.refusal import Reason
from ensync.server.store import StoredEvent
from ensync.testing import acts
from ensync.testing.open_streams import OpenStreams
from ensync.testing.random_faults import RandomFaultKind, random_menu
from ensync.testing.rules import (
    Act,
    FaultRule,
    Match,
    Method,
    Point,
    RandomFaults,
    ScriptedFault,
    checked,
)
from ensync.testing.watch import Watch

__all__ = ["Faults"]

TEXT = "injected fault"


class Faults(DoorHooks):
    """Makes a LocalEngine misbehave, on request or at random.

        faults = Faults()
        async with LocalEngine(hooks=faults) as engine:
            faults.drop_reply("publish")         # the next one is stored, and not answered
            ...

    Each method that is about requests takes the kind of request: ``"connect"``,
    ``"heartbeat"``, ``"publish"``, ``"subscribe"``, ``"unsubscribe"``,
    ``"acknowledge"``, ``"rollback"``, ``"defer"``, ``"discard"``, ``"replay"``,
    ``"pause"``, ``"continue"``. Most take ``"delivery"`` too: the sending of one event
    to a subscriber. They happen to the next ``count`` of these (None: to all), or only
    to those with this ``event_name``, and give a FaultRule to wait for, or to take it
    back.

    A fault comes *before handling* a request, when the engine has done nothing, or
    *after the commit*: what was asked is done and kept, and only the client does not
    know. Several faults for one call happen one after the other, in the order in which
    they were asked for.
    """

    def __init__(self) -> None:
        self._rules: list[FaultRule] = []
        self._connections: WeakSet[DoorConnection] = WeakSet()
        self._streams = OpenStreams()
        self._calls: Counter[str] = Counter()
        self._happened: Counter[str] = Counter()
        self._watch = Watch()

    def __repr__(self) -> str:
        waiting = [rule for rule in self._rules if not rule.is_over]
        return f"<Faults: {waiting or 'none'}>"

    # What went on

    @property
    def happened(self) -> Mapping[str, int]:
        """How many faults have happened, by the name of the method that asked for them."""
        return dict(self._happened)

    @property
    def streams(self) -> int:
        """How many streams of deliveries are open, over gRPC."""
        return len(self._streams)

    def calls(self, method: Method) -> int:
        """How many requests of a kind were read, or events were about to be sent."""
        return self._calls[checked(method)]

    async def wait_calls(self, method: Method, total: int) -> None:
        """Waits until ``calls(method)`` is so many, or more."""
        checked(method)
        await self._watch.until(lambda: self._calls[method] >= total)

    async def wait_streams(self, count: int) -> None:
        """Waits until exactly so many streams of deliveries are open, over gRPC."""
        await self._streams.watch.until(lambda: len(self._streams) == count)

    def heal(self) -> None:
        """Takes back all faults, and lets go of all calls that they hold up."""
        for rule in self._rules:
            rule.cancel()

    # Faults of requests

    def fail_next(
        self,
        method: Method,
        *,
        status: int | str = "UNAVAILABLE",
        text: str = TEXT,
        after_commit: bool = False,
        count: int | None = 1,
        event_name: str | None = None,
    ) -> FaultRule:
        """Ends the call by a gRPC status, by number or by name.

        Of a subscription, ``"delivery"`` ends the stream in place of the next event.
        Over WebSocket the answer is ``-FAIL:`` with the text.

        Raises:
            EnSyncValidationError: There is no such status.
        """
        fault = DoorFault(text, status=acts.status_name(status))
        match = Match.calls(method, after_commit, event_name)
        return self._add("fail_next", match, acts.fail(fault), count)

    def refuse_next(
        self,
        method: Method,
        text: str = "refused by an injected fault",
        *,
        reason: Reason = Reason.INVALID,
        after_commit: bool = False,
        count: int | None = 1,
        event_name: str | None = None,
    ) -> FaultRule:
        """Answers ``success = false`` with a text, as engines usually refuse."""
        match = Match.calls(method, after_commit, event_name)
        act = acts.refuse(reason, text)
        return self._add("refuse_next", match, act, count)

    def drop_request(
        self, method: Method, *, count: int | None = 1, event_name: str | None = None
    ) -> FaultRule:
        """Does nothing about a request, and never answers it.

        Over WebSocket, where replies have no ids, the next reply is taken for this one.
        To lose an event on its way, use ``drop_delivery``.
        """
        match = _requests(method, False, event_name)
        return self._add("drop_request", match, acts.fail(DoorFault(TEXT, silent=True)), count)

    def drop_reply(
        self, method: Method, *, count: int | None = 1, event_name: str | None = None
    ) -> FaultRule:
        """Does what is asked, and never answers it.

        Over WebSocket, where replies have no ids, the next reply is taken for this one.
        To lose an event on its way, use ``drop_delivery``.
        """
        match = _requests(method, True, event_name)
        return self._add("drop_reply", match, acts.fail(DoorFault(TEXT, silent=True)), count)

    def swallow_heartbeats(self, count: int | None = None) -> FaultRule:
        """Never answers heartbeats, while everything else goes on."""
        return self.drop_request("heartbeat", count=count)

    def delay(
        self,
        method: Method,
        seconds: float,
        *,
        after_commit: bool = False,
        count: int | None = 1,
        event_name: str | None = None,
    ) -> FaultRule:
        """Waits before handling a request, before answering it, or before sending an event."""
        if seconds < 0:
            raise EnSyncValidationError(f"a delay of {seconds!r} seconds: it can't be negative")
        match = Match.calls(method, after_commit, event_name)
        return self._add("delay", match, acts.hold(seconds), count)

    def hold(
        self,
        method: Method,
        *,
        after_commit: bool = False,
        count: int | None = 1,
        event_name: str | None = None,
    ) -> FaultRule:
        """Keeps a call waiting until the rule's ``cancel()``.

        ``await rule.wait()`` returns when a call is held up.
        """
        match = Match.calls(method, after_commit, event_name)
        return self._add("hold", match, acts.hold(math.inf), count)

    def reset_next(
        self,
        method: Method,
        *,
        after_commit: bool = False,
        count: int | None = 1,
        event_name: str | None = None,
    ) -> FaultRule:
        """Resets the call's HTTP/2 stream, without any status."""
        act = acts.fail(DoorFault(TEXT, reset=True))
        match = Match.calls(method, after_commit, event_name)
        return self._add("reset_next", match, act, count)

    def abort_next(
        self,
        method: Method,
        *,
        after_commit: bool = False,
        count: int | None = 1,
        event_name: str | None = None,
    ) -> FaultRule:
        """Cuts the connection on which a call comes, before handling it or after the commit."""
        match = Match.calls(method, after_commit, event_name)
        return self._add("abort_next", match, acts.abort(), count)

    # Faults of deliveries

    def drop_delivery(self, *, count: int | None = 1, event_name: str | None = None) -> FaultRule:
        """Loses an event on its way. It stays in the client's hands until its stream ends."""
        match = Match(Point.DELIVERY, "delivery", event_name)
        return self._add("drop_delivery", match, acts.send_copies(0), count)

    def duplicate_delivery(
        self, *, copies: int = 2, count: int | None = 1, event_name: str | None = None
    ) -> FaultRule:
        """Sends an event more than once, at the same time."""
        match = Match(Point.DELIVERY, "delivery", event_name)
        return self._add("duplicate_delivery", match, acts.send_copies(copies), count)

    def end_streams(
        self,
        status: int | str = "UNAVAILABLE",
        *,
        text: str = TEXT,
        reset: bool = False,
        event_name: str | None = None,
    ) -> int:
        """Ends the open streams of deliveries, over gRPC, while their connection goes on.

        A WebSocket has no stream for each subscription; use ``goaway`` or
        ``abort_connections``.

        Args:
            status: The gRPC status to end with, by number or by name; 0 is a normal end.
            text: What the status says.
            reset: Whether to reset the streams instead, without any status.
            event_name: Only the streams of subscriptions to this name.

        Returns:
            How many streams there were to end.

        Raises:
            EnSyncValidationError: There is no such status.
        """
        name = acts.status_name(status)
        ended = self._streams.end(event_name, DoorFault(text, status=name, reset=reset))
        self._happened["end_streams"] += ended
        return ended

    # Faults of connections

    def goaway(self, *, error: bool = False) -> None:
        """Says on every connection that it is about to end, as engines do when they restart.

        Without ``error``, calls under way are still finished: HTTP/2's GOAWAY; a
        WebSocket is closed with code 1001. With it, the connection ends there:
        GOAWAY with INTERNAL_ERROR, or code 1011.
        """
        self._happened["goaway"] += 1
        for connection in list(self._connections):
            connection.go_away(error=error)

    def abort_connections(self) -> None:
        """Cuts all connections at once."""
        self._happened["abort_connections"] += 1
        for connection in list(self._connections):
            connection.abort()

    def freeze_connections(self) -> None:
        """Makes a black hole of each connection: it stays open, and nothing moves any more."""
        self._happened["freeze_connections"] += 1
        for connection in list(self._connections):
            connection.freeze()

    # Random faults

    def random(
        self,
        seed: int,
        rate: float,
        *,
        kinds: Collection[RandomFaultKind] | None = None,
        longest_delay: float = 0.05,
    ) -> FaultRule:
        """Has faults happen at random, until the rule's ``cancel()`` or ``heal()``.

        A client that recovers as it should loses nothing by any of the default kinds.
        Over WebSocket, some of them befall the whole connection; see RandomFaultKind.

        Args:
            seed: Decides what happens, as far as the order of the calls is the same.
            rate: The probability of a fault at each request, reply and delivery: 0 to 1.
            kinds: What may happen; by default everything but ``"drop_delivery"``, which
                keeps an event from its client until the stream ends.
            longest_delay: For the kind ``"delay"``, in seconds.

        Raises:
            EnSyncValidationError: The rate is not between 0 and 1, or there is no such
                kind.
        """
        if not 0 <= rate <= 1:
            raise EnSyncValidationError(f"rate={rate!r}: it must be between 0 and 1")
        lot = random.Random(seed)  # noqa: S311 - a seed is to repeat it
        menu = random_menu(lot, kinds, longest_delay)
        return self._enter(RandomFaults(self._happened, lot, rate, menu))

    # Called by the engine's doors

    async def before_handling(self, call: DoorCall) -> None:
        """Has the faults of requests happen."""
        self._connections.add(call.connection)
        self._note(call.method)
        await self._happen(Point.REQUEST, call)

    async def before_reply(self, call: DoorCall) -> None:
        """Has the faults of replies happen."""
        await self._happen(Point.REPLY, call)

    async def before_delivery(self, call: DoorCall, stored: StoredEvent) -> int:
        """Has the faults of deliveries happen."""
        self._note("delivery")
        event_name = stored.event.queue.event_name
        return await self._happen(
            Point.DELIVERY, call._replace(method="delivery", event_name=event_name)
        )

    async def during_stream(self, call: DoorCall) -> None:
        """Ends a stream when that is asked for."""
        await self._streams.stay_open(call.event_name)

    # Inside

    def _note(self, method: str) -> None:
        self._calls[method] += 1
        self._watch.notify()

    async def _happen(self, point: Point, call: DoorCall) -> int:
        copies = 1
        for rule in list(self._rules):
            if rule.wants(point, call):
                result = await rule.happen(point, call)
                copies = copies if result is None else result
        return copies

    def _add(self, kind: str, match: Match, act: Act, count: int | None) -> FaultRule:
        return self._enter(ScriptedFault(self._happened, kind, match, act, count))

    def _enter(self, rule: FaultRule) -> FaultRule:
        self._rules = [*(old for old in self._rules if not old.is_over), rule]
        return rule


def _requests(method: Method, after_commit: bool, event_name: str | None) -> Match:
    if method == "delivery":
        raise EnSyncValidationError("method='delivery': to lose an event, use drop_delivery()")
    return Match.calls(method, after_commit, event_name)
