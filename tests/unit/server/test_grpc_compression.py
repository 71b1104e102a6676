"""Compressed messages at the gRPC door: who is told, who is answered so, and what is refused."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import anyio
import pytest
from grpclib.const import Status

from ensync.proto.ensync import (
    ConnectRequest,
    EventStreamResponse,
    PublishEventRequest,
    PublishEventResponse,
    SubscribeRequest,
)
from ensync.server.grpc_limits import GrpcLimits
from ensync.testing import FaultProxy
from ensync.transports.grpc_codings import compress, decompress
from ensync.transports.grpc_framing import COMPRESSED, end_of_message
from tests.unit.server.brokers import NAME, envelope
from tests.unit.server.raw_http2 import RawConnection, Reply, framed, raw_connection
from tests.unit.server.test_grpc_abuse import (
    CONNECT_BODY,
    MIB,
    PUBLISH,
    Bench,
    assert_waits_for,
    open_bench,
)

pytestmark = pytest.mark.anyio

SUBSCRIBE = "/ensync.EnSyncService/Subscribe"
TELLS = "grpc-accept-encoding"
CODING = "grpc-encoding"
ACCEPTED = "deflate, gzip, identity"
LARGE = envelope("e" * 2000)

EACH = pytest.mark.parametrize("coding", ["deflate", "gzip"])


def packed(data: bytes, coding: str = "deflate") -> bytes:
    return framed(compress(data, coding), compressed=1)


def publication(bench: Bench, payload: str = LARGE) -> bytes:
    """A publish of a client that is connected otherwise."""
    client_id = bench.broker.connect(bench.app_key, "elsewhere").client_id
    return bytes(
        PublishEventRequest(
            client_id=client_id,
            event_name=NAME,
            payload=payload,
            delivery_to=bench.app.app_id,
            metadata="{}",
        )
    )


async def first_event(bench: Bench, raw: RawConnection, headers: dict[str, str]) -> Reply:
    """The first event of a subscription that is asked for with some headers."""
    body = publication(bench)
    client_id = PublishEventRequest.parse(body).client_id
    request = SubscribeRequest(client_id=client_id, event_name=NAME)
    stream_id = await raw.ask(framed(bytes(request)), path=SUBSCRIBE, headers=headers)
    reply = Reply()
    async with bench.connection() as other:
        await other.answer_to(framed(body), path=PUBLISH)
    with anyio.fail_after(10):
        while end_of_message(reply.data, 0, COMPRESSED) is None:
            for event in raw.h2.receive_data(await raw.stream.receive()):
                if getattr(event, "stream_id", None) == stream_id:
                    reply.add(event)
    return reply


# Who is told


@pytest.mark.parametrize(
    ("headers", "told", "answered_in"),
    [
        ({}, None, None),
        ({TELLS: "identity, deflate, gzip"}, ACCEPTED, None),
        ({CODING: "identity"}, ACCEPTED, None),
        ({CODING: "gzip"}, ACCEPTED, "gzip"),
        ({CODING: "gzip", TELLS: "deflate,gzip"}, ACCEPTED, "gzip"),
        ({CODING: "deflate", TELLS: "identity, gzip"}, ACCEPTED, None),
    ],
)
async def test_who_is_told_and_answered_in_a_coding(
    headers: dict[str, str], told: str | None, answered_in: str | None
) -> None:
    async with open_bench() as bench, bench.connection() as raw:
        reply = await raw.answer_to(CONNECT_BODY, headers=headers)
    assert reply.status is Status.OK
    assert reply.headers.get(TELLS) == told
    assert reply.headers.get(CODING) == answered_in


async def test_an_unknown_coding_is_refused_and_the_known_ones_are_told() -> None:
    async with open_bench() as bench, bench.connection() as raw:
        reply = await raw.answer_to(CONNECT_BODY, headers={CODING: "snappy"})
    assert reply.status is Status.UNIMPLEMENTED
    assert reply.headers[TELLS] == ACCEPTED
    assert ACCEPTED in unquote(reply.headers["grpc-message"])
    assert CODING not in reply.headers


# Requests


@EACH
@pytest.mark.parametrize("by", ["us", "others"])
async def test_a_compressed_request_is_read(coding: str, by: str) -> None:
    async with open_bench() as bench, bench.connection() as raw:
        body = publication(bench)
        data = compress(body, coding) if by == "us" else OTHERS[coding](body)
        for message in (framed(data, compressed=1), framed(body)):
            reply = await raw.answer_to(message, path=PUBLISH, headers={CODING: coding})
            assert PublishEventResponse.parse(reply.data[5:]).success
            assert reply.data[0] == 0, "this small reply needs no compression"
        assert bench.broker.statistics().published == 2


OTHERS: dict[str, Callable[[bytes], bytes]] = {"deflate": zlib.compress, "gzip": gzip.compress}
WHOLE = compress(bytes(ConnectRequest(access_key="some-app-key")), "deflate")
BAD: dict[str, tuple[bytes, str, Status, str]] = {
    "no coding": (framed(WHOLE, compressed=1), "identity", Status.INTERNAL, "no grpc-encoding"),
    "a bad flag": (
        framed(WHOLE, compressed=2),
        "deflate",
        Status.INVALID_ARGUMENT,
        "is 2, not 0 or 1",
    ),
    "cut": (framed(WHOLE[:-1], compressed=1), "deflate", Status.INVALID_ARGUMENT, "too early"),
    "nothing": (framed(b"", compressed=1), "deflate", Status.INVALID_ARGUMENT, "too early"),
    "more": (framed(WHOLE + b"!", compressed=1), "gzip", Status.INVALID_ARGUMENT, "no gzip"),
    "another": (framed(WHOLE, compressed=1), "gzip", Status.INVALID_ARGUMENT, "no gzip"),
    "after it": (framed(WHOLE * 2, compressed=1), "deflate", Status.INVALID_ARGUMENT, "after it"),
    "no protobuf": (packed(b"\xff" * 9), "deflate", Status.INVALID_ARGUMENT, "can't be parsed"),
    "a bomb": (
        framed(zlib.compress(bytes(6 * MIB + 1)), compressed=1),
        "deflate",
        Status.RESOURCE_EXHAUSTED,
        f"too large: more than {6 * MIB} bytes when decompressed, at most {6 * MIB} are accepted",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_compressed_requests_get_a_status(name: str) -> None:
    body, coding, status, text = BAD[name]
    async with open_bench() as bench:
        async with bench.connection() as raw:
            reply = await raw.answer_to(body, headers={CODING: coding})
            assert reply.status is status
            assert text in unquote(reply.headers["grpc-message"])
        await bench.assert_alive()


async def test_the_limit_is_one_of_what_comes_out() -> None:
    body = bytes(ConnectRequest(access_key="k" * 1000))
    headers = {CODING: "deflate"}
    for limit, status in ((len(body), Status.OK), (len(body) - 1, Status.RESOURCE_EXHAUSTED)):
        async with open_bench(GrpcLimits(message_bytes=limit)) as bench, bench.connection() as raw:
            assert (await raw.answer_to(packed(body), headers=headers)).status is status


async def test_what_becomes_large_waits_for_its_turn_and_what_stays_small_does_not() -> None:
    limits = GrpcLimits(large_message_bytes=500, large_messages=1)
    headers = {CODING: "deflate"}
    small, large = (bytes(ConnectRequest(access_key="k" * size)) for size in (400, 5000))
    async with open_bench(limits) as bench, bench.connection() as raw:
        reading = await raw.ask(framed(large)[:-1], end=False)
        growing = await raw.ask(packed(large), headers=headers)
        async with bench.connection() as other:
            assert (await other.answer_to(packed(small), headers=headers)).status is Status.OK
        await assert_waits_for(raw, growing, reading, large[-1:])


async def test_what_is_large_both_ways_takes_one_turn() -> None:
    limits = GrpcLimits(large_message_bytes=10, large_messages=1)
    body = bytes(ConnectRequest(access_key="".join(map(str, range(1000)))))
    async with open_bench(limits) as bench, bench.connection() as raw:
        for _ in range(2):
            reply = await raw.answer_to(packed(body), headers={CODING: "deflate"})
            assert reply.status is Status.OK


# Answers


@EACH
async def test_events_go_out_compressed_to_who_compresses(coding: str) -> None:
    async with open_bench() as bench, bench.connection() as raw:
        reply = await first_event(bench, raw, {CODING: coding})
    assert reply.headers[CODING] == coding
    assert reply.data[0] == 1
    event = EventStreamResponse.parse(decompress(reply.data[5:], coding, MIB))
    assert event.payload == LARGE


@pytest.mark.parametrize("headers", [{}, {TELLS: "identity, deflate, gzip"}])
async def test_events_go_out_as_they_are_to_everybody_else(headers: dict[str, str]) -> None:
    async with open_bench() as bench, bench.connection() as raw:
        reply = await first_event(bench, raw, headers)
    assert CODING not in reply.headers
    assert reply.data[0] == 0
    assert EventStreamResponse.parse(reply.data[5:]).payload == LARGE


async def bytes_of_an_answer(proxy: FaultProxy, headers: dict[str, str]) -> int:
    async with raw_connection(proxy.port) as raw:
        await raw.answer_to(CONNECT_BODY, headers=headers)  # fills the tables of headers
        before = proxy.bytes_total("downstream")
        await raw.answer_to(CONNECT_BODY, headers=headers)
        return proxy.bytes_total("downstream") - before


async def test_who_does_not_compress_pays_a_byte_at_most() -> None:
    sizes: list[int] = []
    for headers in ({}, {TELLS: "identity, deflate, gzip"}):
        async with open_bench() as bench, FaultProxy(f"127.0.0.1:{bench.door.port}") as proxy:
            sizes.append(await bytes_of_an_answer(proxy, headers))
    assert sizes[1] - sizes[0] == 1


# A client of others


GRPCIO_CLIENT = Path(__file__).with_name("grpcio_client.py")


@pytest.mark.skipif(find_spec("grpc") is None, reason="grpcio is not installed")
async def test_grpcio_publishes_and_subscribes() -> None:
    async with open_bench() as bench, AsyncExitStack() as stack:
        target = f"127.0.0.1:{bench.door.port}"
        proxies = [await stack.enter_async_context(FaultProxy(target)) for _ in range(3)]
        publish = publication(bench)
        client_id = PublishEventRequest.parse(publish).client_id
        subscribe = bytes(SubscribeRequest(client_id=client_id, event_name=NAME))
        # In a process of its own, since it keeps files open in the one that it has been in.
        command = [sys.executable, str(GRPCIO_CLIENT), publish.hex(), subscribe.hex()]
        with anyio.fail_after(30):
            done = await anyio.run_process([*command, *(str(each.port) for each in proxies)])
        sizes = [(each.bytes_total("upstream"), each.bytes_total("downstream")) for each in proxies]
    answers = json.loads(done.stdout)
    assert list(answers) == ["NoCompression", "Deflate", "Gzip"]
    for reply, event in answers.values():
        assert PublishEventResponse.parse(bytes.fromhex(reply)).success
        assert EventStreamResponse.parse(bytes.fromhex(event)).payload == LARGE
    plain, *compressed = sizes
    for smaller in compressed:
        assert all(less < more - 1000 for less, more in zip(smaller, plain, strict=True)), sizes
