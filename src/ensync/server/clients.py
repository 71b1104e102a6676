"""Who is connected."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING

from ensync.server.refusal import Reason, Refusal, shown

if TYPE_CHECKING:
    from ensync.server.consumer import Consumer

__all__ = ["Clients", "ConnectedClient"]


class ConnectedClient:
    """One client of an app, from its Connect until it is gone.

    Attributes:
        client_id: Names it in its requests.
        app_id: The app it has authenticated as.
        consumers: Its subscriptions, by event name.
        last_seen: When it last asked for something, by the broker's clock.
    """

    def __init__(self, client_id: str, app_id: str, last_seen: float) -> None:
        self.client_id = client_id
        self.app_id = app_id
        self.consumers: dict[str, Consumer] = {}
        self.last_seen = last_seen
        self.connections: set[Hashable] = set()
        self._paused: set[str] = set()

    def is_paused(self, event_name: str) -> bool:
        """Whether delivery of these events to this client is stopped."""
        return event_name in self._paused

    def pause(self, event_name: str) -> None:
        """Stops delivery of these events to this client."""
        self._paused.add(event_name)
        self._reconsider(event_name)

    def resume(self, event_name: str) -> None:
        """Goes on with it."""
        self._paused.discard(event_name)
        self._reconsider(event_name)

    def consumer_ended(self, consumer: Consumer) -> None:
        """A subscription has ended, and is forgotten."""
        if self.consumers.get(consumer.event_name) is consumer:
            del self.consumers[consumer.event_name]

    def _reconsider(self, event_name: str) -> None:
        consumer = self.consumers.get(event_name)
        if consumer is not None:
            consumer.reconsider()


class Clients:
    """The connected clients, and which connections each of them uses."""

    def __init__(self, new_client_id: Callable[[], str], clock: Callable[[], float]) -> None:
        self._new_client_id = new_client_id
        self._clock = clock
        self._clients: dict[str, ConnectedClient] = {}
        self._by_connection: dict[Hashable, set[str]] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[ConnectedClient]:
        return iter(self._clients.values())

    def add(self, app_id: str, connection: Hashable) -> ConnectedClient:
        """A client has authenticated."""
        client = ConnectedClient(self._new_client_id(), app_id, self._clock())
        self._clients[client.client_id] = client
        self._attach(client, connection)
        return client

    def get(self, client_id: str) -> ConnectedClient:
        """The client of this id, which is alive, as this shows.

        Raises:
            Refusal: There is none.
        """
        client = self._clients.get(client_id)
        if client is None:
            raise Refusal(
                Reason.UNKNOWN_CLIENT,
                f"unknown client_id {shown(client_id)}: it never was, or it is gone; connect again",
            )
        client.last_seen = self._clock()
        return client

    def attach(self, client_id: str, connection: Hashable) -> None:
        """Notes that a client uses a connection. An unknown client is not noted."""
        client = self._clients.get(client_id)
        if client is not None and connection not in client.connections:
            self._attach(client, connection)

    def detach(self, connection: Hashable) -> list[ConnectedClient]:
        """A connection has closed. Returns the clients that used no other, which are gone."""
        gone: list[ConnectedClient] = []
        for client_id in self._by_connection.pop(connection, ()):
            client = self._clients[client_id]
            client.connections.discard(connection)
            if not client.connections:
                del self._clients[client_id]
                gone.append(client)
        return gone

    def remove(self, client: ConnectedClient) -> None:
        """Forgets a client. It need not be known."""
        if self._clients.pop(client.client_id, None) is None:
            return
        for connection in client.connections:
            self._by_connection[connection].discard(client.client_id)

    def overdue(self, timeout: float) -> list[ConnectedClient]:
        """Those that have asked for nothing for so many seconds and have no subscription."""
        limit = self._clock() - timeout
        return [
            client
            for client in self._clients.values()
            if client.last_seen < limit and not client.consumers
        ]

    def _attach(self, client: ConnectedClient, connection: Hashable) -> None:
        client.connections.add(connection)
        self._by_connection.setdefault(connection, set()).add(client.client_id)
