"""EnSyncClient: one authenticated client of an engine."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Never, TypeVar, final, overload

from ensync.connection import ClientState
from ensync.crypto import SecretKey
from ensync.errors import EnSyncValidationError
from ensync.event import OutgoingEvent, PublishOutcome, Receipt
from ensync.intake import Intake
from ensync.options import check_choice, check_count, check_duration, unknown_option
from ensync.payload import check_event_name, payload_decoder
from ensync.publish_many import publish_many
from ensync.publishing import Encryption, prepare, publish_all
from ensync.reading import EventReader, InvalidEventPolicy
from ensync.received import Received, make_received
from ensync.session import Session
from ensync.states import ClientStates
from ensync.subscription import Subscription, open_subscription

__all__ = ["EnSyncClient"]

T = TypeVar("T")

_PUBLISH_OPTIONS = ("encryption", "timeout")
_PUBLISH_MANY_OPTIONS = ("max_in_flight", "timeout")
_SUBSCRIBE_OPTIONS = ("auto_ack", "app_secret_key", "payload_type", "buffer_size", "on_invalid")


@final
class EnSyncClient(metaclass=Received):
    """One authenticated client; it lives as long as its block.

    May be used by several tasks at once.
    """

    def __init__(self, session: Session, secret_key: SecretKey | None) -> None:
        self._session = session
        self._secret_key = secret_key

    @property
    def app_id(self) -> str:
        """The id of this client's app: what others publish to, and the sender they see."""
        return self._session.identity.app_id

    @property
    def client_id(self) -> str:
        """The engine's name of this connected client; new after every reconnect."""
        return self._session.identity.client_id

    @property
    def state(self) -> ClientState:
        """What the client is doing about its connection."""
        return self._session.state

    def __repr__(self) -> str:
        return f"<EnSyncClient app_id={self.app_id!r} {self._session!r}>"

    def states(self) -> AsyncIterator[ClientState]:
        """The state now, then each change, until ``closed``.

        States that come and go faster than they are asked for may be left out.
        """
        return ClientStates(self._session)

    # Publishing

    async def publish(
        self,
        event_name: str,
        recipients: Sequence[str],
        payload: object,
        metadata: Mapping[str, object] | None = None,
        *,
        encryption: Encryption = "sealed",
        timeout: float | None = None,
        **unknown: Never,
    ) -> Receipt:
        """Publishes one event to each of the recipients, end-to-end encrypted.

        While the client is reconnecting, this waits for the connection, within the
        timeout. What the engine has certainly not taken is sent again by itself; what was sent and
        not answered never is.

        Args:
            event_name: The name to publish under.
            recipients: App ids.
            payload: Any JSON value, a dataclass or a pydantic model.
            metadata: Sent along in the clear; a JSON object.
            encryption: ``"sealed"``: an envelope for each recipient. ``"hybrid"``: one
                envelope that all of them can open.
            timeout: Seconds; the engine's ``request_timeout`` by default.

        Returns:
            The ids of the stored events.

        Raises:
            EnSyncPublishError: Some recipient's copy was rejected, or its outcome is not
                known; the error tells them apart.
            EnSyncValidationError: An argument can't be sent. Nothing was.
        """
        if unknown:
            raise unknown_option("publish()", unknown, _PUBLISH_OPTIONS)
        seconds = self._timeout(timeout)
        requests = prepare(event_name, recipients, payload, metadata, encryption)
        return await publish_all(self._session, requests, seconds)

    def publish_many(
        self,
        events: Iterable[OutgoingEvent] | AsyncIterable[OutgoingEvent],
        *,
        max_in_flight: int = 64,
        timeout: float | None = None,
        **unknown: Never,
    ) -> AbstractAsyncContextManager[AsyncIterator[PublishOutcome]]:
        """Publishes many events, a bounded number at a time, in a scope.

        The scope gives an async iterator with an outcome for every event, in the order
        in which they finish. Nothing is raised for a single event: its outcome says it.
        Leaving the scope early cancels what is under way.

        Args:
            events: What to publish; asked for the next one only when there is room. An
                async generator is closed with the scope.
            max_in_flight: How many events are under way at a time.
            timeout: Seconds for each event; the engine's ``request_timeout`` by default.

        Raises:
            EnSyncValidationError: ``max_in_flight`` or ``timeout`` is not acceptable.
        """
        if unknown:
            raise unknown_option("publish_many()", unknown, _PUBLISH_MANY_OPTIONS)
        check_count("max_in_flight", max_in_flight)
        return publish_many(self._session, events, max_in_flight, self._timeout(timeout))

    def _timeout(self, timeout: float | None) -> float:
        if timeout is None:
            return self._session.settings.request_timeout
        return check_duration("timeout", timeout)

    # Subscribing

    @overload
    def subscribe(
        self,
        event_name: str,
        *,
        auto_ack: bool = True,
        app_secret_key: str | None = None,
        payload_type: None = None,
        buffer_size: int = 100,
        on_invalid: InvalidEventPolicy = "raise",
    ) -> AbstractAsyncContextManager[Subscription[Any]]: ...

    @overload
    def subscribe(
        self,
        event_name: str,
        *,
        auto_ack: bool = True,
        app_secret_key: str | None = None,
        payload_type: type[T],
        buffer_size: int = 100,
        on_invalid: InvalidEventPolicy = "raise",
    ) -> AbstractAsyncContextManager[Subscription[T]]: ...

    def subscribe(
        self,
        event_name: str,
        *,
        auto_ack: bool = True,
        app_secret_key: str | None = None,
        payload_type: Any = None,
        buffer_size: int = 100,
        on_invalid: InvalidEventPolicy = "raise",
        **unknown: Never,
    ) -> AbstractAsyncContextManager[Subscription[Any]]:
        """The events of one name, in a scope. Entering it means: the engine has registered it.

        Args:
            event_name: The name to subscribe to.
            auto_ack: Acknowledge an event when its loop asks for the next one. Otherwise
                settle each with ``event.ack()``, ``event.settle()`` and the like.
            app_secret_key: Decrypts these events, in place of the client's own key.
            payload_type: A dataclass, TypedDict or pydantic model to validate into.
            buffer_size: How many events may wait here before the engine is held back.
            on_invalid: What becomes of an event that can't be decrypted or parsed:
                ``"raise"``, ``"discard"``, or a function that is given the error and
                answers ``"raise"``, ``"discard"`` or ``"defer"``.

        Raises:
            EnSyncValidationError: An argument is not acceptable, or there is no secret key.
            EnSyncSubscriptionError: The engine refuses, or this client is subscribed to the
                name already.
            EnSyncConnectionError: The engine can't be reached in time.
        """
        if unknown:
            raise unknown_option("subscribe()", unknown, _SUBSCRIBE_OPTIONS)
        check_event_name(event_name)
        check_count("buffer_size", buffer_size)
        if not callable(on_invalid):
            check_choice("on_invalid", on_invalid, ("raise", "discard"))
        secret_key = self._key_to_open(app_secret_key)
        reader = EventReader(secret_key, payload_decoder(payload_type), self.app_id)
        return self._subscribe(event_name, reader, buffer_size, auto_ack, on_invalid)

    @asynccontextmanager
    async def _subscribe(
        self,
        event_name: str,
        reader: EventReader[T],
        buffer_size: int,
        auto_ack: bool,
        on_invalid: InvalidEventPolicy,
    ) -> AsyncIterator[Subscription[T]]:
        intake = Intake(self._session, event_name, buffer_size)
        subscription: Subscription[T] = make_received(
            Subscription,
            self._session,
            intake,
            reader,
            self,
            auto_ack=auto_ack,
            on_invalid=on_invalid,
        )
        try:
            await self._session.subscriptions.add(intake)
        except BaseException:
            intake.finish()
            raise
        async with open_subscription(subscription):
            yield subscription

    def _key_to_open(self, app_secret_key: str | None) -> SecretKey:
        if app_secret_key is not None:
            return SecretKey.parse(app_secret_key)
        if self._secret_key is None:
            raise EnSyncValidationError(
                "events can't be decrypted without a secret key: give app_secret_key to "
                "create_client(), connect() or subscribe(), or set ENSYNC_SECRET_KEY"
            )
        return self._secret_key


def make_client(session: Session, secret_key: SecretKey | None) -> EnSyncClient:
    """Makes a client on a session that is open. For the engine."""
    return make_received(EnSyncClient, session, secret_key)
