"""An engine in a thread of its own, for tests of any kind: sync, asyncio or trio."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple, overload

import anyio
import anyio.abc
from anyio.from_thread import start_blocking_portal

from ensync.errors import EnSyncGenericError
from ensync.server.apps import ANY_NAME
from ensync.server.local import LocalEngine
from ensync.server.statistics import Statistics
from ensync.testing.engine_app import EngineApp, EngineApps
from ensync.testing.engine_thread import EngineThread
from ensync.testing.faults import Faults
from ensync.testing.restart import RestartableEngine
from ensync.testing.threaded_faults import ThreadedFaults
from ensync.transports.bridge import ASYNCIO_OF_ITS_OWN

__all__ = ["ThreadedEngine"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class ThreadedEngine:
    """A RestartableEngine in a thread of its own, so that no test's event loop matters to it.

        with ThreadedEngine() as engine:
            app = engine.create_app()
            ...                                   # anyio.run(...), a subprocess, anything

    It may be used in any thread. Its plain methods block for a moment at most; those that
    wait are async, and wait in whichever loop they are called. A test without a loop
    calls them by ``engine.call(engine.restart)``.

    Args:
        options: As for RestartableEngine.

    Raises:
        EnSyncValidationError: An option is wrong.
        EnSyncGenericError: On leaving: something in the engine has failed meanwhile.
    """

    def __init__(self, **options: Any) -> None:
        self._restartable = RestartableEngine(**options)
        self._stack = ExitStack()
        self._apps_made = 0
        self._thread: EngineThread | None = None
        self._served: Future[None] | None = None
        self._leaving: anyio.Event | None = None

    def __repr__(self) -> str:
        return f"<ThreadedEngine {self.url if self._thread else 'not running'}>"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio", ASYNCIO_OF_ITS_OWN))
            thread = EngineThread(portal)
            stack.enter_context(_no_failure_in(thread))
            self._restartable.faults = ThreadedFaults(thread)
            self._served, self._leaving = portal.start_task(self._serve)
            self._thread = thread
            stack.callback(self._stop_serving)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    # What it is

    @property
    def url(self) -> str:
        """Where gRPC clients connect to."""
        return self._restartable.url

    @property
    def websocket_url(self) -> str:
        """Where WebSocket clients connect to."""
        return self._restartable.websocket_url

    @property
    def faults(self) -> Faults:
        """Makes it misbehave. To be used in any thread, other than usual.

        Raises:
            EnSyncGenericError: It was not entered: these begin and end with its block.
        """
        self._entered()
        return self._restartable.faults

    @property
    def engine(self) -> LocalEngine:
        """The engine itself. To be used in its thread only: by ``call``.

        Raises:
            RuntimeError: It is stopped.
        """
        return self._restartable.engine

    @property
    def is_running(self) -> bool:
        """Whether it is running now, and was not stopped."""
        return self._thread is not None and self._restartable.is_running

    def statistics(self) -> Statistics:
        """A snapshot of what the engine has done and is doing, since its last start."""
        return self.call(self.engine.statistics)

    # Apps

    def create_app(
        self,
        name: str | None = None,
        send: Iterable[str] = (ANY_NAME,),
        receive: Iterable[str] = (ANY_NAME,),
    ) -> EngineApp:
        """Makes an app, which is ready to be connected as.

        Args:
            name: What people call it; not in use yet. By default, a new name.
            send: The event names it may publish, ``"*"`` for all.
            receive: The event names it may subscribe to, ``"*"`` for all.

        Raises:
            EnSyncValidationError: An argument is wrong, or the name is in use.
        """
        name = self._new_name("app") if name is None else name
        app = self.call(self._restartable.create_app, name, send, receive)
        return EngineApp.of(app, self.url, self.websocket_url)

    def create_apps(self) -> EngineApps:
        """Makes a sender and a receiver, of new names."""
        return EngineApps(
            self.create_app(self._new_name("sender")), self.create_app(self._new_name("receiver"))
        )

    # Its life

    async def start(self) -> None:
        """Starts it, on the ports that it had before. Does nothing when it runs."""
        await self._entered().run(self._restartable.start)

    async def stop(self, *, crash: bool = False) -> None:
        """Stops it, as ``RestartableEngine.stop``."""
        await self._entered().run(lambda: self._restartable.stop(crash=crash))

    async def restart(
        self, *, crash: bool = False, forget_events: bool = False, forget_apps: bool = False
    ) -> None:
        """Stops it and starts it again, as ``RestartableEngine.restart``."""
        await self._entered().run(
            lambda: self._restartable.restart(
                crash=crash, forget_events=forget_events, forget_apps=forget_apps
            )
        )

    # Its thread

    @overload
    def call(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T: ...
    @overload
    def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T: ...
    def call(self, function: Callable[[*Ts], object], *args: *Ts) -> object:
        """Calls a function, async or not, in the engine's thread; blocks until it returns.

        Not for what waits for a client that lives in the caller's loop.
        """
        return self._entered().call(function, *args)

    def _entered(self) -> EngineThread:
        if self._thread is None:
            raise EnSyncGenericError(
                "this engine is not running: use it inside its 'with' block", code="not_running"
            )
        if self._served is not None and self._served.done():
            self._served.result()
        return self._thread

    async def _serve(self, *, task_status: anyio.abc.TaskStatus[anyio.Event]) -> None:
        leaving = anyio.Event()
        async with self._restartable:
            task_status.started(leaving)
            await leaving.wait()

    def _stop_serving(self) -> None:
        thread, served, leaving = self._thread, self._served, self._leaving
        assert thread is not None
        assert served is not None
        assert leaving is not None
        self._thread = None
        if not served.done():
            thread.call(leaving.set)
        served.result()

    def _new_name(self, kind: str) -> str:
        self._apps_made += 1
        return f"{kind}-{self._apps_made}"


class _Failures(logging.Handler):
    """Collects the errors that an engine logs, as it has nobody else to tell them."""

    def __init__(self, thread: EngineThread) -> None:
        super().__init__(logging.ERROR)
        self._thread = thread
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread.identity:
            self.records.append(record)


@contextmanager
def _no_failure_in(thread: EngineThread) -> Iterator[None]:
    logger = logging.getLogger("ensync")
    failures = _Failures(thread)
    logger.addHandler(failures)
    try:
        yield
    finally:
        logger.removeHandler(failures)
    for record in failures.records:
        cause = record.exc_info[1] if record.exc_info else None
        raise EnSyncGenericError(
            f"the engine has failed meanwhile: {record.getMessage()}", code="engine_failed"
        ) from cause
