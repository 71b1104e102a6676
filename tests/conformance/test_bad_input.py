"""What can't be sent is refused where it is given, by an error that names it."""

from __future__ import annotations

import base64
from typing import Any

import pytest

import ensync
from ensync.crypto import SecretKey
from ensync.testing import Faults
from tests.conformance.harness import Keys, Target

pytestmark = pytest.mark.anyio


def other_secret(size: int) -> str:
    return base64.b64encode(bytes(range(size))).decode()


# Keys


@pytest.mark.parametrize(
    "app_key", ["", "short", "with a\nline in it", "with;semicolon", "x" * 5000, 12345678]
)
async def test_what_can_not_be_an_app_key(target: Target, app_key: Any) -> None:
    with pytest.raises(ensync.EnSyncValidationError, match="app_key") as caught:
        async with ensync.connect(target.url, app_key=app_key):
            pass
    if app_key:
        assert str(app_key) not in str(caught.value)


async def test_a_wrong_app_key(target: Target) -> None:
    wrong = "w" * 43
    with pytest.raises(ensync.EnSyncAuthenticationError) as caught:
        async with target.connect(Keys(wrong, target.keys.secret_key)):
            pass
    assert wrong not in str(caught.value)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "secret_key",
    [
        "",
        "no base64 at all!",
        other_secret(16),
        other_secret(31),
        other_secret(33),
        1234567,
        b"bytes",
    ],
    ids=["empty", "alphabet", "16 bytes", "31 bytes", "33 bytes", "a number", "bytes"],
)
async def test_what_can_not_be_a_secret_key(
    target: Target, client: ensync.EnSyncClient, event_name: str, secret_key: Any
) -> None:
    with pytest.raises(ensync.EnSyncValidationError, match="app_secret_key") as caught:
        async with ensync.connect(
            target.url, app_key=target.keys.app_key, app_secret_key=secret_key
        ):
            pass
    if secret_key:
        assert str(secret_key) not in str(caught.value)
    with pytest.raises(ensync.EnSyncValidationError, match="app_secret_key"):
        client.subscribe(event_name, app_secret_key=secret_key)


async def test_a_secret_key_whose_halves_do_not_belong_together(target: Target) -> None:
    damaged = base64.b64encode(
        base64.b64decode(target.keys.secret_key)[:32]
        + base64.b64decode(target.other_keys.secret_key)[32:]
    ).decode()
    with pytest.raises(ensync.EnSyncValidationError, match="damaged"):
        async with target.connect(Keys(target.keys.app_key, damaged)):
            pass


# Recipients


@pytest.mark.parametrize(
    ("recipients", "message"),
    [
        ([], "at least one app id"),
        ("a bare string", "must be a list"),
        (None, "must be a list"),
        (["not-an-app-id"], "app id"),
        ([None], "app id"),
        ([base64.b64encode(bytes(31)).decode()], "app id"),
    ],
    ids=["none", "a string", "nothing", "no base64", "no string", "short"],
)
async def test_recipients(
    client: ensync.EnSyncClient, faults: Faults, event_name: str, recipients: Any, message: str
) -> None:
    with pytest.raises(ensync.EnSyncValidationError, match=message):
        await client.publish(event_name, recipients, 1)
    with pytest.raises(ensync.EnSyncValidationError):
        await client.publish(event_name, [client.app_id, *(recipients or [""])], 1)
    assert faults.calls("publish") == 0


# Payloads


def looped() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


PAYLOADS: dict[str, tuple[Any, str]] = {
    "an object": ({"a": {"b": object()}}, r"payload\.a\.b"),
    "bytes": (b"bytes", "payload"),
    "a set": ({1, 2}, "payload"),
    "nan": ({"a": [1, float("nan")]}, r"payload\.a\[1\]"),
    "infinity": (float("inf"), "payload"),
    "a key that is no text": ({1: 2}, "payload"),
    "a loop": (looped(), "payload"),
    "too large": ("x" * (2 * 1024 * 1024), "the limit is"),
}


@pytest.mark.parametrize(("payload", "message"), PAYLOADS.values(), ids=PAYLOADS.keys())
async def test_payloads(
    client: ensync.EnSyncClient, faults: Faults, event_name: str, payload: Any, message: str
) -> None:
    with pytest.raises(ensync.EnSyncValidationError, match=message):
        await client.publish(event_name, [client.app_id], payload)
    assert faults.calls("publish") == 0


async def test_the_largest_payload_arrives(client: ensync.EnSyncClient, event_name: str) -> None:
    largest = "x" * (2 * 1024 * 1024 - 2)
    await client.publish(event_name, [client.app_id], largest)
    async with client.subscribe(event_name) as subscription:
        async for event in subscription:
            assert event.payload == largest
            break


@pytest.mark.parametrize("metadata", [["a list"], "text", {"a": object()}, {"a": float("nan")}])
async def test_metadata(client: ensync.EnSyncClient, event_name: str, metadata: Any) -> None:
    with pytest.raises(ensync.EnSyncValidationError, match="metadata"):
        await client.publish(event_name, [client.app_id], 1, metadata)


# Names

BAD_NAMES = ["", "two\nlines", "nul\0", "a;EVENT_NAME=:b", " blank", "x" * 513, 7, None]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
async def test_event_names(client: ensync.EnSyncClient, faults: Faults, name: Any) -> None:
    with pytest.raises(ensync.EnSyncValidationError, match="event_name"):
        await client.publish(name, [client.app_id], 1)
    with pytest.raises(ensync.EnSyncValidationError, match="event_name"):
        client.subscribe(name)
    assert faults.calls("publish") == faults.calls("subscribe") == 0


# Options


def call(target: Target, client: ensync.EnSyncClient, option: str, **wrong: Any) -> object:
    """Calls what has the option, with keywords that it does not have."""
    if option == "heartbeat_interval":
        return ensync.EnSyncEngine(target.url, **wrong)
    if option == "disable_tls":
        return ensync.connect(target.url, **wrong)
    if option == "app_secret_key":
        return ensync.EnSyncEngine(target.url).create_client(target.keys.app_key, **wrong)
    if option == "auto_ack":
        return client.subscribe("name", **wrong)
    return client.publish_many([], **wrong)


@pytest.mark.parametrize(
    ("misspelt", "option"),
    [
        ("heartbeat_intervall", "heartbeat_interval"),
        ("disableTls", "disable_tls"),
        ("app_secret", "app_secret_key"),
        ("autoAck", "auto_ack"),
        ("maxInFlight", "max_in_flight"),
    ],
)
async def test_a_misspelt_option_names_the_nearest(
    target: Target, client: ensync.EnSyncClient, misspelt: str, option: str
) -> None:
    with pytest.raises(TypeError, match=f"{misspelt!r}.*{option!r}"):
        call(target, client, option, **{misspelt: 1})


async def test_a_misspelt_option_of_publish(client: ensync.EnSyncClient, event_name: str) -> None:
    wrong: Any = {"time_out": 1}
    with pytest.raises(TypeError, match=r"'time_out'.*'timeout'"):
        await client.publish(event_name, [client.app_id], 1, **wrong)


@pytest.mark.parametrize(
    "option",
    [
        {"connect_timeout": 0},
        {"request_timeout": -1},
        {"heartbeat_interval": float("nan")},
        {"drain_timeout": "soon"},
        {"generation": "newest"},
        {"http2": "fast"},
        {"compression": "gzip"},
        {"reconnect": True},
        {"tls": "yes"},
    ],
    ids=str,
)
async def test_an_option_out_of_bounds_is_named(target: Target, option: dict[str, Any]) -> None:
    with pytest.raises(ensync.EnSyncValidationError, match=next(iter(option))):
        ensync.connect(target.url, **option)


def test_grpclib_does_not_compress_and_says_so() -> None:
    with pytest.raises(ensync.EnSyncValidationError, match=r"compression.*grpclib"):
        ensync.EnSyncEngine("grpc://localhost", compression="deflate", http2="grpclib")
    ensync.EnSyncEngine("ws://localhost", compression="deflate", http2="grpclib")


@pytest.mark.parametrize(
    ("option", "value"),
    [("buffer_size", 0), ("buffer_size", 1.5), ("on_invalid", "ignore")],
)
async def test_a_subscriptions_option_is_named(
    client: ensync.EnSyncClient, event_name: str, option: str, value: Any
) -> None:
    wrong: Any = {option: value}
    with pytest.raises(ensync.EnSyncValidationError, match=option):
        client.subscribe(event_name, **wrong)


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, True])
async def test_a_concurrency_that_is_no_number(
    client: ensync.EnSyncClient, event_name: str, concurrency: Any
) -> None:
    async def handler(_event: ensync.Event[Any]) -> None:
        pytest.fail("there is no event")

    async with client.subscribe(event_name) as subscription:
        with pytest.raises(ensync.EnSyncValidationError, match="concurrency"):
            await subscription.for_each(handler, concurrency=concurrency)


async def test_a_key_that_is_not_this_apps(target: Target, event_name: str) -> None:
    """The engine lets the client in; the events can't be read, and say so."""
    stranger = SecretKey.generate()
    async with target.connect(Keys(target.keys.app_key, stranger.reveal())) as client:
        await client.publish(event_name, [client.app_id], 1)
        async with client.subscribe(event_name) as subscription:
            with pytest.raises(ensync.EnSyncInvalidEventError):
                await anext(aiter(subscription))


@pytest.mark.parametrize("recipients", [[["x"]], [None], [{}], [7]], ids=repr)
async def test_recipients_that_are_no_texts(client: ensync.EnSyncClient, recipients: Any) -> None:
    with pytest.raises(ensync.EnSyncValidationError, match="app id"):
        await client.publish("orders", recipients, 1)


@pytest.mark.parametrize("timeout", [1e308, 10**400, float("inf"), float("nan"), 0, -1, True])
async def test_timeouts_that_no_clock_takes(client: ensync.EnSyncClient, timeout: Any) -> None:
    with pytest.raises(ensync.EnSyncValidationError, match="timeout"):
        await client.publish("orders", [client.app_id], 1, timeout=timeout)


async def test_what_is_no_event_can_not_be_settled(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    no_event: Any = None
    async with client.subscribe(event_name) as subscription:
        with pytest.raises(ensync.EnSyncValidationError, match="an event, or its idem"):
            await subscription.ack(no_event)
        with pytest.raises(ensync.EnSyncValidationError, match="an event, or its idem"):
            await subscription.discard(no_event)
        with pytest.raises(ensync.EnSyncValidationError, match="an event, or its idem"):
            await subscription.defer(no_event, delay=1)
