"""Errors come out typed, single and bare; two failures are a group."""

from __future__ import annotations

import anyio
import pytest

import ensync
from ensync.testing import Faults
from tests.conformance.harness import PATIENCE, Keys, Target

pytestmark = pytest.mark.anyio

# After the one attempt that it has, a client that lost its link gives up.
GIVES_UP = ensync.Reconnect(initial=0.001, maximum=0.001, max_attempts=1)


async def test_except_works_around_async_with(target: Target, event_name: str) -> None:
    refused = False
    try:
        async with (
            target.connect(Keys("w" * 43, target.keys.secret_key)) as client,
            client.subscribe(event_name),
        ):
            pytest.fail("the key is wrong")
    except ensync.EnSyncAuthenticationError:
        refused = True
    assert refused


async def test_a_session_that_gave_up_raises_in_the_iterator(
    target: Target, faults: Faults, event_name: str
) -> None:
    with anyio.fail_after(PATIENCE), pytest.raises(ensync.EnSyncConnectionError) as caught:
        async with (
            target.connect(reconnect=GIVES_UP, drain_timeout=0.1) as client,
            client.subscribe(event_name) as subscription,
        ):
            faults.abort_next("connect", count=None)
            faults.abort_connections()
            async for _ in subscription:
                pytest.fail("there is no event")
    assert type(caught.value) is ensync.EnSyncConnectionError
    assert caught.value.code == "gave_up"
    assert isinstance(caught.value.__cause__, ensync.EnSyncConnectionError)


async def test_a_key_that_is_refused_later_stops_at_once(
    target: Target, faults: Faults, event_name: str
) -> None:
    with anyio.fail_after(PATIENCE), pytest.raises(ensync.EnSyncAuthenticationError):
        async with (
            target.connect(reconnect=ensync.Reconnect(initial=0.001, maximum=0.001)) as client,
            client.subscribe(event_name) as subscription,
        ):
            faults.refuse_next("connect", "unknown app key", count=None)
            faults.abort_connections()
            async for _ in subscription:
                pytest.fail("there is no event")
    assert faults.calls("connect") == 2


async def test_two_failures_are_a_group(client: ensync.EnSyncClient, event_name: str) -> None:
    async def fail(error: Exception) -> None:
        raise error

    with pytest.raises(ExceptionGroup) as caught:
        async with client.subscribe(event_name), anyio.create_task_group() as tasks:
            tasks.start_soon(fail, LookupError())
            raise KeyError
    assert {type(error) for error in caught.value.exceptions} == {LookupError, KeyError}


async def test_each_waiter_gets_an_error_of_its_own(
    target: Target, faults: Faults, event_name: str
) -> None:
    errors: list[Exception] = []

    async def publish(client: ensync.EnSyncClient) -> None:
        try:
            await client.publish(event_name, [client.app_id], 1)
        except ensync.EnSyncPublishError as error:
            errors.append(error)

    with anyio.fail_after(PATIENCE):
        async with target.connect(reconnect=GIVES_UP) as client:
            faults.abort_next("connect", count=None)
            faults.abort_connections()
            async for state in client.states():
                if state is ensync.ClientState.CLOSED:
                    break
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish, client)
                tasks.start_soon(publish, client)
    assert len(set(map(id, errors))) == 2
    assert all(isinstance(error.__cause__, ensync.EnSyncConnectionError) for error in errors)
