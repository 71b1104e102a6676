"""Classes whose objects users receive and never make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

__all__ = ["Received", "make_received"]

P = ParamSpec("P")
T = TypeVar("T")


class Received(type):
    """A metaclass: calling or subclassing such a class is a TypeError."""

    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **keywords: Any
    ) -> Received:
        for base in bases:
            if isinstance(base, Received):
                raise TypeError(f"{base.__qualname__} can't be subclassed")
        return super().__new__(mcs, name, bases, namespace, **keywords)

    def __call__(cls, *args: object, **keywords: object) -> Any:
        raise TypeError(f"{cls.__qualname__} objects are received, not made: {cls.__doc__}")


def make_received(cls: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
    """Makes an object of such a class; for this package only."""
    # No cast(), which is a call: this is on the hot path.
    as_type: Any = cls
    made: T = type.__call__(as_type, *args, **keywords)
    return made
