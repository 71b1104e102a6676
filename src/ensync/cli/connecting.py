"""Opens the client that a command works with."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from ensync.cli.settings import APP_KEY, SECRET_KEY, URL, Settings
from ensync.client import EnSyncClient
from ensync.engine import connect
from ensync.options import Reconnect

__all__ = ["client_for_good", "client_for_once"]


def client_for_once(settings: Settings) -> AbstractAsyncContextManager[EnSyncClient]:
    """A client of a command that is done soon: it gives up on a lost connection soon."""
    return _client(settings, Reconnect(max_attempts=3))


def client_for_good(settings: Settings) -> AbstractAsyncContextManager[EnSyncClient]:
    """A client of a command that goes on until it is stopped."""
    return _client(settings, Reconnect(max_attempts=None))


def _client(settings: Settings, reconnect: Reconnect) -> AbstractAsyncContextManager[EnSyncClient]:
    url, app_key = settings.need(URL), settings.need(APP_KEY)
    return connect(
        url, app_key=app_key, app_secret_key=settings.get(SECRET_KEY), reconnect=reconnect
    )
