"""Runs asyncio code for programs that run on trio.

The one module that knows both runtimes; everything else is written against
anyio, or is asyncio code that is only ever started from here. On asyncio it adds
nothing. On trio it opens a trio-asyncio loop in the same thread, so objects of
both sides may touch each other freely: an ``anyio.Event`` made on one side can be
set from the other.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar, TypeVarTuple

import anyio
from anyio.lowlevel import checkpoint

from ensync.errors import EnSyncGenericError

__all__ = [
    "ASYNCIO_OF_ITS_OWN",
    "AsyncioSide",
    "Latch",
    "accepting_task",
    "being_cancelled",
    "current_clock",
    "current_task_finder",
    "ended_well",
    "latch_type",
    "let_interrupts_wait",
    "open_asyncio_side",
    "runs_elsewhere",
]

# For anyio. Named, because trio-asyncio has its own loop made where none is, once it is imported.
ASYNCIO_OF_ITS_OWN: dict[str, Any] = {"loop_factory": asyncio.SelectorEventLoop}

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

logger = logging.getLogger("ensync")


class AsyncioSide:
    """Where the transports' asyncio code runs, for as long as its scope is open."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Awaits an asyncio function; cancelling this cancels it."""
        return await function(*args)

    def spawn(
        self, function: Callable[[*Ts], Coroutine[Any, Any, object]], *args: *Ts, name: str
    ) -> asyncio.Task[Any]:
        """Starts an asyncio task that ends with the scope, at the latest.

        The function handles its own errors; one that escapes is logged.
        """
        task = self._loop.create_task(function(*args), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    async def create_connection(
        self,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
    ) -> asyncio.BaseProtocol:
        """Connects a TCP socket and hands it to a protocol. Asyncio side only."""
        with _told_to_callbacks():
            _, protocol = await self._loop.create_connection(make_protocol, host, port, ssl=tls)
        return protocol

    async def create_server(
        self,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        tls_handshake_timeout: float | None = None,
    ) -> asyncio.Server:
        """Listens on a TCP port and hands each connection to a protocol. Asyncio side only."""
        timeout = None if tls is None else tls_handshake_timeout
        with _told_to_callbacks():
            return await self._loop.create_server(
                make_protocol, host, port, ssl=tls, ssl_handshake_timeout=timeout
            )

    def call_soon(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Calls a function in the next turn of the asyncio loop."""
        self._loop.call_soon(function, *args)

    def call_later(self, delay: float, function: Callable[[], object]) -> Callable[[], object]:
        """Calls a function on the asyncio side after so many seconds.

        Returns:
            A function that cancels it.
        """
        with _told_to_callbacks():
            return self._loop.call_later(delay, function).cancel

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            logger.error("internal error in %s", task.get_name(), exc_info=error)

    async def _cancel_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class _AsyncioSideOfTrio(AsyncioSide):
    async def run(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        import trio_asyncio

        result: T = await trio_asyncio.aio_as_trio(function, loop=self._loop)(*args)
        return result


@asynccontextmanager
async def open_asyncio_side() -> AsyncIterator[AsyncioSide]:
    """Opens the asyncio side of the runtime that is running.

    Raises:
        EnSyncGenericError: Under trio, when trio-asyncio is not installed.
    """
    if _on_trio():
        async with _open_trio_asyncio_loop() as loop:
            side: AsyncioSide = _AsyncioSideOfTrio(loop)
            async with _tasks_ended(side):
                yield side
        return
    side = AsyncioSide(asyncio.get_running_loop())
    async with _tasks_ended(side):
        yield side


@asynccontextmanager
async def _tasks_ended(side: AsyncioSide) -> AsyncIterator[None]:
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await side.run(side._cancel_tasks)  # pyright: ignore[reportPrivateUsage]


@asynccontextmanager
async def _open_trio_asyncio_loop() -> AsyncIterator[asyncio.AbstractEventLoop]:
    is_first_import = "trio_asyncio" not in sys.modules
    try:
        with warnings.catch_warnings():
            # It subclasses what Python 3.12 deprecates, which is nothing to the user.
            warnings.simplefilter("ignore", DeprecationWarning)
            import trio_asyncio
    except ImportError as error:
        raise EnSyncGenericError(
            "running under trio needs trio-asyncio: pip install 'ensync[trio]'",
            code="missing_extra",
        ) from error
    if is_first_import:
        _leave_asyncio_programs_alone()
    _share_what_was_replaced()
    running = trio_asyncio.current_loop.get()
    if running is not None:
        yield running
        return
    raised: BaseException | None = None
    try:
        async with trio_asyncio.open_loop() as loop:
            loop.set_exception_handler(_log_loop_error)
            _mark_socket_callbacks(loop)
            _protect_from_interrupts(loop)
            try:
                with _reading_on_at_once(loop):
                    yield loop
            except BaseException as error:  # noqa: BLE001 - raised again below
                # The loop's own task groups would wrap it, once for each of them.
                raised = error
    finally:
        if raised is not None:
            raise raised


def _leave_asyncio_programs_alone() -> None:
    # Once it is imported, trio-asyncio runs asyncio's programs on trio too, unless they set
    # a policy. Who has run ensync on trio has not asked for that.
    patches: Any = sys.modules["trio_asyncio._loop"]
    patches._FakedPolicy.policy = patches._original_policy


def _share_what_was_replaced() -> None:
    # Importing trio-asyncio replaces these functions in asyncio by some that know its
    # loops; anyio and grpclib have taken the former ones before.
    import grpclib.utils
    from anyio._backends import _asyncio as anyio_backend

    for module, name, function in (
        (anyio_backend, "current_task", asyncio.current_task),
        (anyio_backend, "get_running_loop", asyncio.get_running_loop),
        (grpclib.utils, "_current_task", asyncio.current_task),
    ):
        if hasattr(module, name):
            setattr(module, name, function)


def _mark_socket_callbacks(loop: Any) -> None:
    # trio-asyncio marks what it runs as asyncio code, all but the callbacks for sockets:
    # anyio would take those for trio code, and make trio's events for asyncio's tasks.
    for name in ("_add_reader", "_add_writer"):
        setattr(loop, name, _marking(getattr(loop, name)))


def _protect_from_interrupts(loop: Any) -> None:
    # An interrupt in one of the loop's own tasks would end the loop, and whoever waits for
    # it would wait for ever. The program's main task is the one to be interrupted.
    import trio

    protect = trio.lowlevel.enable_ki_protection
    run_one, io_task, call_soon = loop._main_loop_one, loop._io_task, loop.call_soon  # pyright: ignore[reportPrivateUsage]

    @protect
    async def run(no_wait: bool = False) -> None:
        await run_one(no_wait)
        # On and on, since the loop around this one is not protected.
        while not no_wait and not loop._stopped.is_set():  # pyright: ignore[reportPrivateUsage]
            await run_one()

    @protect
    async def protected_io_task(*args: Any) -> None:
        await io_task(*args)

    # The program's tasks come here when they complete what asyncio's wait for: interrupted
    # half-way, it would be complete, and nobody be told.
    @protect
    def protected_call_soon(*args: Any, **keywords: Any) -> object:
        return call_soon(*args, **keywords)

    loop._main_loop_one = run  # pyright: ignore[reportPrivateUsage]
    loop._io_task = protected_io_task  # pyright: ignore[reportPrivateUsage]
    loop.call_soon = protected_call_soon


@contextmanager
def _reading_on_at_once(loop: Any) -> Iterator[None]:
    # After each callback for a socket, trio-asyncio waits until all that was called soon by
    # then is done: two more switches of tasks for each time that something is read.
    async def no_need() -> None:
        pass

    loop.synchronize = no_need
    try:
        yield
    finally:
        # It ends by the same means.
        del loop.synchronize


def _marking(add: Callable[..., object]) -> Callable[..., object]:
    import trio
    from sniffio import thread_local

    def add_marked(fd: object, callback: Callable[..., object], *args: object) -> object:
        @trio.lowlevel.enable_ki_protection
        def marked() -> None:
            before, thread_local.name = thread_local.name, "asyncio"
            try:
                callback(*args)
            finally:
                thread_local.name = before

        return add(fd, marked)

    return add_marked


@contextmanager
def _told_to_callbacks() -> Iterator[None]:
    # A callback is no task: sniffio, and with it anyio, knows asyncio there only by the
    # context that it was registered in. anyio.run() says so in it; asyncio.run() does not.
    try:
        from sniffio import current_async_library_cvar
    except ImportError:
        yield  # then anyio asks asyncio itself
        return
    token = current_async_library_cvar.set("asyncio")
    try:
        yield
    finally:
        current_async_library_cvar.reset(token)


def _log_loop_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # trio-asyncio's own handler raises out of the scope and would end the user's program.
    logger.error(
        "error in an asyncio callback: %s",
        context.get("message"),
        exc_info=context.get("exception"),
    )


def _on_trio() -> bool:
    try:
        import sniffio  # comes with trio, so its absence is an answer
    except ImportError:
        return False
    try:
        return sniffio.current_async_library() == "trio"
    except sniffio.AsyncLibraryNotFoundError:
        return False


def current_clock() -> Callable[[], float]:
    """``anyio.current_time``, for those who ask so often that looking for the loop tells."""
    if _on_trio():
        import trio

        return trio.current_time
    return asyncio.get_running_loop().time


class Latch(Protocol):
    """An ``anyio.Event`` for one task that waits, which costs less."""

    def set(self) -> None:
        """Lets the task go on. Once more does nothing."""
        ...

    async def wait(self) -> None:
        """Waits until it is set."""
        ...


class _LatchOfAsyncio:
    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        if self._future.done():
            await checkpoint()
        else:
            await self._future


def _latch_type_of_trio() -> type[Latch]:
    from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

    class LatchOfTrio:
        __slots__ = ("_is_set", "_task")

        def __init__(self) -> None:
            self._is_set = False
            self._task: Task | None = None

        def set(self) -> None:
            self._is_set = True
            task, self._task = self._task, None
            if task is not None:
                reschedule(task)

        async def wait(self) -> None:
            if self._is_set:
                await checkpoint()
            else:
                self._task = current_task()
                await wait_task_rescheduled(self._cancelled)

        def _cancelled(self, _raise: object) -> Abort:
            self._task = None
            return Abort.SUCCEEDED

    return LatchOfTrio


def latch_type() -> type[Latch]:
    """The class of latches for the event loop that is running."""
    return _latch_type_of_trio() if _on_trio() else _LatchOfAsyncio


def accepting_task() -> asyncio.Task[Any] | None:
    """The task that accepts a connection, where its protocol is made. Asyncio side only.

    It goes on until TLS is established; cancelled, it closes the connection. None with loops
    that have no such task: those of uvloop, and of asyncio on Windows.
    """
    return asyncio.current_task()


def let_interrupts_wait(*functions: Callable[..., object]) -> None:
    """On trio, has an interrupt wait until these functions, and what they call, are done.

    It comes at the program's next checkpoint then, and not in the middle of an entry in a
    client's books. On asyncio interrupts come at checkpoints anyway. To be called by the
    program's side: on the asyncio side it does nothing.
    """
    if _on_trio():
        import trio

        for function in functions:
            trio.lowlevel.enable_ki_protection(function)


def current_task_finder() -> Callable[[], Any]:
    """What tells the task that is running; it raises RuntimeError where none is."""
    if _on_trio():
        import trio

        return trio.lowlevel.current_task
    return asyncio.current_task


def ended_well(task: Any) -> bool:
    """Whether a task is over, and neither failed nor was cancelled. Trio does not tell: False."""
    if not isinstance(task, asyncio.Future):
        return False
    return task.done() and not task.cancelled() and task.exception() is None


def runs_elsewhere(task: Any, here: Any) -> bool:
    """Whether a task, if there is one, goes on and is not the one that is running."""
    if task is None or task is here:
        return False
    if isinstance(task, asyncio.Future):
        return not task.done()
    return task in task.parent_nursery.child_tasks


def being_cancelled() -> bool:
    """Whether the running task is inside a cancelled scope, or is cancelled itself."""
    if anyio.current_effective_deadline() == -math.inf:
        return True
    if _on_trio():
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
