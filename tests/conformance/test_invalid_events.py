"""Events that can't be read are isolated: the good ones flow, the bad ones follow the policy."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import ensync
from ensync.crypto import SecretKey, seal
from ensync.reading import Verdict
from ensync.server.local import LocalEngine
from ensync.server.store import NewEvent, QueueKey
from tests.conformance.harness import PATIENCE, Target, unsettled

pytestmark = pytest.mark.anyio

GOOD = b'"good"'


def no_base64(_app_id: str) -> tuple[str, str]:
    return "%%% garbage %%%", "{}"


def no_envelope(_app_id: str) -> tuple[str, str]:
    return base64.b64encode(b'{"nonce": 1}').decode(), "{}"


def wrong_key(_app_id: str) -> tuple[str, str]:
    return seal(GOOD, SecretKey.generate().app_id), "{}"


def tampered(app_id: str) -> tuple[str, str]:
    envelope = json.loads(base64.b64decode(seal(GOOD, app_id)))
    envelope["nonce"] = base64.b64encode(bytes(24)).decode()
    return base64.b64encode(json.dumps(envelope).encode()).decode(), "{}"


def no_json_inside(app_id: str) -> tuple[str, str]:
    return seal(b"{not json", app_id), "{}"


def no_utf8_inside(app_id: str) -> tuple[str, str]:
    return seal(b'"\xff"', app_id), "{}"


def garbage_metadata(app_id: str) -> tuple[str, str]:
    return seal(GOOD, app_id), "{garbage"


def metadata_that_is_a_list(app_id: str) -> tuple[str, str]:
    return seal(GOOD, app_id), "[1]"


BAD: list[Callable[[str], tuple[str, str]]] = [
    no_base64,
    no_envelope,
    wrong_key,
    tampered,
    no_json_inside,
    no_utf8_inside,
    garbage_metadata,
    metadata_that_is_a_list,
]


async def put(engine: LocalEngine, app_id: str, name: str, payload: str, metadata: str) -> None:
    """Past the engine's checks, as if it had let it in."""
    event = NewEvent(QueueKey(app_id, name), app_id, payload, metadata, None, persist=True)
    await engine.broker.store.append(event)


@pytest.fixture(params=BAD, ids=lambda make: make.__name__)
async def bad_between_good(
    request: pytest.FixtureRequest,
    engine: LocalEngine,
    client: ensync.EnSyncClient,
    event_name: str,
) -> None:
    payload, metadata = request.param(client.app_id)
    await client.publish(event_name, [client.app_id], "good 1")
    if metadata_can_not_travel(request):
        metadata = "[]"
    await put(engine, client.app_id, event_name, payload, metadata)
    await client.publish(event_name, [client.app_id], "good 2")


def metadata_can_not_travel(request: pytest.FixtureRequest) -> bool:
    """Metadata that is no JSON can't be part of a WebSocket's record, which is JSON."""
    return request.param is garbage_metadata and "websocket" in request.node.name


async def good_ones(subscription: ensync.Subscription[Any]) -> list[Any]:
    payloads: list[Any] = []
    with anyio.fail_after(PATIENCE):
        async for event in subscription:
            payloads.append(event.payload)
            if event.payload == "good 2":
                break
    return payloads


@pytest.mark.usefixtures("bad_between_good")
async def test_raise_and_iterate_on(
    client: ensync.EnSyncClient, target: Target, engine: LocalEngine, event_name: str
) -> None:
    async with client.subscribe(event_name) as subscription:
        with pytest.raises(ensync.EnSyncInvalidEventError) as caught:
            await good_ones(subscription)
        raw = caught.value.event
        assert raw is not None
        assert (caught.value.event_name, caught.value.event_idem) == (event_name, raw.idem)
        await raw.discard(reason="garbage")
        assert await good_ones(subscription) == ["good 2"]
        assert subscription.statistics().invalid == 1
    assert engine.statistics().discarded == 1
    assert await unsettled(target, event_name) == []


@pytest.mark.usefixtures("bad_between_good")
async def test_discard(
    client: ensync.EnSyncClient,
    engine: LocalEngine,
    target: Target,
    event_name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client.subscribe(event_name, on_invalid="discard") as subscription:
        assert await good_ones(subscription) == ["good 1", "good 2"]
    assert engine.statistics().discarded == 1
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert event_name in warnings[0]
    assert await unsettled(target, event_name) == []


@pytest.mark.parametrize("verdict", ["raise", "discard", "defer"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["function", "coroutine function"])
async def test_a_function_decides(
    client: ensync.EnSyncClient,
    engine: LocalEngine,
    event_name: str,
    verdict: Verdict,
    asynchronous: bool,
) -> None:
    await client.publish(event_name, [client.app_id], "good 1")
    await put(engine, client.app_id, event_name, *wrong_key(client.app_id))
    await client.publish(event_name, [client.app_id], "good 2")
    asked: list[ensync.EnSyncInvalidEventError] = []

    def decide(error: ensync.EnSyncInvalidEventError) -> Verdict:
        asked.append(error)
        return verdict

    async def decide_later(error: ensync.EnSyncInvalidEventError) -> Verdict:
        await anyio.lowlevel.checkpoint()
        return decide(error)

    policy = decide_later if asynchronous else decide
    async with client.subscribe(event_name, on_invalid=policy) as subscription:
        if verdict == "raise":
            with pytest.raises(ensync.EnSyncInvalidEventError):
                await good_ones(subscription)
        else:
            assert await good_ones(subscription) == ["good 1", "good 2"]
    assert len(asked) == 1
    assert engine.statistics().discarded == int(verdict == "discard")
    assert engine.statistics().deferred == int(verdict == "defer")


async def test_a_function_that_answers_nonsense_is_told_so(
    client: ensync.EnSyncClient, engine: LocalEngine, event_name: str
) -> None:
    await put(engine, client.app_id, event_name, *wrong_key(client.app_id))

    def nonsense(_error: ensync.EnSyncInvalidEventError) -> Any:
        return "ignore"

    async with client.subscribe(event_name, on_invalid=nonsense) as subscription:
        with pytest.raises(ensync.EnSyncValidationError, match="answer of on_invalid"):
            await good_ones(subscription)


async def test_for_each_raises_it_bare(
    client: ensync.EnSyncClient, engine: LocalEngine, event_name: str
) -> None:
    await put(engine, client.app_id, event_name, *wrong_key(client.app_id))

    async def handler(_event: ensync.Event[Any]) -> None:
        pytest.fail("it can't be read")

    async with client.subscribe(event_name) as subscription:
        with anyio.fail_after(PATIENCE), pytest.raises(ensync.EnSyncInvalidEventError):
            await subscription.for_each(handler)


async def test_the_error_travels_with_its_event(
    client: ensync.EnSyncClient, engine: LocalEngine, event_name: str
) -> None:
    await put(engine, client.app_id, event_name, *wrong_key(client.app_id))
    async with client.subscribe(event_name) as subscription:
        with pytest.raises(ensync.EnSyncInvalidEventError) as caught:
            await good_ones(subscription)
        original = caught.value.event
        assert original is not None
        for copied in (pickle.loads(pickle.dumps(caught.value)), copy.deepcopy(caught.value)):
            assert (copied.code, copied.event_idem) == (caught.value.code, original.idem)
            assert copied.event is not None
            assert copied.event.payload == original.payload
            with pytest.raises(ensync.EnSyncSubscriptionError, match="without its subscription"):
                await copied.event.discard()
        await original.ack()


async def test_an_event_for_another_key_is_read_with_that_key(
    client: ensync.EnSyncClient, engine: LocalEngine, event_name: str
) -> None:
    older = SecretKey.generate()
    await put(engine, client.app_id, event_name, seal(b'"good 2"', older.app_id), "{}")
    async with client.subscribe(event_name, app_secret_key=older.reveal()) as subscription:
        assert await good_ones(subscription) == ["good 2"]
