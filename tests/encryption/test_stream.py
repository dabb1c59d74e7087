"""The payload equals that of Tink for any chunks, and no unverified byte is ever released."""

import hashlib
import tracemalloc
from itertools import permutations
from random import Random

import pytest
import tink
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from safelight.encryption import stream
from safelight.encryption.errors import Damaged, TooLarge
from safelight.encryption.stream import (
    HEADER_SIZE,
    LAYOUT,
    TAG_SIZE,
    Layout,
    StreamDecryptor,
    StreamEncryptor,
    segment_nonce,
)

from .oracles import Tink, openssl_ctr
from .pushing import cut, push, push_until_error

KEY, ASSOCIATED = bytes(range(16)), b"a fixed header"
SMALL = Layout(64)  # segments of 24, then 48 bytes of plaintext

MIB = 1 << 20
FIRST, REST = MIB - HEADER_SIZE - TAG_SIZE, MIB - TAG_SIZE
EDGES = [0, 1, FIRST - 1, FIRST, FIRST + 1, FIRST + REST - 1, FIRST + REST, FIRST + REST + 1, 5 * MIB + 3]


def image(size: int) -> bytes:
    return Random(size).randbytes(size)


def seal(plaintext: bytes, layout: Layout = SMALL, cuts: list[int] | None = None) -> bytes:
    sealer = StreamEncryptor(KEY, ASSOCIATED, layout=layout)
    return sealer.header + push(sealer, *cut(plaintext, cuts or []))


def opener(payload: bytes, layout: Layout = SMALL, key: bytes = KEY, associated: bytes = ASSOCIATED) -> StreamDecryptor:
    return StreamDecryptor(key, associated, payload[:HEADER_SIZE], layout=layout)


def assert_does_not_open(payload: bytes, plaintext: bytes) -> None:
    """It is called damaged, and what came out before is a beginning of the plaintext, in whole segments."""
    for chunks in ([payload[HEADER_SIZE:]], cut(payload[HEADER_SIZE:], range(1, len(payload), 7))):
        try:
            released, error = push_until_error(opener(payload), *chunks)
        except Damaged:
            continue
        assert isinstance(error, Damaged)
        assert plaintext.startswith(released)
        assert len(released) in {0, *range(24, len(plaintext) + 1, 48)}


@pytest.mark.parametrize("size", EDGES)
def test_tink_opens_what_we_seal(size: int) -> None:
    payload = seal(image(size), LAYOUT, cuts=[1, 65536, FIRST])
    assert len(payload) == LAYOUT.payload_size(size)
    assert Tink(KEY, LAYOUT.segment_size).decrypt(payload, ASSOCIATED) == image(size)


@pytest.mark.parametrize("size", EDGES)
def test_we_open_what_tink_seals(size: int) -> None:
    payload = Tink(KEY, LAYOUT.segment_size).encrypt(image(size), ASSOCIATED)
    assert LAYOUT.plain_size(len(payload)) == size
    chunks = cut(payload[HEADER_SIZE:], [1, 65536, FIRST, 2 * MIB])
    assert push(opener(payload, LAYOUT), *chunks) == image(size)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(0, 400), segment_size=st.integers(41, 150), data=st.data())
def test_tink_and_we_agree_for_any_size_segment_size_and_chunks(
    size: int, segment_size: int, data: st.DataObject
) -> None:
    layout, plaintext = Layout(segment_size), image(size)
    cuts = st.lists(st.integers(0, 500), max_size=8)
    payload = seal(plaintext, layout, data.draw(cuts))
    assert len(payload) == layout.payload_size(size)
    assert layout.plain_size(len(payload)) == size
    assert Tink(KEY, segment_size).decrypt(payload, ASSOCIATED) == plaintext
    theirs = Tink(KEY, segment_size).encrypt(plaintext, ASSOCIATED)
    assert push(opener(theirs, layout), *cut(theirs[HEADER_SIZE:], data.draw(cuts))) == plaintext


def test_every_kind_of_bytes_may_be_pushed() -> None:
    payload = seal(image(100))
    for kind in (bytes, bytearray, memoryview):
        opening = opener(payload)
        assert b"".join([*opening.update(kind(payload[HEADER_SIZE:])), opening.finish()]) == image(100)


def test_what_came_out_does_not_change_when_the_callers_chunk_does() -> None:
    sealer, chunk = StreamEncryptor(KEY, ASSOCIATED, layout=SMALL), bytearray(image(100))
    pieces = sealer.update(chunk)
    chunk[:] = bytes(100)
    payload = sealer.header + b"".join([*pieces, sealer.finish()])
    assert push(opener(payload), payload[HEADER_SIZE:]) == image(100)


def test_a_segment_is_aes_ctr_as_openssl_does_it() -> None:
    payload = seal(image(2 * MIB), LAYOUT)
    salt, prefix = payload[1:17], payload[17:HEADER_SIZE]
    key = HKDF(SHA256(), 16, salt=salt, info=ASSOCIATED).derive(KEY)
    for number in range(3):
        segment = LAYOUT.segment(number, len(payload))
        nonce = prefix + number.to_bytes(4, "big") + bytes([number == 2])
        ciphertext = payload[segment.offset : segment.offset + segment.plain_size]
        plaintext = openssl_ctr(key, nonce + b"\x00\x00\x00\x02", ciphertext)
        assert plaintext == image(2 * MIB)[segment.plain_offset :][: segment.plain_size]


@pytest.mark.parametrize("size", [0, 1, 24, 25, 72, 73, 100])
def test_no_flipped_bit_goes_unnoticed(size: int) -> None:
    plaintext = image(size)
    payload = seal(plaintext)
    for bit in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        assert_does_not_open(bytes(flipped), plaintext)


def test_a_spread_of_flipped_bits_in_a_large_payload_is_noticed_before_the_segment_comes_out() -> None:
    plaintext = image(2 * MIB + 5)
    payload = seal(plaintext, LAYOUT)
    random = Random(7)
    for at in [
        HEADER_SIZE,
        MIB - 1,
        MIB,
        len(payload) - 1,
        *random.sample(range(HEADER_SIZE, len(payload)), 12),
    ]:
        flipped = bytearray(payload)
        flipped[at] ^= 1 << random.randrange(8)
        chunks = cut(bytes(flipped[HEADER_SIZE:]), range(0, len(payload), 256 * 1024))
        released, error = push_until_error(opener(payload, LAYOUT), *chunks)
        assert isinstance(error, Damaged)
        assert released == plaintext[: LAYOUT.segment(at // MIB, len(payload)).plain_offset]


@pytest.mark.parametrize("size", [0, 24, 100, 24 + 48 * 2])
def test_no_cut_goes_unnoticed(size: int) -> None:
    payload = seal(image(size))
    for end in range(len(payload)):
        assert_does_not_open(payload[:end], image(size))


def test_no_appended_byte_goes_unnoticed() -> None:
    for size in (0, 20, 24, 72, 100):
        payload = seal(image(size))
        for more in (b"\x00", bytes(16), bytes(200), payload, payload[HEADER_SIZE:]):
            assert_does_not_open(payload + more, image(size))


def test_no_dropped_repeated_or_swapped_segment_goes_unnoticed() -> None:
    plaintext = image(24 + 48 * 3)
    payload = seal(plaintext)
    segments = [payload[start : start + 64] for start in range(0, len(payload), 64)]
    segments[:1] = [segments[0][HEADER_SIZE:]]
    for order in (
        *permutations(range(4)),
        *permutations(range(4), 3),
        *((*range(n + 1), *range(n, 4)) for n in range(4)),
    ):
        if order != (0, 1, 2, 3):
            assert_does_not_open(payload[:HEADER_SIZE] + b"".join(segments[n] for n in order), plaintext)


def test_segments_of_another_payload_under_the_same_key_do_not_fit() -> None:
    one, other = seal(image(100)), seal(image(100))
    assert_does_not_open(other[:HEADER_SIZE] + one[HEADER_SIZE:], b"")
    assert_does_not_open(one[:64] + other[64:], image(100))


def test_another_key_or_other_associated_data_does_not_open() -> None:
    payload = seal(image(100))
    for opening in (opener(payload, key=bytes(16)), opener(payload, associated=b"another header")):
        released, error = push_until_error(opening, payload[HEADER_SIZE:])
        assert released == b""
        assert isinstance(error, Damaged)


def test_an_empty_segment_after_a_full_one_is_not_the_format() -> None:
    """Only a holder of the key can make one; then the size of a file would not give that of its image."""
    sealer = StreamEncryptor(KEY, ASSOCIATED, layout=SMALL)
    full = sealer._next([memoryview(image(24))], last=False)
    payload = sealer.header + full + sealer.finish()
    assert_does_not_open(payload, image(24))
    with pytest.raises(Damaged):
        SMALL.plain_size(len(payload))


def test_a_chunk_may_be_written_to_after_it_was_pushed_in() -> None:
    plaintext, buffer = image(1000), bytearray(7)
    sealer = StreamEncryptor(KEY, ASSOCIATED, layout=SMALL)
    payload = bytearray(sealer.header)
    for piece in cut(plaintext, range(7, 1000, 7)):
        buffer[: len(piece)] = piece
        for out in sealer.update(memoryview(buffer)[: len(piece)]):
            payload += out
    payload += sealer.finish()
    assert Tink(KEY, 64).decrypt(bytes(payload), ASSOCIATED) == plaintext


def test_byte_by_byte_is_the_same_and_takes_no_more_memory() -> None:
    plaintext = image(300_000)
    sealer = StreamEncryptor(KEY, ASSOCIATED)
    tracemalloc.start()
    for at in range(len(plaintext)):
        assert not sealer.update(plaintext[at : at + 1])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * len(plaintext)  # a view for each byte would be a hundred times
    payload = sealer.header + sealer.finish()
    opened = push(opener(payload, LAYOUT), *(payload[at : at + 1] for at in range(HEADER_SIZE, len(payload))))
    assert opened == plaintext


def test_nothing_comes_out_after_a_failure_or_the_end() -> None:
    payload = seal(image(100))
    failed, finished = opener(payload), opener(payload)
    with pytest.raises(Damaged):
        failed.update(bytes(100))
    push(finished, payload[HEADER_SIZE:])
    for opening in (failed, finished):
        with pytest.raises(ValueError, match="finished or failed"):
            opening.update(b"")
        with pytest.raises(ValueError, match="finished or failed"):
            opening.finish()


def test_the_segment_counter_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = SMALL.payload_size(24 + 48 * (2**32 - 1))
    assert SMALL.plain_size(largest) == 24 + 48 * (2**32 - 1)
    assert segment_nonce(bytes(7), 2**32 - 1, last=True) == bytes(7) + b"\xff\xff\xff\xff\x01"
    with pytest.raises(TooLarge):
        SMALL.payload_size(24 + 48 * (2**32 - 1) + 1)
    with pytest.raises(Damaged):
        SMALL.plain_size(largest + 17)
    monkeypatch.setattr(stream, "MAX_SEGMENTS", 3)
    assert len(seal(image(24 + 96))) == 3 * 64
    with pytest.raises(TooLarge):
        seal(image(24 + 96 + 1))


def test_only_sizes_of_payloads_have_a_plain_size() -> None:
    sizes = {SMALL.payload_size(size): size for size in range(400)}
    for payload_size in range(max(sizes)):
        if payload_size in sizes:
            assert SMALL.plain_size(payload_size) == sizes[payload_size]
        else:
            with pytest.raises(Damaged):
                SMALL.plain_size(payload_size)


@pytest.mark.parametrize("size", [0, 1, 24, 25, 72, 73, 100])
def test_each_segment_opens_alone_where_the_layout_says_it_lies(size: int) -> None:
    payload = seal(image(size))
    plaintext = b""
    for number in range(100):
        try:
            segment = SMALL.segment(number, len(payload))
        except IndexError:
            break
        nonce = segment_nonce(payload[17:HEADER_SIZE], number, segment.last)
        cipher = AESGCM(stream._derived(KEY, payload[1:17], ASSOCIATED))
        assert segment.plain_offset == len(plaintext)
        plaintext += cipher.decrypt(nonce, payload[segment.offset : segment.offset + segment.size], None)
    assert plaintext == image(size)


def test_sealing_twice_gives_nothing_in_common() -> None:
    one, other = seal(bytes(1000)), seal(bytes(1000))
    assert {one[at : at + 8] for at in range(1, len(one) - 8, 8)}.isdisjoint(
        other[at : at + 8] for at in range(1, len(other) - 8, 8)
    )


def test_tink_too_refuses_what_we_refuse() -> None:
    """The oracle is one: it notices a flipped bit and a cut at a segment's end."""
    payload = seal(image(24 + 48))
    for damaged in (payload[:64], bytes([*payload[:-1], payload[-1] ^ 1])):
        with pytest.raises(tink.TinkError):
            Tink(KEY, 64).decrypt(damaged, ASSOCIATED)
    assert hashlib.sha256(Tink(KEY, 64).decrypt(payload, ASSOCIATED)).digest() == hashlib.sha256(image(72)).digest()
