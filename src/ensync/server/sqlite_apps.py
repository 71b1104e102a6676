"""Apps, kept in the data file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ensync.server.apps import AppRecord, AppStorage
from ensync.server.sqlite_file import SqliteFile

__all__ = ["SqliteAppStorage", "open_app_storage"]


class SqliteAppStorage(AppStorage):
    """Keeps apps in a data file. What was saved is on disk."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def load(self) -> list[AppRecord]:
        """Every app, in the order of creation."""
        rows = self._file.connection.execute(
            "SELECT app_id, name, key_hash, send, receive FROM apps ORDER BY position"
        )
        return [
            AppRecord(app_id, name, key_hash, _names(send), _names(receive))
            for app_id, name, key_hash, send, receive in rows
        ]

    def save(self, record: AppRecord) -> None:
        """Adds an app, or replaces the one of the same app id."""
        with self._file.short_transaction() as connection:
            connection.execute(
                "INSERT INTO apps (app_id, name, key_hash, send, receive) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (app_id) DO UPDATE SET name = excluded.name,"
                " key_hash = excluded.key_hash, send = excluded.send, receive = excluded.receive",
                (
                    record.app_id,
                    record.name,
                    record.key_hash,
                    json.dumps(sorted(record.send)),
                    json.dumps(sorted(record.receive)),
                ),
            )

    def remove(self, app_id: str) -> None:
        """Forgets an app."""
        with self._file.short_transaction() as connection:
            connection.execute("DELETE FROM apps WHERE app_id = ?", (app_id,))


@contextmanager
def open_app_storage(path: str | os.PathLike[str]) -> Iterator[SqliteAppStorage]:
    """Opens a data file for the sake of its apps, while no engine runs on it.

    Raises:
        EnSyncGenericError: The file can't be used, or is in use.
    """
    file = SqliteFile(path)
    try:
        yield SqliteAppStorage(file)
    finally:
        file.close()


def _names(text: str) -> frozenset[str]:
    return frozenset(json.loads(text))
