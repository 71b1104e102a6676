from __future__ import annotations

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensync.transports.header_blocks import RememberingDecoder, RememberingEncoder

# Few, so that they are repeated.
HEADERS = st.sampled_from(
    [
        [(b":status", b"200"), (b"content-type", b"application/grpc")],
        [(b"grpc-status", b"0")],
        [(b"x", b"a" * 40), (b":path", b"/")],
        [(b"x", b"b" * 2000)],
        [],
    ]
)
TABLE_SIZES = st.sampled_from([0, 60, 200, 4096])
# Either headers to write, or a new size of the table.
STEPS = st.lists(st.one_of(HEADERS, TABLE_SIZES), max_size=30)


@settings(max_examples=300)
@given(STEPS, st.booleans())
def test_the_decoder_reads_what_a_plain_one_reads(
    steps: list[list[tuple[bytes, bytes]] | int], sensitive: bool
) -> None:
    encoder, decoder, plain = hpack.Encoder(), RememberingDecoder(1 << 16), hpack.Decoder()
    for step in steps:
        if isinstance(step, int):
            # hpack's encoder forgets to tell of a change that is followed by none.
            if encoder.header_table_size != step:
                encoder.header_table_size = step
            continue
        block = encoder.encode([(name, value, sensitive) for name, value in step])
        assert list(decoder.decode(block, raw=True)) == list(plain.decode(block, raw=True))
        assert decoder.header_table.dynamic_entries == plain.header_table.dynamic_entries


@given(STEPS)
def test_the_encoder_writes_what_a_plain_one_writes(
    steps: list[list[tuple[bytes, bytes]] | int],
) -> None:
    encoder, plain = RememberingEncoder(), hpack.Encoder()
    for step in steps:
        if isinstance(step, int):
            encoder.header_table_size = step
            if plain.header_table_size != step:
                plain.header_table_size = step
            continue
        for _ in range(2):
            assert encoder.encode(step) == plain.encode(step)


@given(STEPS)
def test_what_the_encoder_writes_is_read(
    steps: list[list[tuple[bytes, bytes]] | int],
) -> None:
    encoder, decoder = RememberingEncoder(), hpack.Decoder()
    for step in steps:
        if isinstance(step, int):
            encoder.header_table_size = step
            continue
        for _ in range(2):
            assert list(decoder.decode(encoder.encode(step), raw=True)) == step
        assert decoder.header_table.dynamic_entries == encoder.header_table.dynamic_entries
        assert decoder.header_table_size == encoder.header_table_size


def test_the_memory_is_bounded() -> None:
    encoder, decoder = RememberingEncoder(), RememberingDecoder(1 << 16)
    encoder.header_table_size = 0
    for number in range(1000):
        text = str(number) * (1 if number % 2 else 1000)
        decoder.decode(encoder.encode([("grpc-message", text)]))
    assert len(encoder._memory._known) <= 256
    assert len(decoder._memory._known) <= 256
    assert all(len(block) <= 1024 for block in encoder._memory._known.values())


def test_too_many_headers_are_refused_as_ever() -> None:
    decoder = RememberingDecoder(100)
    block = hpack.Encoder().encode([("name", "x" * 200)])
    for _ in range(2):
        with pytest.raises(hpack.OversizedHeaderListError):
            decoder.decode(block)
