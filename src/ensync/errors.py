"""Everything that ensync raises on purpose.

    EnSyncError
    ├── EnSyncConnectionError            the engine can't be reached, or was lost for good
    │   ├── EnSyncAuthenticationError    it was reached, and refuses the app key
    │   └── EnSyncTimeoutError           no answer in time
    ├── EnSyncPublishError               an event was not accepted for every recipient
    ├── EnSyncSubscriptionError          a subscription, or an event of one, can't be had as asked
    │   └── EnSyncInvalidEventError      an event arrived that can't be decrypted or parsed
    ├── EnSyncValidationError            an argument is wrong (also a ValueError); nothing was sent
    └── EnSyncGenericError               anything else, such as a refusal with no better name

Errors of the libraries below (grpclib, h2, websockets, PyNaCl, the operating
system) are translated where they enter, and stay reachable as ``__cause__``.
No error holds a secret key or a plain payload.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensync.event import RawEvent

__all__ = [
    "EnSyncAuthenticationError",
    "EnSyncConnectionError",
    "EnSyncError",
    "EnSyncGenericError",
    "EnSyncInvalidEventError",
    "EnSyncPublishError",
    "EnSyncSubscriptionError",
    "EnSyncTimeoutError",
    "EnSyncValidationError",
]


class EnSyncError(Exception):
    """The base of all errors of this package.

    Attributes:
        code: A short, stable name of what happened, such as ``"link_lost"``.
        event_name: The event name concerned, where there is one.
        event_idem: The id of the event concerned, where there is one.
        retryable: Whether the same call may succeed later, unchanged.
    """

    default_code = "error"
    default_retryable = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        event_name: str | None = None,
        event_idem: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.code = self.default_code if code is None else code
        self.event_name = event_name
        self.event_idem = event_idem
        self.retryable = self.default_retryable if retryable is None else retryable

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from args alone, which would lose the keywords.
        return (_rebuild, (type(self), self.args), self.__dict__)


def _rebuild(cls: type[EnSyncError], args: tuple[Any, ...]) -> EnSyncError:
    error = cls.__new__(cls, *args)
    error.args = args
    return error


class EnSyncConnectionError(EnSyncError):
    """The engine can't be reached, or the connection to it is lost for good.

    A connection that is lost and found again raises nothing.
    """

    default_code = "connection_failed"
    default_retryable = True


class EnSyncAuthenticationError(EnSyncConnectionError):
    """The engine was reached and refuses the app key. Trying again does not help."""

    default_code = "authentication_refused"
    default_retryable = False


class EnSyncTimeoutError(EnSyncConnectionError):
    """The engine gave no answer in time."""

    default_code = "timeout"


class EnSyncPublishError(EnSyncError):
    """An event was not accepted for every recipient.

    Attributes:
        accepted: Recipients (app ids) whose copy the engine stored, with the event id.
        rejected: Recipients whose copy is certainly not stored, with the reason.
        unknown: Recipients whose copy was sent and never answered: it may be
            stored or not.
    """

    default_code = "publish_failed"

    def __init__(
        self,
        message: str,
        *,
        accepted: Mapping[str, str] | None = None,
        rejected: Mapping[str, EnSyncError] | None = None,
        unknown: Mapping[str, EnSyncError] | None = None,
        code: str | None = None,
        event_name: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, code=code, event_name=event_name, retryable=retryable)
        self.accepted: dict[str, str] = dict(accepted or {})
        self.rejected: dict[str, EnSyncError] = dict(rejected or {})
        self.unknown: dict[str, EnSyncError] = dict(unknown or {})


class EnSyncSubscriptionError(EnSyncError):
    """A subscription, or an event of one, can't be had as asked.

    Not for a lost connection: that is an EnSyncConnectionError.
    """

    default_code = "subscription_failed"


class EnSyncInvalidEventError(EnSyncSubscriptionError):
    """An event arrived that can't be decrypted or parsed.

    Attributes:
        event: The event as it arrived, which can be discarded or deferred. None
            where the error was raised by a function that takes text, not events.
    """

    default_code = "invalid_event"

    def __init__(
        self,
        message: str,
        *,
        event: RawEvent | None = None,
        code: str | None = None,
        event_name: str | None = None,
        event_idem: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(
            message,
            code=code,
            event_name=event_name,
            event_idem=event_idem,
            retryable=retryable,
        )
        self.event = event


class EnSyncValidationError(EnSyncError, ValueError):
    """An argument is wrong. The message names it and what is accepted; nothing was sent."""

    default_code = "invalid_argument"


class EnSyncGenericError(EnSyncError):
    """What has no better name, such as a refusal of a control call by the engine."""
