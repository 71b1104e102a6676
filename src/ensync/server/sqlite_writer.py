"""Group commit: everything that is asked for while the disk is busy is committed next, at once."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from ensync.server.sqlite_file import SqliteFile, Transaction
from ensync.server.store import StoreFailedError

__all__ = ["Operation", "Writer"]

T = TypeVar("T")

# So that one commit does not hold up the event loop for long.
_BATCH = 256


class Operation(Generic[T]):
    """Something to do with the file.

    Args:
        perform: Does it. It may be called again, if the commit fails that it was part of.
        succeeded: Told the result, once that is on disk.
        failed: Told that nothing was changed.
    """

    __slots__ = ("_error", "_failed", "_finished", "_result", "_succeeded", "perform")

    def __init__(
        self,
        perform: Callable[[], T],
        succeeded: Callable[[T], object] | None = None,
        failed: Callable[[Exception], object] | None = None,
    ) -> None:
        self.perform = perform
        self._succeeded = succeeded
        self._failed = failed
        self._finished: anyio.Event | None = None
        self._result: list[T] = []
        self._error: Exception | None = None

    def succeed(self, result: T) -> None:
        """It is done, and on disk."""
        self._result.append(result)
        if self._succeeded is not None:
            self._succeeded(result)
        self._wake()

    def fail(self, error: Exception) -> None:
        """It could not be done."""
        self._error = error
        if self._failed is not None:
            self._failed(error)
        self._wake()

    async def wait(self) -> T:
        """Waits until it is on disk. Cancelling this does not stop it."""
        if not self._result and self._error is None:
            self._finished = anyio.Event()
            await self._finished.wait()
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _wake(self) -> None:
        if self._finished is not None:
            self._finished.set()


class Writer:
    """Performs operations in the order of asking, and commits many of them at once.

    Statements are executed in the event loop, where no other thread competes for the
    interpreter: a few microseconds each. Only commits wait for the disk, so they have a
    thread. What is asked for meanwhile is the next batch.

    Args:
        file: What to write to.
        extra_operations: Makes what is to be done along with each batch.
        rolled_back: Told when changes were undone, also of operations done again.
    """

    def __init__(
        self,
        file: SqliteFile,
        extra_operations: Callable[[], list[Operation[Any]]],
        rolled_back: Callable[[], object],
    ) -> None:
        self._file = file
        self._extra_operations = extra_operations
        self._rolled_back = rolled_back
        self._pending: deque[Operation[Any]] = deque()
        self._wake: anyio.Event | None = None
        self._has_stopped = False

    def start(self, operation: Operation[Any]) -> None:
        """Has an operation performed."""
        if self._has_stopped:
            operation.fail(_stopping())
            return
        self._pending.append(operation)
        if self._wake is not None:
            self._wake.set()

    async def do(
        self, perform: Callable[[], T], succeeded: Callable[[T], object] | None = None
    ) -> T:
        """Performs something and returns its result, when that is on disk.

        Raises:
            StoreFailedError: Nothing was changed.
        """
        operation = Operation(perform, succeeded)
        self.start(operation)
        return await operation.wait()

    async def run(self) -> None:
        """Performs operations until it is cancelled; then the others fail."""
        self._has_stopped = False
        # One of its own, so that no other thread of the program can hold it up.
        limiter = anyio.CapacityLimiter(1)
        try:
            while True:
                await self._something_to_do()
                with anyio.CancelScope(shield=True):  # begun is ended: it takes one commit
                    await self._perform(self._next_batch(), limiter)
        finally:
            self._has_stopped = True
            while self._pending:
                self._pending.popleft().fail(_stopping())

    async def _something_to_do(self) -> None:
        self._wake = anyio.Event()
        if self._pending:
            await anyio.lowlevel.checkpoint()
        else:
            await self._wake.wait()

    def _next_batch(self) -> list[Operation[Any]]:
        count = min(_BATCH, len(self._pending))
        batch = [self._pending.popleft() for _ in range(count)]
        # First of all: what is read in this batch is to be as it will be known.
        return self._extra_operations() + batch

    async def _perform(self, batch: list[Operation[Any]], limiter: anyio.CapacityLimiter) -> None:
        transaction = self._file.begin()
        try:
            results = [operation.perform() for operation in batch]
            await _commit(transaction, limiter)
        except Exception as error:  # noqa: BLE001 - handed to whoever asked for it
            transaction.roll_back()
            self._rolled_back()
            await self._perform_singly(batch, error, limiter)
            return
        if transaction.changes_something:
            self._file.was_written()
        for operation, result in zip(batch, results, strict=True):
            operation.succeed(result)

    async def _perform_singly(
        self, batch: list[Operation[Any]], error: Exception, limiter: anyio.CapacityLimiter
    ) -> None:
        """What can't be done must not keep from being done what it was to be committed with."""
        if len(batch) > 1:
            for operation in batch:
                await self._perform([operation], limiter)
        elif isinstance(error, sqlite3.Error):
            batch[0].fail(self._file.failure(error))
        else:
            batch[0].fail(error)


async def _commit(transaction: Transaction, limiter: anyio.CapacityLimiter) -> None:
    if transaction.changes_something:
        await anyio.to_thread.run_sync(transaction.commit, limiter=limiter)
    else:
        transaction.commit()


def _stopping() -> StoreFailedError:
    return StoreFailedError("the engine is stopping")
