"""The port: what a transport must do, in the words of the domain.

A *transport* belongs to one engine and opens links. A *link* carries one
client's requests and deliveries until it is lost or closed; it is never
repaired: the session opens another. Retrying, routing, cryptography and
settling live above this port, once for all transports.

Requests are sent and answered by plain function calls, so that nothing above
needs a task per request and a link needs no knowledge of who waits. A callback
runs in the transport's event loop: it must be quick, must not raise and must
not await.

Transports are asyncio code. Their awaitable methods are called through
``ensync.transports.bridge``, which crosses from trio where that is needed; the
plain ones may be called from either side.
"""

from __future__ import annotations

import enum
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ensync.errors import EnSyncConnectionError, EnSyncError

__all__ = [
    "Acknowledge",
    "Call",
    "Carrier",
    "Continue",
    "Defer",
    "Delivery",
    "Discard",
    "Heartbeat",
    "Identity",
    "Link",
    "Outcome",
    "Pause",
    "Progress",
    "Publish",
    "Replay",
    "Request",
    "Stream",
    "StreamEnd",
    "StreamEnded",
    "Transport",
    "Unsubscribe",
]


class Identity(NamedTuple):
    """What the engine said when it accepted an app key (PROTOCOL: Connect)."""

    client_id: str
    app_id: str
    server_config: Mapping[str, str]


class Delivery(NamedTuple):
    """One event as it came from the engine, still encrypted and unparsed.

    ``logged_at_ms`` is None where the transport does not say when an event was stored.
    """

    idem: str
    event_name: str
    payload: str
    block: int
    metadata: str
    sender: str
    logged_at_ms: int | None = None


class Publish(NamedTuple):
    event_name: str
    recipient: str
    payload: str
    metadata: str
    payload_metadata: str | None


class Acknowledge(NamedTuple):
    event_name: str
    idem: str
    block: int


class Defer(NamedTuple):
    event_name: str
    idem: str
    delay_ms: int
    reason: str


class Discard(NamedTuple):
    event_name: str
    idem: str
    reason: str


class Replay(NamedTuple):
    event_name: str
    idem: str


class Pause(NamedTuple):
    event_name: str
    reason: str


class Continue(NamedTuple):
    event_name: str


class Unsubscribe(NamedTuple):
    event_name: str


class Heartbeat(NamedTuple):
    pass


Request: TypeAlias = (
    Publish | Acknowledge | Defer | Discard | Replay | Pause | Continue | Unsubscribe | Heartbeat
)


class Outcome(NamedTuple):
    """The engine's answer to a request.

    ``success`` is False when the engine refused, however it said so; ``message``
    is then its reason. ``idem`` answers a Publish, ``due_ms`` (since the epoch) a
    Defer, ``delivery`` a Replay.
    """

    success: bool
    message: str = ""
    idem: str = ""
    due_ms: int | None = None
    delivery: Delivery | None = None
    unauthenticated: bool = False
    """The engine no longer knows this client: the session has to start anew."""
    perhaps_repeated: bool = False
    """The same request may have been acted on before. Said by the session, not by a link."""


class Call(ABC):
    """One request under way.

    Attributes:
        sent: Whether the engine may have acted on the request. While it is False,
            the request has not left, or the engine has said that it did nothing about it.
    """

    sent: bool

    @abstractmethod
    def cancel(self) -> None:
        """Gives up waiting: the reply callback will not be called (any more).

        Does nothing when the call is already answered. A transport whose replies
        are matched by order may have to give up its link (PROTOCOL 4).
        """


ReplyCallback: TypeAlias = Callable[["Outcome | EnSyncError"], None]


class StreamEnd(enum.Enum):
    """Why a subscription's stream ended while its link lives on."""

    FINISHED = "finished"  # normally, with status OK
    BROKEN = "broken"  # by a reset, or by a status that may pass
    REFUSED = "refused"  # by a status that will not pass, such as a missing permission
    UNAUTHENTICATED = "unauthenticated"  # the engine does not know the client any more


@dataclass(frozen=True, slots=True)
class StreamEnded:
    reason: StreamEnd
    error: EnSyncError


class Stream(ABC):
    """One registration of an interest in an event name, on one link."""

    @abstractmethod
    def hold(self) -> bool:
        """Stops reading this stream, so that the engine is held back.

        Returns:
            False when this stream can't be stopped alone (its events share a
            carrier with others): the session then asks the engine to pause.
        """

    @abstractmethod
    def release(self) -> None:
        """Reads on after hold()."""

    @abstractmethod
    def close(self) -> None:
        """Ends the stream at once, without a word to its owner."""


class Progress(NamedTuple):
    """How far the bytes of a carrier have come, in both directions.

    Attributes:
        received: Grows whenever anything was read.
        departed: Grows with what was written and has left this machine, as far as that
            can be told.
        waiting: How many bytes were written and have not left yet.
    """

    received: int
    departed: int
    waiting: int


class Carrier(ABC):
    """What carries requests and deliveries of a link; links may share one.

    Attributes:
        checked_at: When it was last asked for a sign of life, by whichever link.
        is_being_checked: Whether a sign of life is waited for now.
    """

    checked_at: float = -math.inf
    is_being_checked: bool = False

    @abstractmethod
    def progress(self) -> Progress:
        """How far its bytes have come."""

    @abstractmethod
    def lose(self, error: EnSyncConnectionError) -> None:
        """Tears it down without waiting for anything: every link that uses it is lost."""


DeliveryCallback: TypeAlias = Callable[[Delivery], None]
EndCallback: TypeAlias = Callable[[StreamEnded], None]
LostCallback: TypeAlias = Callable[[EnSyncConnectionError], None]


class Link(ABC):
    """A connection for one client. Every method but the awaitable ones returns at once."""

    @abstractmethod
    async def authenticate(self, app_key: str) -> Identity:
        """Says who we are. Must succeed before anything else is called.

        Raises:
            EnSyncAuthenticationError: The engine refuses the key.
            EnSyncConnectionError: The link was lost meanwhile.
        """

    @abstractmethod
    def send(self, request: Request, on_reply: ReplyCallback) -> Call:
        """Sends one request, or queues it fairly while the engine's limits say so.

        ``on_reply`` is called once, with the engine's answer or with the error that
        made an answer impossible, unless the call is cancelled first. It may be
        called before send() returns.
        """

    @property
    @abstractmethod
    def room(self) -> int:
        """How many more acknowledgements it should be given for now.

        They may take a share of what it carries at a time only, so that an engine that
        leaves them unanswered still hears of everything else. Links that share a carrier
        share this.
        """

    @property
    @abstractmethod
    def carriers(self) -> Sequence[Carrier]:
        """All that it uses now. The first carries its requests."""

    @abstractmethod
    def beat(self, carrier: Carrier, on_reply: ReplyCallback) -> Call:
        """Sends a heartbeat over one of the carriers, in front of all that still waits."""

    @abstractmethod
    async def subscribe(
        self, event_name: str, on_delivery: DeliveryCallback, on_end: EndCallback
    ) -> Stream:
        """Registers an interest; returns when the engine has registered it.

        ``on_delivery`` gets each event that arrives on this stream, *whatever its
        name*: an engine may send the events of all names on one stream. ``on_end`` is
        called once if the stream ends by itself after this returned, and not when
        the whole link is lost.

        Raises:
            EnSyncSubscriptionError: The engine refuses.
            EnSyncConnectionError: The link was lost meanwhile.
        """

    @abstractmethod
    def abort(self, error: EnSyncConnectionError) -> None:
        """Tears the link down without waiting for anything.

        Every call under way is answered with an error, then ``on_lost`` is called
        with the one given. Does nothing when the link is already lost.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Closes in an orderly way, and aborts if that takes longer than a second."""


class Transport(ABC):
    """The way from one EnSyncEngine to its server."""

    @abstractmethod
    async def open_link(self, on_lost: LostCallback) -> Link:
        """Connects, without authenticating.

        ``on_lost`` is called once when the link is lost, and not after aclose(). By
        then every call under way was answered.

        Raises:
            EnSyncConnectionError: The engine can't be reached, or answers in
                another protocol, or TLS fails.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Closes whatever links share."""
