"""The error tree, what errors carry, and that they survive a trip to another process."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

import ensync.errors
from ensync.errors import (
    EnSyncAuthenticationError,
    EnSyncConnectionError,
    EnSyncError,
    EnSyncGenericError,
    EnSyncInvalidEventError,
    EnSyncPublishError,
    EnSyncSubscriptionError,
    EnSyncTimeoutError,
    EnSyncValidationError,
)
from ensync.event import RawEvent
from ensync.received import make_received

E = TypeVar("E", bound=EnSyncError)

# class, parent, default code, default retryable
TREE: list[tuple[type[EnSyncError], type[Exception], str, bool]] = [
    (EnSyncError, Exception, "error", False),
    (EnSyncConnectionError, EnSyncError, "connection_failed", True),
    (EnSyncAuthenticationError, EnSyncConnectionError, "authentication_refused", False),
    (EnSyncTimeoutError, EnSyncConnectionError, "timeout", True),
    (EnSyncPublishError, EnSyncError, "publish_failed", False),
    (EnSyncSubscriptionError, EnSyncError, "subscription_failed", False),
    (EnSyncInvalidEventError, EnSyncSubscriptionError, "invalid_event", False),
    (EnSyncValidationError, EnSyncError, "invalid_argument", False),
    (EnSyncGenericError, EnSyncError, "error", False),
]
CLASSES = [row[0] for row in TREE]


def through_pickle(error: E) -> E:
    copied: E = pickle.loads(pickle.dumps(error))
    return copied


COPIES: dict[str, Callable[[EnSyncError], EnSyncError]] = {
    "pickle": through_pickle,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def test_the_tree_is_complete() -> None:
    assert sorted(cls.__name__ for cls in CLASSES) == ensync.errors.__all__


@pytest.mark.parametrize("row", TREE, ids=lambda row: row[0].__name__)
def test_the_tree(row: tuple[type[EnSyncError], type[Exception], str, bool]) -> None:
    cls, parent, code, retryable = row
    assert parent in cls.__bases__
    error = cls("what happened")
    assert str(error) == "what happened"
    assert (error.code, error.retryable) == (code, retryable)
    assert (error.event_name, error.event_idem) == (None, None)


def test_a_validation_error_is_a_value_error() -> None:
    assert issubclass(EnSyncValidationError, ValueError)
    names = [cls.__name__ for cls in CLASSES if issubclass(cls, ValueError)]
    assert names == ["EnSyncValidationError"]


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls is not EnSyncPublishError])
def test_every_error_can_be_copied(cls: type[EnSyncError], how: str) -> None:
    error = cls("text", code="c", event_name="orders", event_idem="id-1", retryable=True)
    again = COPIES[how](error)
    assert type(again) is cls
    assert again is not error
    assert (str(again), again.args) == ("text", ("text",))
    assert vars(again) == vars(error)
    assert (again.code, again.event_name, again.event_idem, again.retryable) == (
        *("c", "orders", "id-1"),
        True,
    )


@pytest.mark.parametrize("how", COPIES)
def test_a_publish_error_keeps_what_became_of_each_recipient(how: str) -> None:
    error = EnSyncPublishError(
        "2 of 3 were not accepted",
        accepted={"a": "id-1"},
        rejected={"b": EnSyncGenericError("no permission", code="refused")},
        unknown={"c": EnSyncTimeoutError("no answer", event_name="orders")},
        event_name="orders",
        retryable=True,
    )
    again = COPIES[how](error)
    assert isinstance(again, EnSyncPublishError)
    assert again.accepted == {"a": "id-1"}
    assert str(again.rejected["b"]) == "no permission"
    assert again.rejected["b"].code == "refused"
    assert isinstance(again.unknown["c"], EnSyncTimeoutError)
    assert again.unknown["c"].event_name == "orders"
    assert (again.event_name, again.retryable, again.code) == ("orders", True, "publish_failed")


def test_the_maps_of_a_publish_error_are_its_own() -> None:
    accepted = {"a": "id-1"}
    error = EnSyncPublishError("text", accepted=accepted)
    accepted.clear()
    assert error.accepted == {"a": "id-1"}
    assert (error.rejected, error.unknown) == ({}, {})


@pytest.mark.parametrize("how", COPIES)
def test_an_error_with_a_cause_can_be_copied(how: str) -> None:
    error = EnSyncConnectionError("link lost")
    error.__cause__ = OSError("reset")
    again = COPIES[how](error)
    assert (type(again), str(again)) == (EnSyncConnectionError, "link lost")


@pytest.mark.parametrize("how", COPIES)
def test_an_error_of_a_live_subscription_can_be_copied(how: str) -> None:
    subscription: Any = threading.Lock()  # which can't be pickled either
    event = make_received(RawEvent, "id-1", 7, "orders", "text", "{}", "app", subscription)
    again = COPIES[how](EnSyncInvalidEventError("text", event=event))
    assert isinstance(again, EnSyncInvalidEventError)
    assert again.event is not None
    assert (again.event.idem, again.event.block, again.event.payload) == ("id-1", 7, "text")


@pytest.mark.anyio
async def test_a_copied_event_says_that_it_can_not_be_settled() -> None:
    copied = pickle.loads(
        pickle.dumps(make_received(RawEvent, "id-1", 7, "orders", "text", "{}", "app", None))
    )
    for settling in (copied.ack(), copied.defer(delay=1), copied.discard()):
        with pytest.raises(EnSyncSubscriptionError, match="settle the original"):
            await settling


def test_notes_survive() -> None:
    error = EnSyncGenericError("text")
    error.add_note("while testing")
    assert through_pickle(error).__notes__ == ["while testing"]


def test_a_subclass_of_a_user_can_be_copied() -> None:
    again = through_pickle(OwnError("text", code="mine"))
    assert (type(again), again.code) == (OwnError, "mine")


class OwnError(EnSyncGenericError):
    """What a program may derive."""
