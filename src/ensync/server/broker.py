"""The delivery rules of the engine (PROTOCOL 6).

The broker does no input or output of its own: doors call it, it calls a store,
and time and randomness are passed in. Every method that a door calls on behalf
of a client raises Refusal when the answer is no.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import anyio

from ensync.server.apps import AppRecord, AppRegistry
from ensync.server.clients import Clients, ConnectedClient
from ensync.server.consumer import Consumer, Credit, EndReason
from ensync.server.publication import (
    Publication,
    check_delay,
    check_publication,
    persists,
    require_event_name,
    require_idem,
    require_reason,
    time_to_live_ms,
)
from ensync.server.refusal import Reason, Refusal, shown
from ensync.server.replaying import as_replayed
from ensync.server.settling import EventRef, Settling
from ensync.server.statistics import Counters, Statistics
from ensync.server.store import (
    EventState,
    Lease,
    NewEvent,
    QueueKey,
    Store,
    StoredEvent,
    StoreFailedError,
)

__all__ = ["Broker", "Limits", "Publication", "Statistics"]


class Limits(NamedTuple):
    """What bounds the memory that clients can claim."""

    clients: int = 10_000
    subscriptions_per_client: int = 1_000
    credit: Credit = Credit()


_DEFAULT_LIMITS = Limits()


class Broker:
    """Who gets which event, and when.

    Args:
        store: Keeps the events.
        apps: Who may connect, and what they may do.
        limits: What clients can claim at most.
        heartbeat_timeout: After how many seconds without any request a client that
            has no subscription is gone.
        new_client_id: Makes client ids; they must be hard to guess.
        clock: Seconds, never going back.
        now_ms: Milliseconds since the epoch.

    Attributes:
        observers: Called with each event that has been published. They must not fail, nor
            take long.
    """

    def __init__(
        self,
        store: Store,
        apps: AppRegistry,
        *,
        limits: Limits = _DEFAULT_LIMITS,
        heartbeat_timeout: float = 90.0,
        new_client_id: Callable[[], str] = lambda: secrets.token_hex(16),
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._apps = apps
        self._limits = limits
        self._heartbeat_timeout = heartbeat_timeout
        self._now_ms = now_ms
        self._clients = Clients(new_client_id, clock)
        self._settling = Settling(store)
        self._counters = Counters()
        self._stopping = False
        self.observers: list[Callable[[StoredEvent], object]] = []

    @property
    def store(self) -> Store:
        """What keeps the events."""
        return self._store

    @property
    def clients(self) -> list[ConnectedClient]:
        """Who is connected."""
        return list(self._clients)

    # Clients

    def connect(self, app_key: str, connection: Hashable) -> ConnectedClient:
        """Authenticates a client, which is a new one each time.

        Args:
            app_key: What it claims to know.
            connection: The connection it came on.
        """
        app = self._apps.authenticate(app_key)
        if app is None:
            raise Refusal(Reason.UNKNOWN_KEY, "unknown app key")
        if len(self._clients) >= self._limits.clients:
            raise Refusal(
                Reason.LIMIT, f"too many clients: {self._limits.clients} are connected already"
            )
        return self._clients.add(app.app_id, connection)

    def attach(self, client_id: str, connection: Hashable) -> None:
        """A client is using this connection, perhaps besides others. Unknown ids are ignored."""
        self._clients.attach(client_id, connection)

    async def connection_closed(self, connection: Hashable) -> None:
        """Forgets the clients that used no other connection, with all they had."""
        for client in self._clients.detach(connection):
            await self._end_consumers(client, EndReason.CLIENT_GONE)

    def heartbeat(self, client_id: str) -> None:
        """Keeps a client alive; any other request does so too."""
        self._client(client_id)

    async def tend(self) -> None:
        """To be called every few seconds: forgets silent clients, keeps leases alive."""
        await self._store.keep([held.lease for held in self._settling.in_hand.values()])
        for client in self._clients.overdue(self._heartbeat_timeout):
            await self._forget(client, EndReason.CLIENT_GONE)

    async def disconnect_app(self, app_id: str) -> None:
        """Forgets all clients of an app, which has been removed."""
        for client in [client for client in self.clients if client.app_id == app_id]:
            await self._forget(client, EndReason.CLIENT_GONE)

    async def shut_down(self) -> None:
        """Ends every subscription, giving back what was in hand. No other can be made."""
        self._stopping = True
        for client in self.clients:
            await self._end_consumers(client, EndReason.SHUTDOWN)

    # Publishing and subscribing

    async def publish(self, client_id: str, publication: Publication) -> StoredEvent:
        """Stores an event for its recipient."""
        app = self._app_of(self._client(client_id))
        publication = _with_metadata(publication)
        metadata = check_publication(publication)
        if not app.may_send(publication.event_name):
            raise Refusal(
                Reason.FORBIDDEN,
                f"this app has no permission to send {shown(publication.event_name)}",
            )
        if self._apps.get(publication.delivery_to) is None:
            raise Refusal(Reason.INVALID, "delivery_to: this engine has no app with this app id")
        stored = await self._append(_new_event(app, publication, metadata))
        self._counters.published += 1
        for observe in self.observers:
            observe(stored)
        return stored

    async def subscribe(self, client_id: str, event_name: str) -> Consumer:
        """Registers an interest in an event name.

        One that this client has in the same name already is replaced: it ends, and
        what it had in hand is given back.
        """
        client = self._client(client_id)
        self._check_may_subscribe(client, event_name)
        previous = client.consumers.get(event_name)
        consumer = self._new_consumer(client, event_name)
        client.consumers[event_name] = consumer
        try:
            if previous is not None:
                await previous.end(EndReason.REPLACED)
            await self._open_lane(consumer, QueueKey(client.app_id, event_name))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await consumer.close()
            raise
        return consumer

    async def unsubscribe(self, client_id: str, event_name: str) -> None:
        """Ends an interest, and with it its pause."""
        client = self._client(client_id)
        consumer = self._consumer_of(client, event_name)
        client.resume(event_name)
        await consumer.end(EndReason.UNSUBSCRIBED)

    def pause(self, client_id: str, event_name: str, reason: str = "") -> None:
        """Stops delivery to this subscription; what it has in hand stays its own."""
        require_reason(reason)
        client = self._client(client_id)
        self._consumer_of(client, event_name)
        client.pause(event_name)

    def resume(self, client_id: str, event_name: str) -> None:
        """Goes on with delivery. Nothing happens when it was not paused."""
        client = self._client(client_id)
        self._consumer_of(client, event_name)
        client.resume(event_name)

    # Settling

    async def ack(self, client_id: str, idem: str, block: int, event_name: str = "") -> None:
        """Settles an event as done."""
        await self._settling.ack(self._ref(client_id, idem, event_name, block))
        self._counters.acknowledged += 1

    async def rollback(self, client_id: str, idem: str, block: int) -> None:
        """Gives an event back, to be handed out again at once."""
        await self._settling.give_back(self._ref(client_id, idem, "", block))

    async def defer(
        self, client_id: str, idem: str, delay_ms: int, reason: str = "", event_name: str = ""
    ) -> int:
        """Gives an event back, to be handed out again after a delay.

        Returns:
            When it is due, in milliseconds since the epoch.
        """
        require_reason(reason)
        check_delay(delay_ms)
        due_ms = await self._settling.defer(self._ref(client_id, idem, event_name), delay_ms)
        self._counters.deferred += 1
        return due_ms

    async def discard(
        self, client_id: str, idem: str, reason: str = "", event_name: str = ""
    ) -> None:
        """Settles an event as unwanted."""
        require_reason(reason)
        await self._settling.discard(self._ref(client_id, idem, event_name), reason)
        self._counters.discarded += 1

    async def replay(self, client_id: str, idem: str, event_name: str = "") -> StoredEvent:
        """Reads a stored event, settled or not; nothing becomes of it.

        Returns:
            The event, with ``$internal.replay_info`` in its metadata.
        """
        found = await self._settling.find(self._ref(client_id, idem, event_name))
        if found.state is not EventState.OPEN and not found.stored.event.persist:
            raise Refusal(
                Reason.NOT_FOUND,
                f"event {shown(idem)} is settled and was published with persist = false: "
                "it is not kept",
            )
        self._counters.replayed += 1
        return as_replayed(found.stored, found.state, self._now_ms())

    def statistics(self) -> Statistics:
        """A snapshot of what is going on."""
        counters = self._counters
        return Statistics(
            clients=len(self._clients),
            subscriptions=sum(len(client.consumers) for client in self._clients),
            in_hand=len(self._settling.in_hand),
            published=counters.published,
            delivered=counters.delivered,
            redelivered=counters.redelivered,
            acknowledged=counters.acknowledged,
            deferred=counters.deferred,
            discarded=counters.discarded,
            replayed=counters.replayed,
            expired=self._store.expired,
        )

    # Inside

    def _client(self, client_id: str) -> ConnectedClient:
        return self._clients.get(client_id)

    def _app_of(self, client: ConnectedClient) -> AppRecord:
        app = self._apps.get(client.app_id)
        if app is None:
            raise Refusal(Reason.UNKNOWN_CLIENT, "this client's app has been removed")
        return app

    def _ref(
        self, client_id: str, idem: str, event_name: str, block: int | None = None
    ) -> EventRef:
        require_idem(idem)
        if event_name:
            require_event_name(event_name)
        return EventRef(self._client(client_id).app_id, idem, event_name, block)

    async def _append(self, event: NewEvent) -> StoredEvent:
        try:
            return await self._store.append(event)
        except StoreFailedError as error:
            raise Refusal(Reason.LIMIT, str(error)) from error

    def _check_may_subscribe(self, client: ConnectedClient, event_name: str) -> None:
        require_event_name(event_name)
        if self._stopping:
            raise Refusal(Reason.STOPPING, "the engine is stopping")
        if not self._app_of(client).may_receive(event_name):
            raise Refusal(
                Reason.FORBIDDEN, f"this app has no permission to receive {shown(event_name)}"
            )
        limit = self._limits.subscriptions_per_client
        if event_name not in client.consumers and len(client.consumers) >= limit:
            raise Refusal(Reason.LIMIT, f"too many subscriptions: a client may have {limit}")

    def _new_consumer(self, client: ConnectedClient, event_name: str) -> Consumer:
        return Consumer(
            client,
            event_name,
            self._store,
            self._settling.in_hand,
            self._limits.credit,
            self._delivered,
        )

    async def _open_lane(self, consumer: Consumer, queue: QueueKey) -> None:
        lane = await self._store.lane(queue)
        consumer.use(lane)
        if consumer.end_reason is not None:
            await lane.close()

    def _consumer_of(self, client: ConnectedClient, event_name: str) -> Consumer:
        require_event_name(event_name)
        consumer = client.consumers.get(event_name)
        if consumer is None:
            raise Refusal(Reason.NOT_FOUND, f"this client is not subscribed to {shown(event_name)}")
        return consumer

    def _delivered(self, lease: Lease) -> None:
        self._counters.delivered += 1
        if lease.attempt > 1:
            self._counters.redelivered += 1

    async def _forget(self, client: ConnectedClient, reason: EndReason) -> None:
        self._clients.remove(client)
        await self._end_consumers(client, reason)

    async def _end_consumers(self, client: ConnectedClient, reason: EndReason) -> None:
        for consumer in list(client.consumers.values()):
            await consumer.end(reason)


def _new_event(app: AppRecord, publication: Publication, metadata: dict[str, Any]) -> NewEvent:
    return NewEvent(
        queue=QueueKey(publication.delivery_to, publication.event_name),
        sender=app.app_id,
        payload=publication.payload,
        metadata=publication.metadata,
        payload_metadata=publication.payload_metadata,
        persist=persists(metadata),
        ttl_ms=time_to_live_ms(metadata),
    )


def _with_metadata(publication: Publication) -> Publication:
    # Some clients say so when there is none: nothing, or null.
    no_metadata = publication.metadata in ("", "null")
    return publication._replace(metadata="{}") if no_metadata else publication
