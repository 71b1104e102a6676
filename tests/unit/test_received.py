"""Objects that users receive can't be made or subclassed by accident."""

from __future__ import annotations

from typing import Any

import pytest

from ensync.received import Received, make_received


class Parcel(metaclass=Received):
    """Comes by post."""

    def __init__(self, weight: int, *, sender: str) -> None:
        self.weight, self.sender = weight, sender


def test_made_by_the_package() -> None:
    parcel = make_received(Parcel, 3, sender="me")
    assert isinstance(parcel, Parcel)
    assert (parcel.weight, parcel.sender) == (3, "me")


def test_not_made_by_calling() -> None:
    with pytest.raises(TypeError, match="Parcel objects are received, not made: Comes by post"):
        Parcel(3, sender="me")


def test_not_subclassed() -> None:
    base: Any = Parcel
    with pytest.raises(TypeError, match="Parcel can't be subclassed"):
        type("Mine", (base,), {})
