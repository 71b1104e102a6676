"""Opens the client that a command works with."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from ensync.cli.failures import WRONG_USE, CommandError
from ensync.cli.settings import APP_KEY, SECRET_KEY, URL, Settings
from ensync.client import EnSyncClient
from ensync.crypto import SecretKey
from ensync.engine import connect
from ensync.options import Reconnect

__all__ = ["check_secret_key", "client_for_good", "client_for_once"]


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


def check_secret_key(settings: Settings, app_id: str) -> None:
    """Sees to it that the secret key is that of the app, which could read no event otherwise.

    Raises:
        EnSyncValidationError: It is no secret key.
        CommandError: It is another app's.
    """
    text = settings.get(SECRET_KEY)
    if text is None:
        return
    own = SecretKey.parse(text).app_id
    if own != app_id:
        raise CommandError(
            f"{settings.name_of(SECRET_KEY)} belongs to app {own}, and the app key to app {app_id}",
            WRONG_USE,
        )
