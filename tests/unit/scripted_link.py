"""A transport without sockets: a link that waits to be told, and an engine that answers."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import anyio

from ensync.errors import EnSyncConnectionError, EnSyncError
from ensync.transports.base import (
    Acknowledge,
    Call,
    Carrier,
    Continue,
    Delivery,
    DeliveryCallback,
    EndCallback,
    Heartbeat,
    Identity,
    Link,
    LostCallback,
    Outcome,
    Pause,
    Progress,
    Publish,
    ReplyCallback,
    Request,
    Stream,
    StreamEnd,
    StreamEnded,
    Unsubscribe,
)

__all__ = [
    "AUTHENTICATE",
    "CLOSE",
    "DONE",
    "LOST",
    "SUBSCRIBE",
    "UNHEARD",
    "EngineLink",
    "Held",
    "ScriptedCarrier",
    "ScriptedEngine",
    "ScriptedLink",
    "SentCall",
]

DONE = Outcome(True)
LOST = EnSyncConnectionError("the link was lost")
UNHEARD = EnSyncConnectionError("refused unheard")
"""A reply of an engine that has done nothing about the request."""

# What an engine can be told not to answer: a kind of request, or one of these.
Held: TypeAlias = "type[Request] | str"
AUTHENTICATE, SUBSCRIBE, CLOSE = "authenticate", "subscribe", "close"


class SentCall(Call):
    def __init__(self, link: ScriptedLink, request: Request, on_reply: ReplyCallback) -> None:
        self.sent = True
        self.link, self.request, self.on_reply = link, request, on_reply

    def cancel(self) -> None:
        if self in self.link.calls:
            self.link.calls.remove(self)
            if self.link.cancelling_ends_it:
                self.link.answer_all(LOST)


class ScriptedCarrier(Carrier):
    """Moves its bytes, and is lost, as a test says."""

    def __init__(self) -> None:
        self.now = Progress(0, 0, 0)
        self.error: EnSyncConnectionError | None = None

    def progress(self) -> Progress:
        return self.now

    def lose(self, error: EnSyncConnectionError) -> None:
        self.error = error


class ScriptedLink(Link):
    """Keeps what is sent until it is told to answer.

    Attributes:
        places: How many acknowledgements it takes at a time.
        beats: The carriers that heartbeats were sent over.
    """

    def __init__(self, *, cancelling_ends_it: bool = False) -> None:
        self.calls: list[SentCall] = []
        self.places = 1_000
        self.carriers_now: list[ScriptedCarrier] = [ScriptedCarrier()]
        self.beats: list[Carrier] = []
        self.cancelling_ends_it = cancelling_ends_it

    @property
    def idems(self) -> list[str]:
        requests = [call.request for call in self.calls]
        return [request.idem for request in requests if isinstance(request, Acknowledge)]

    def send(self, request: Request, on_reply: ReplyCallback) -> Call:
        call = SentCall(self, request, on_reply)
        self.calls.append(call)
        return call

    @property
    def room(self) -> int:
        return self.places - len(self.idems)

    @property
    def carriers(self) -> Sequence[Carrier]:
        return self.carriers_now

    def beat(self, carrier: Carrier, on_reply: ReplyCallback) -> Call:
        self.beats.append(carrier)
        return self.send(Heartbeat(), on_reply)

    def answer(self, answer: Outcome | EnSyncError) -> None:
        self.calls.pop(0).on_reply(answer)

    def answer_all(self, answer: Outcome | EnSyncError) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call.on_reply(answer)

    async def authenticate(self, app_key: str) -> Identity:
        raise NotImplementedError

    async def subscribe(
        self, event_name: str, on_delivery: DeliveryCallback, on_end: EndCallback
    ) -> Stream:
        raise NotImplementedError

    def abort(self, error: EnSyncConnectionError) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


class ScriptedStream(Stream):
    def __init__(
        self, link: EngineLink, name: str, on_delivery: DeliveryCallback, on_end: EndCallback
    ) -> None:
        self.link, self.name = link, name
        self.on_delivery, self.on_end = on_delivery, on_end
        self.held = False

    def hold(self) -> bool:
        self.held = self.link.engine.streams_are_apart
        return self.held

    def release(self) -> None:
        self.held = False

    def close(self) -> None:
        if self.link.streams.get(self.name) is self:
            del self.link.streams[self.name]
            if self.link.engine.streams_are_apart:
                self.link.unregister(self.name)


class EngineLink(ScriptedLink):
    """A link to a scripted engine.

    Attributes:
        registered: The names that the engine sends to this link, in order.
        paused: Those that it was told to pause.
    """

    def __init__(self, engine: ScriptedEngine, on_lost: LostCallback) -> None:
        super().__init__()
        self.engine, self.on_lost = engine, on_lost
        self.is_open = True
        self.error: EnSyncConnectionError | None = None
        self.streams: dict[str, ScriptedStream] = {}
        self.every_stream: dict[str, ScriptedStream] = {}
        self.times_asked: Counter[str] = Counter()
        self.registered: set[str] = set()
        self.paused: set[str] = set()
        self.gone = anyio.Event()

    async def authenticate(self, app_key: str) -> Identity:
        await self._let_through(AUTHENTICATE)
        if self.engine.refusals:
            raise self.engine.refusals.popleft()
        if self.engine.lost_when_made:
            self.abort(self.engine.lost_when_made.popleft())
        return Identity(f"client {len(self.engine.links)}", self.engine.app_id, {})

    def send(self, request: Request, on_reply: ReplyCallback) -> Call:
        call = super().send(request, on_reply)
        if self.error is not None:
            self.answer_all(self.error)
        self.answer_what_is_not_held()
        return call

    def answer_what_is_not_held(self) -> None:
        for call in list(self.calls):
            if call in self.calls and type(call.request) not in self.engine.held:
                self.calls.remove(call)
                reply = self._done(call.request)
                call.sent = reply is not UNHEARD
                call.on_reply(reply)

    def _done(self, request: Request) -> Outcome | EnSyncError:
        self.engine.requests.append(request)
        planned = self.engine.replies[type(request)]
        if planned:
            return planned.popleft()
        if isinstance(request, Publish):
            return Outcome(True, idem=request.payload[-8:])
        if isinstance(request, Unsubscribe | Pause | Continue):
            return self._control(request)
        return DONE

    def _control(self, request: Unsubscribe | Pause | Continue) -> Outcome:
        if request.event_name not in self.registered:
            return Outcome(False, "this client is not subscribed to that")
        if isinstance(request, Unsubscribe):
            self.unregister(request.event_name)
        elif isinstance(request, Pause):
            self.paused.add(request.event_name)
        else:
            self.paused.discard(request.event_name)
        return DONE

    def unregister(self, name: str) -> None:
        self.registered.discard(name)
        self.paused.discard(name)

    async def subscribe(
        self, event_name: str, on_delivery: DeliveryCallback, on_end: EndCallback
    ) -> Stream:
        self.times_asked[event_name] += 1
        stream = ScriptedStream(self, event_name, on_delivery, on_end)
        self.streams[event_name] = self.every_stream[event_name] = stream
        try:
            await self._let_through(SUBSCRIBE)
            self.engine.check_name(event_name)
        except BaseException:
            stream.close()
            raise
        self.unregister(event_name)
        self.registered.add(event_name)
        return stream

    async def _let_through(self, step: str) -> None:
        await anyio.lowlevel.checkpoint()
        while self.error is None and step in self.engine.held:
            await self.engine.let_go.wait()
        if self.error is not None:
            raise self.error

    def abort(self, error: EnSyncConnectionError) -> None:
        if self.is_open:
            self._end(error)
            self.on_lost(error)

    def _end(self, error: EnSyncConnectionError) -> None:
        self.is_open, self.error = False, error
        self.streams.clear()
        self.registered.clear()
        self.paused.clear()
        self.answer_all(error)
        self.engine.wake()

    async def aclose(self) -> None:
        await self._let_go_of()
        if self.is_open:
            self._end(EnSyncConnectionError("closed", code="closed"))

    async def _let_go_of(self) -> None:
        while self.is_open and CLOSE in self.engine.held:
            await self.engine.let_go.wait()


class ScriptedEngine:
    """Answers at once and well, unless it is told otherwise.

    Args:
        app_id: Who its client is.
        streams_are_apart: Whether closing a stream ends its registration, and one can be
            held alone, as over gRPC; or neither, as over WebSocket.

    Attributes:
        links: All that were opened.
        attempts: When.
        refusals: Of the next attempts to authenticate.
        lost_when_made: Of the next links, which are lost as they are authenticated.
        refused_names: Of the next subscriptions, by name.
        replies: To the next requests, by kind.
        requests: What it has answered.
        held: What it does not answer, until :meth:`heal`.
    """

    def __init__(self, app_id: str = "", *, streams_are_apart: bool = True) -> None:
        self.app_id = app_id
        self.streams_are_apart = streams_are_apart
        self.links: list[EngineLink] = []
        self.attempts: list[float] = []
        self.most_open = 0
        self.refusals: deque[EnSyncError] = deque()
        self.lost_when_made: deque[EnSyncConnectionError] = deque()
        self.refused_names: defaultdict[str, deque[EnSyncError]] = defaultdict(deque)
        self.replies: defaultdict[type, deque[Outcome | EnSyncError]] = defaultdict(deque)
        self.requests: list[Request] = []
        self.held: set[Held] = set()
        self.let_go = anyio.Event()

    async def open_link(self, on_lost: LostCallback) -> Link:
        self.attempts.append(anyio.current_time())
        link = EngineLink(self, on_lost)
        self.links.append(link)
        self.most_open = max(self.most_open, len(self.open_links))
        return link

    @property
    def link(self) -> EngineLink:
        """The latest."""
        return self.links[-1]

    @property
    def open_links(self) -> list[EngineLink]:
        return [link for link in self.links if link.is_open]

    @property
    def registered(self) -> set[str]:
        return {name for link in self.open_links for name in link.registered}

    @property
    def paused(self) -> set[str]:
        return {name for link in self.open_links for name in link.paused}

    def count(self, kind: type[Request]) -> int:
        """How many requests of a kind it has answered."""
        return sum(isinstance(request, kind) for request in self.requests)

    def check_name(self, event_name: str) -> None:
        if self.refused_names[event_name]:
            raise self.refused_names[event_name].popleft()

    def hold(self, *steps: Held) -> None:
        self.held.update(steps)

    def heal(self) -> None:
        """Answers all that was held, and goes on answering."""
        self.held.clear()
        self.wake()
        for link in self.open_links:
            link.answer_what_is_not_held()

    def wake(self) -> None:
        let_go, self.let_go = self.let_go, anyio.Event()
        let_go.set()

    def lose(self, error: EnSyncConnectionError = LOST) -> None:
        """Ends the latest link, or tells once more that it was lost."""
        if self.link.is_open:
            self.link.abort(error)
        else:
            self.link.on_lost(error)

    def end_stream(self, name: str, reason: StreamEnd, error: EnSyncError) -> None:
        """Ends the latest stream of a name, or tells once more that it ended."""
        stream = self.link.every_stream.get(name)
        if stream is None:
            return
        stream.close()
        self.link.unregister(name)
        stream.on_end(StreamEnded(reason, error))

    def deliver(self, deliveries: Iterable[Delivery]) -> int:
        """Sends events to whoever is registered; returns how many."""
        sent = 0
        for delivery in deliveries:
            for link in self.open_links:
                stream = link.streams.get(delivery.event_name)
                if stream is not None and delivery.event_name in link.registered - link.paused:
                    stream.on_delivery(delivery)
                    sent += 1
        return sent
