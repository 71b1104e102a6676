# What this package uses of trio-asyncio, which has no type hints.
import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

current_loop: ContextVar[asyncio.AbstractEventLoop | None]

def open_loop() -> AbstractAsyncContextManager[asyncio.AbstractEventLoop]: ...
def aio_as_trio(
    function: Callable[[*_Ts], Awaitable[_T]], *, loop: asyncio.AbstractEventLoop | None = None
) -> Callable[[*_Ts], Awaitable[_T]]: ...
