"""The data file: opening it for this process alone, and committing to it."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ensync.errors import EnSyncGenericError
from ensync.server.sqlite_failures import FailureLog
from ensync.server.sqlite_schema import APPLICATION_ID, VERSION, upgrade
from ensync.server.store import StoreFailedError, StoreFullError

__all__ = ["SqliteFile", "Transaction"]

logger = logging.getLogger("ensync")

_MIB = 1 << 20

# A larger file takes too long to check as a whole. Damage to it is found when it is read.
_CHECKED_SIZE = 64 * _MIB

# The longer the log grows before it is copied into the file, the fewer pages are copied.
_LOG_PAGES = 4_000
_CACHE_KIB = 64 * 1024

_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


class Transaction:
    """What has been changed since begin(). It is on disk when commit() has returned."""

    def __init__(self, connection: sqlite3.Connection, mutex: threading.Lock) -> None:
        self._connection = connection
        self._mutex = mutex
        self._changes_before = connection.total_changes
        self._finished = False
        self._error: sqlite3.Error | None = None
        connection.execute("BEGIN")

    @property
    def changes_something(self) -> bool:
        """Whether there is anything to write to the disk."""
        return self._connection.total_changes != self._changes_before

    def commit(self) -> None:
        """Writes the changes to the disk. May be called in any thread, and more than once.

        Raises:
            sqlite3.Error: They can't be written; nothing has been changed.
        """
        with self._mutex:
            if not self._finished:
                self._finished = True
                self._error = self._try_commit()
        if self._error is not None:
            raise self._error

    def roll_back(self) -> None:
        """Forgets the changes."""
        with self._mutex:
            self._finished = True
            self._roll_back()

    def _try_commit(self) -> sqlite3.Error | None:
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            return error
        return None

    def _roll_back(self) -> None:
        # Some errors have rolled back by themselves.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


class SqliteFile:
    """A data file that is open, for this process alone.

    Statements are executed in the event loop's thread, as they don't wait for the disk
    to write. Commits do; they may be done in another thread.

    Args:
        path: Where it is.
        clock: Seconds, from any moment on.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Opens the file, which is made if need be, and upgrades an older one.

        Raises:
            EnSyncGenericError: It can't be opened or written, is in use, is damaged, is not
                a data file, or was written by a later version. Nothing was changed.
        """
        self.path = Path(os.fspath(path)).absolute()
        self._mutex = threading.Lock()
        self._transaction: Transaction | None = None
        self._failures = FailureLog(f"the data file {self.path}", clock)
        self.connection = self._open()

    def begin(self) -> Transaction:
        """Starts a transaction. There is one at a time."""
        self._transaction = Transaction(self.connection, self._mutex)
        return self._transaction

    @contextmanager
    def short_transaction(self) -> Iterator[sqlite3.Connection]:
        """Changes something at once, waiting for the disk.

        Raises:
            EnSyncGenericError: It can't be written; nothing has been changed.
        """
        self._finish_other_transaction()
        try:
            transaction = Transaction(self.connection, self._mutex)
            with _rolled_back_on_error(transaction):
                yield self.connection
                transaction.commit()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def was_written(self) -> None:
        """Takes notice that changes are on disk."""
        self._failures.worked()

    def close(self) -> None:
        """Closes the file. Closing twice is allowed."""
        self.connection.close()

    def failure(self, error: sqlite3.Error) -> StoreFailedError:
        """Says to clients, without names of files, what they need to know of an error."""
        self._failures.failed(str(error))
        kind = _kind(error)
        if kind == "SQLITE_FULL":
            return StoreFullError("the engine's disk is full: nothing was changed")
        if kind in _DAMAGED:
            return StoreFailedError("the engine's data file is damaged: nothing was changed")
        return StoreFailedError("the engine can't use its data file: nothing was changed")

    def _finish_other_transaction(self) -> None:
        if self._transaction is None:
            return
        try:
            self._transaction.commit()
        except sqlite3.Error as error:
            # Whoever began it is told by its own call of commit().
            logger.debug("a transaction failed before its time: %s", error)

    def _open(self) -> sqlite3.Connection:
        is_new = self._make_file()
        try:
            connection = sqlite3.connect(
                self.path, timeout=0, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        try:
            self._prepare(connection)
        except BaseException as error:
            # Before it is closed: until then nobody else can have begun to use the file.
            if is_new and not _is_in_use(error):
                self._forget_files()
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise self._unusable(error) from error
            raise
        return connection

    def _make_file(self) -> bool:
        """Makes the file, for this user alone: names and metadata are in the clear in it."""
        # SQLite gives the files that it puts beside the permissions of this one.
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        try:
            os.close(os.open(self.path, flags, 0o600))
        except OSError:  # it is there; or it can't be made, which SQLite finds out too
            return False
        return True

    def _forget_files(self) -> None:
        for end in ("", "-wal"):
            self.path.with_name(self.path.name + end).unlink(missing_ok=True)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # First of all: no other process can open it from the first look on.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        version = self._check_version(connection)
        self._check_for_damage(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("BEGIN IMMEDIATE")
        upgrade(connection, version)
        connection.execute("COMMIT")

    def _check_version(self, connection: sqlite3.Connection) -> int:
        version = _pragma(connection, "user_version")
        application_id = _pragma(connection, "application_id")
        is_new = not version and not application_id and not _pragma(connection, "schema_version")
        if not is_new and application_id != APPLICATION_ID:
            raise self._error(
                "is an SQLite database, but not a data file of an engine", "data_unusable"
            )
        if version > VERSION:
            raise self._error(
                f"was written by a later version of ensync (format {version}; this version "
                f"reads formats up to {VERSION}): use that version, or another file",
                "data_newer",
            )
        return version

    def _check_for_damage(self, connection: sqlite3.Connection) -> None:
        if self.path.stat().st_size > _CHECKED_SIZE:
            return
        with closing(connection.execute("PRAGMA quick_check(1)")) as findings:
            found = str(findings.fetchone()[0])
        if found != "ok":
            raise self._error(f"is damaged: {found}", "data_damaged")

    def _unusable(self, error: sqlite3.Error) -> EnSyncGenericError:
        kind = _kind(error)
        if _is_in_use(error):
            return self._error("is in use by another engine or program", "data_in_use")
        if kind in _DAMAGED:
            return self._error(f"is damaged, or is not a data file: {error}", "data_damaged")
        if kind == "SQLITE_FULL":
            return self._error("can't be written: the disk is full", "data_disk_full")
        return self._error(f"can't be used: {self._obstacle() or error}", "data_unusable")

    def _obstacle(self) -> str | None:
        if self.path.is_dir():
            return "it is a directory"
        if not self.path.parent.is_dir():
            return f"there is no directory {self.path.parent}"
        if self.path.exists() and not _may_use(self.path):
            return "this user has no permission to read and write it"
        if not _may_use(self.path.parent):
            return f"this user has no permission to write to its directory, {self.path.parent}"
        return None

    def _error(self, what: str, code: str) -> EnSyncGenericError:
        return EnSyncGenericError(f"the data file {self.path} {what}", code=code)


@contextmanager
def _rolled_back_on_error(transaction: Transaction) -> Iterator[None]:
    try:
        yield
    except BaseException:  # left open, also by an interrupt, it would keep out all others
        transaction.roll_back()
        raise


def _may_use(path: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    return os.access(path, os.R_OK | os.W_OK, effective_ids=effective)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _is_in_use(error: BaseException) -> bool:
    return isinstance(error, sqlite3.Error) and _kind(error) == "SQLITE_BUSY"


def _kind(error: sqlite3.Error) -> str:
    """The kind of an error, such as SQLITE_IOERR for SQLITE_IOERR_WRITE."""
    name: str = getattr(error, "sqlite_errorname", "")
    return "_".join(name.split("_")[:2])
