"""Publish and consume end-to-end encrypted events over EnSync Engine, on trio or asyncio."""

from ensync.client import EnSyncClient
from ensync.connection import ClientState
from ensync.engine import EnSyncEngine, EnSyncWebSocketEngine, connect
from ensync.errors import (
    EnSyncAuthenticationError,
    EnSyncConnectionError,
    EnSyncError,
    EnSyncGenericError,
    EnSyncInvalidEventError,
    EnSyncPublishError,
    EnSyncSubscriptionError,
    EnSyncTimeoutError,
    EnSyncValidationError,
)
from ensync.event import (
    ControlResult,
    DeferResult,
    Event,
    OutgoingEvent,
    PublishOutcome,
    RawEvent,
    Receipt,
)
from ensync.options import Reconnect
from ensync.statistics import SubscriptionStatistics
from ensync.subscription import Subscription

__version__ = "0.1.0"

__all__ = [
    "ClientState",
    "ControlResult",
    "DeferResult",
    "EnSyncAuthenticationError",
    "EnSyncClient",
    "EnSyncConnectionError",
    "EnSyncEngine",
    "EnSyncError",
    "EnSyncGenericError",
    "EnSyncInvalidEventError",
    "EnSyncPublishError",
    "EnSyncSubscriptionError",
    "EnSyncTimeoutError",
    "EnSyncValidationError",
    "EnSyncWebSocketEngine",
    "Event",
    "OutgoingEvent",
    "PublishOutcome",
    "RawEvent",
    "Receipt",
    "Reconnect",
    "Subscription",
    "SubscriptionStatistics",
    "__version__",
    "connect",
]


def _show_public_path() -> None:
    # Tracebacks and reprs say ensync.Event, not where it happens to be defined.
    for name in __all__:
        exported = globals()[name]
        if callable(exported):
            exported.__module__ = __name__


_show_public_path()
