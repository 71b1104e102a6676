"""An app of an engine, ready to be connected as."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Literal, NamedTuple, TypeAlias, Unpack

import ensync
from ensync.engine import EngineOptions
from ensync.options import check_choice
from ensync.server.apps import App

__all__ = ["EngineApp", "EngineApps", "Transport"]

Transport: TypeAlias = Literal["grpc", "websocket"]


class EngineApp(NamedTuple):
    """An app, and where its engine is.

    Attributes:
        name: What people call it.
        app_id: The app's public name, which recipients and senders are given as.
        app_key: What its clients authenticate with. Secret.
        secret_key: What its clients decrypt with. Secret.
        url: Where the engine serves gRPC.
        websocket_url: Where it serves WebSocket.
    """

    name: str
    app_id: str
    app_key: str
    secret_key: str
    url: str
    websocket_url: str

    def __repr__(self) -> str:
        return f"EngineApp(name={self.name!r}, app_id={self.app_id!r}, url={self.url!r})"

    @classmethod
    def of(cls, app: App, url: str, websocket_url: str) -> EngineApp:
        """An app that has just been made."""
        return cls(*app, url, websocket_url)

    def connect(
        self, transport: Transport = "grpc", **options: Unpack[EngineOptions]
    ) -> AbstractAsyncContextManager[ensync.EnSyncClient]:
        """Connects a client as this app, like ``ensync.connect``, which takes the same options.

        Raises:
            EnSyncValidationError: There is no such transport, or an option is wrong.
            EnSyncConnectionError: The engine can't be reached.
        """
        check_choice("transport", transport, ("grpc", "websocket"))
        url = self.url if transport == "grpc" else self.websocket_url
        return ensync.connect(url, app_key=self.app_key, app_secret_key=self.secret_key, **options)

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables by which ``ensync.connect()`` and the ``ensync`` command find it."""
        return {
            "ENSYNC_URL": self.url,
            "ENSYNC_WS_URL": self.websocket_url,
            "ENSYNC_APP_KEY": self.app_key,
            "ENSYNC_SECRET_KEY": self.secret_key,
        }


class EngineApps(NamedTuple):
    """One app that sends and one that receives. Both may do either."""

    sender: EngineApp
    receiver: EngineApp
