"""Counts what lives, and waits until it is no more than before."""

from __future__ import annotations

import anyio

from tests.conftest import live_tasks, open_files
from tests.unit.server.grpc_client import until

__all__ = ["Census"]


class Census:
    """The tasks and open files of a moment at which everything was at rest.

    Numbers, since a connection that was made anew brings others of the same kind.
    """

    def __init__(self) -> None:
        self._tasks, self._files = len(live_tasks()), len(open_files())

    @classmethod
    async def at_rest(cls) -> Census:
        """Takes it when no task has anything to do."""
        await anyio.wait_all_tasks_blocked()
        return cls()

    async def is_the_same_again(self) -> None:
        """Waits until there are no more than before; the error of one that stays names it."""
        try:
            await until(self._is_no_more)
        except TimeoutError:
            raise AssertionError(
                f"more than {self._tasks} tasks, or {self._files} files: "
                f"{live_tasks()}, {open_files()}"
            ) from None

    def _is_no_more(self) -> bool:
        return len(live_tasks()) <= self._tasks and len(open_files()) <= self._files
