"""Single messages, compressed and decompressed, whoever has made them."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ensync.transports.grpc_codings import (
    CODINGS,
    WORTH_COMPRESSING,
    BadCompression,
    TooLarge,
    accepted_coding,
    compress,
    decompress,
)
from ensync.transports.grpc_framing import (
    COMPRESSED,
    MAX_MESSAGE,
    PREFIX,
    NotGrpc,
    decompressed,
    end_of_message,
    framed,
    framing_in,
    only_message,
)

MIB = 1 << 20
codings = st.sampled_from(CODINGS)
EACH = pytest.mark.parametrize("coding", CODINGS)
OTHERS: dict[str, Callable[[bytes], bytes]] = {"deflate": zlib.compress, "gzip": gzip.compress}


def compressible() -> st.SearchStrategy[bytes]:
    """Of few kinds of bytes, and of sizes around the one from which on it is tried."""
    return st.lists(st.sampled_from(b"AB="), max_size=3 * WORTH_COMPRESSING).map(bytes)


@given(data=st.binary(max_size=2000) | compressible(), coding=codings)
@example(data=b"", coding="gzip")
def test_round_trips(data: bytes, coding: str) -> None:
    assert decompress(compress(data, coding), coding, len(data)) == data
    assert decompress(OTHERS[coding](data), coding, len(data)) == data


@EACH
def test_others_can_read_it(coding: str) -> None:
    data = bytes(range(256)) * 300
    compressed = compress(data, coding)
    read = gzip.decompress(compressed) if coding == "gzip" else zlib.decompress(compressed)
    assert read == data


@given(data=st.binary(max_size=200), coding=codings, place=st.integers(0, 300))
def test_nothing_that_is_cut_is_taken_for_whole(data: bytes, coding: str, place: int) -> None:
    whole = compress(data, coding)
    with pytest.raises(BadCompression, match="too early"):
        decompress(whole[: place % len(whole)], coding, 1000)


@given(data=st.binary(max_size=200), coding=codings, more=st.binary(min_size=1, max_size=20))
def test_nothing_may_come_after_it(data: bytes, coding: str, more: bytes) -> None:
    with pytest.raises(BadCompression, match="after it"):
        decompress(compress(data, coding) + more, coding, 1000)


@EACH
def test_a_second_one_after_it_is_not_read(coding: str) -> None:
    with pytest.raises(BadCompression, match="after it"):
        decompress(compress(b"one", coding) * 2, coding, 1000)


@given(data=st.binary(min_size=1, max_size=300), coding=codings)
def test_garbage_is_refused(data: bytes, coding: str) -> None:
    with pytest.raises(BadCompression):
        decompress(b"\0" + data, coding, 1000)


@EACH
def test_a_wrong_checksum_is_refused(coding: str) -> None:
    whole = bytearray(compress(b"data" * 100, coding))
    whole[-5 if coding == "gzip" else -1] ^= 1
    with pytest.raises(BadCompression, match=coding):
        decompress(bytes(whole), coding, 1000)


def test_the_other_coding_is_refused() -> None:
    for coding, other in (("gzip", "deflate"), ("deflate", "gzip")):
        with pytest.raises(BadCompression):
            decompress(compress(b"data", coding), other, 1000)


@given(size=st.integers(0, 3000), coding=codings)
def test_no_more_comes_out_than_may(size: int, coding: str) -> None:
    data = compress(bytes(size + 1), coding)
    with pytest.raises(TooLarge, match=f"more than {size} bytes"):
        decompress(data, coding, size)
    assert len(decompress(data, coding, size + 1)) == size + 1


@EACH
def test_a_bomb_fills_no_memory(coding: str) -> None:
    bomb = compress(bytes(64 * MIB), coding)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            decompress(bomb, coding, MIB)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 3 * MIB


# What a peer takes


@pytest.mark.parametrize(
    ("lists", "coding"),
    [
        ([], None),
        ([""], ""),
        (["identity"], ""),
        (["identity, deflate, gzip"], "deflate"),
        (["gzip,deflate"], "deflate"),
        (["gzip"], "gzip"),
        (["identity", "snappy ,gzip"], "gzip"),
        (["not-gzip, deflated"], ""),
    ],
)
def test_which_coding_a_peer_takes(lists: list[str], coding: str | None) -> None:
    headers = [(":status", "200"), *(("grpc-accept-encoding", each) for each in lists)]
    assert accepted_coding(headers) == coding


# Frames


def opened(frame: bytes, coding: str) -> bytes:
    data = only_message(frame, COMPRESSED)
    return decompressed(data, [("grpc-encoding", coding)]) if frame[0] else data


@given(data=st.binary(max_size=1000) | compressible(), coding=codings)
@example(data=bytes(range(256)), coding="deflate")  # it does not shrink
def test_what_is_framed_is_read_again_and_never_longer(data: bytes, coding: str) -> None:
    frame = framing_in(coding)(data)
    assert opened(frame, coding) == data
    assert end_of_message(frame + b"next", 0, COMPRESSED) == len(frame)
    assert len(frame) <= len(framed(data))
    assert frame[0] == (len(frame) < len(framed(data)))


def test_small_messages_are_not_compressed() -> None:
    assert framing_in("deflate")(b"A" * (WORTH_COMPRESSING - 1))[0] == 0
    assert framing_in("deflate")(b"A" * WORTH_COMPRESSING)[0] == 1


def test_without_a_coding_nothing_is_compressed() -> None:
    assert framing_in("")(b"A" * 1000) == framed(b"A" * 1000)


@pytest.mark.parametrize("flag", [1, 2, 255])
def test_a_compressed_message_where_none_may_be(flag: int) -> None:
    frame = bytes([flag]) + framed(b"")[1:]
    with pytest.raises(NotGrpc, match="compressed"):
        end_of_message(frame, 0)
    with pytest.raises(NotGrpc, match="not one uncompressed message"):
        only_message(frame)


@pytest.mark.parametrize("flag", [2, 255])
def test_a_flag_that_is_none(flag: int) -> None:
    frame = bytes([flag]) + framed(b"")[1:]
    with pytest.raises(NotGrpc):
        end_of_message(frame, 0, COMPRESSED)
    with pytest.raises(NotGrpc):
        only_message(frame, COMPRESSED)


def test_no_more_is_made_of_an_answer_than_a_message_may_be() -> None:
    headers = [("grpc-encoding", "deflate")]
    assert len(decompressed(zlib.compress(bytes(MAX_MESSAGE), 1), headers)) == MAX_MESSAGE
    with pytest.raises(NotGrpc, match="more than"):
        decompressed(zlib.compress(bytes(MAX_MESSAGE + 1), 1), headers)


@pytest.mark.parametrize("headers", [None, [], [("grpc-encoding", "identity")]])
def test_an_answer_that_does_not_say_how_it_is_compressed(
    headers: list[tuple[str, str]] | None,
) -> None:
    with pytest.raises(NotGrpc, match="a compressed message"):
        decompressed(zlib.compress(b"data"), headers)


def test_the_size_in_the_prefix_is_that_of_what_is_sent() -> None:
    frame = framing_in("deflate")(b"A" * 1000)
    assert int.from_bytes(frame[1:PREFIX], "big") == len(frame) - PREFIX < 100
