"""What can be sent arrives as it was, and in the type that was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pydantic
import pytest
from typing_extensions import TypedDict

import ensync
from tests.conformance.harness import take_one

pytestmark = pytest.mark.anyio

PAYLOADS: dict[str, Any] = {
    "object": {"order_id": "order-123", "lines": [{"sku": "a", "count": 2}], "paid": True},
    "empty object": {},
    "list": [1, "two", None, [3.5]],
    "empty list": [],
    "text": "grün ☃ \U0001f600",
    "empty text": "",
    "control characters": "a\0b\x1f\n;EVENT_NAME=:other",
    "integer": -(2**53),
    "large integer": 2**200,
    "float": 0.1,
    "true": True,
    "none": None,
    "deep": {"a": {"b": {"c": [[[[{}]]]]}}},
    "a megabyte": "x" * 1_000_000,
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
@pytest.mark.parametrize("encryption", ["sealed", "hybrid"])
async def test_every_json_value(
    client: ensync.EnSyncClient, event_name: str, payload: object, encryption: Any
) -> None:
    await client.publish(event_name, [client.app_id], payload, encryption=encryption)
    async with client.subscribe(event_name) as subscription:
        received = (await take_one(subscription)).payload
    assert received == payload
    assert type(received) is type(payload)


@pytest.mark.parametrize(
    "metadata",
    [{}, {"a": 1, "b": [None, {"c": "grün;EVENT_NAME=:other"}]}, {"text": "two\nlines"}],
    ids=["none", "nested", "lines"],
)
async def test_metadata_arrives(
    client: ensync.EnSyncClient, event_name: str, metadata: dict[str, Any]
) -> None:
    await client.publish(event_name, [client.app_id], 1, metadata)
    async with client.subscribe(event_name) as subscription:
        received = (await take_one(subscription)).metadata
    assert {name: received[name] for name in metadata} == metadata


@dataclass
class OrderRecord:
    order_id: str
    total: float


class OrderDict(TypedDict):
    order_id: str
    total: float


class OrderModel(pydantic.BaseModel):
    order_id: str
    total: float


TYPED: dict[str, tuple[type[Any], Any]] = {
    "dataclass": (OrderRecord, OrderRecord("a", 1.5)),
    "typeddict": (OrderDict, {"order_id": "a", "total": 1.5}),
    "pydantic": (OrderModel, OrderModel(order_id="a", total=1.5)),
}


@pytest.mark.parametrize(("payload_type", "value"), TYPED.values(), ids=TYPED.keys())
async def test_a_payload_type_goes_out_and_comes_in(
    client: ensync.EnSyncClient, event_name: str, payload_type: type[Any], value: Any
) -> None:
    await client.publish(event_name, [client.app_id], value)
    async with client.subscribe(event_name, payload_type=payload_type) as subscription:
        received = (await take_one(subscription)).payload
    assert received == value
    assert type(received) is type(value)


async def test_without_a_payload_type_a_model_arrives_as_json(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    await client.publish(event_name, [client.app_id], OrderModel(order_id="a", total=1.5))
    async with client.subscribe(event_name) as subscription:
        assert (await take_one(subscription)).payload == {"order_id": "a", "total": 1.5}


async def test_what_does_not_fit_the_type_is_an_invalid_event(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    await client.publish(event_name, [client.app_id], {"order_id": "a", "total": "secret words"})
    async with client.subscribe(event_name, payload_type=OrderModel) as subscription:
        with pytest.raises(ensync.EnSyncInvalidEventError, match=r"payload\.total") as caught:
            await take_one(subscription)
        assert caught.value.event is not None
        await caught.value.event.discard()
    assert "secret words" not in str(caught.value)


async def test_a_type_that_can_not_be_one_is_refused_at_once(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    wrong: Any = object()
    with pytest.raises(ensync.EnSyncValidationError, match="payload_type"):
        client.subscribe(event_name, payload_type=wrong)
