"""Apps: who may connect, and what each may send and receive."""

from __future__ import annotations

import hashlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ensync.crypto import SecretKey
from ensync.errors import EnSyncValidationError
from ensync.wire_text import check_wire_text

__all__ = ["ANY_NAME", "App", "AppRecord", "AppRegistry", "AppStorage", "MemoryAppStorage"]

ANY_NAME = "*"


class App(NamedTuple):
    """A new app, with the two secrets that the engine does not keep.

    Attributes:
        name: What people call it.
        app_id: The app's public name, which recipients and senders are given as.
        app_key: What its clients authenticate with. Secret.
        secret_key: What its clients decrypt with. Secret.
    """

    name: str
    app_id: str
    app_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"App(name={self.name!r}, app_id={self.app_id!r})"


class AppRecord(NamedTuple):
    """What the engine keeps of an app."""

    app_id: str
    name: str
    key_hash: str
    send: frozenset[str]
    receive: frozenset[str]

    def may_send(self, event_name: str) -> bool:
        """Whether the app may publish events of this name."""
        return event_name in self.send or ANY_NAME in self.send

    def may_receive(self, event_name: str) -> bool:
        """Whether the app may subscribe to events of this name."""
        return event_name in self.receive or ANY_NAME in self.receive


class AppStorage(ABC):
    """Keeps the records of apps. Called rarely, so it may block for a few milliseconds."""

    @abstractmethod
    def load(self) -> list[AppRecord]:
        """Every app, in the order of creation."""

    @abstractmethod
    def save(self, record: AppRecord) -> None:
        """Adds an app, or replaces the one of the same app id."""

    @abstractmethod
    def remove(self, app_id: str) -> None:
        """Forgets an app. It is there: the registry has looked."""


class MemoryAppStorage(AppStorage):
    """Keeps apps for as long as the process lives."""

    def __init__(self) -> None:
        self._records: dict[str, AppRecord] = {}

    def load(self) -> list[AppRecord]:
        """Every app, in the order of creation."""
        return list(self._records.values())

    def save(self, record: AppRecord) -> None:
        """Adds or replaces an app."""
        self._records[record.app_id] = record

    def remove(self, app_id: str) -> None:
        """Forgets an app."""
        del self._records[app_id]


class AppRegistry:
    """The apps an engine knows."""

    def __init__(
        self,
        storage: AppStorage | None = None,
        *,
        new_app_key: Callable[[], str] = lambda: secrets.token_urlsafe(32),
        new_secret_key: Callable[[], SecretKey] = SecretKey.generate,
    ) -> None:
        self._storage = MemoryAppStorage() if storage is None else storage
        self._new_app_key = new_app_key
        self._new_secret_key = new_secret_key
        self._by_id: dict[str, AppRecord] = {}
        self._by_hash: dict[str, AppRecord] = {}
        for record in self._storage.load():
            self._remember(record)

    def create(
        self,
        name: str,
        *,
        send: Iterable[str] = (ANY_NAME,),
        receive: Iterable[str] = (ANY_NAME,),
    ) -> App:
        """Makes an app, its keys included.

        Args:
            name: What people call it; 1 to 200 characters, not in use.
            send: Event names it may publish, ``"*"`` for all.
            receive: Event names it may subscribe to, ``"*"`` for all.

        Raises:
            EnSyncValidationError: An argument is wrong, or the name is in use.
        """
        self._check_new_name(name)
        app_key = self._new_app_key()
        secret_key = self._new_secret_key()
        record = AppRecord(
            app_id=secret_key.app_id,
            name=name,
            key_hash=_hash(app_key),
            send=_permissions("send", send),
            receive=_permissions("receive", receive),
        )
        self._keep(record)
        return App(name, record.app_id, app_key, secret_key.reveal())

    def rotate(self, app_id: str) -> str:
        """Gives an app a new app key, which is returned and not kept. The old one ends.

        Clients that are connected stay so.

        Raises:
            EnSyncValidationError: There is no such app.
        """
        record = self._known(app_id)
        app_key = self._new_app_key()
        self._keep(record._replace(key_hash=_hash(app_key)))
        del self._by_hash[record.key_hash]
        return app_key

    def remove(self, app_id: str) -> None:
        """Forgets an app: its key is refused from now on.

        Raises:
            EnSyncValidationError: There is no such app.
        """
        record = self._known(app_id)
        self._storage.remove(app_id)
        del self._by_id[app_id]
        del self._by_hash[record.key_hash]

    def get(self, app_id: str) -> AppRecord | None:
        """The app of this app id."""
        return self._by_id.get(app_id)

    def authenticate(self, app_key: str) -> AppRecord | None:
        """The app that a key belongs to. Only hashes are compared."""
        return self._by_hash.get(_hash(app_key))

    def list(self) -> list[AppRecord]:
        """Every app, in the order of creation."""
        return list(self._by_id.values())

    def _keep(self, record: AppRecord) -> None:
        self._storage.save(record)
        self._remember(record)

    def _remember(self, record: AppRecord) -> None:
        self._by_id[record.app_id] = record
        self._by_hash[record.key_hash] = record

    def _known(self, app_id: str) -> AppRecord:
        record = self._by_id.get(app_id)
        if record is None:
            raise EnSyncValidationError("there is no app with this app id")
        return record

    def _check_new_name(self, name: str) -> None:
        check_wire_text("name", name, minimum=1, maximum=200)
        if any(record.name == name for record in self._by_id.values()):
            raise EnSyncValidationError(f"there is already an app named {name!r}")


def _hash(app_key: str) -> str:
    # An app key is random and long, so a plain hash can't be guessed back.
    return hashlib.sha256(app_key.encode("utf-8", "surrogatepass")).hexdigest()


def _permissions(argument: str, names: Iterable[str]) -> frozenset[str]:
    if isinstance(names, str):
        raise EnSyncValidationError(
            f"{argument} must be a list of event names, such as ['orders/created'] or ['*']"
        )
    return frozenset(_permission(argument, name) for name in names)


def _permission(argument: str, name: str) -> str:
    check_wire_text(f"a name in {argument}", name, minimum=1, maximum=1024)
    if ANY_NAME in name and name != ANY_NAME:
        raise EnSyncValidationError(
            f"a name in {argument} is {name!r}, but there are no patterns: names are compared "
            f"whole. Give each name, or {ANY_NAME!r} alone for all"
        )
    return name
