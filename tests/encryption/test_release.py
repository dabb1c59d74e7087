"""The buffers of a stream are free as soon as it has finished, failed or been dropped, without a garbage collection."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from safelight.encryption import Opener, Scheme, Sealer, open_, seal
from safelight.encryption.errors import CannotOpen
from safelight.encryption.keys import Keyring

from .pushing import push

KEYRING = Keyring.new()
IMAGE = bytes((1 << 20) - 1000)  # held whole, in one buffer of a segment


@pytest.fixture(autouse=True)
def without_the_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def sealed(scheme: Scheme) -> bytes:
    return push(seal(scheme, "alice", KEYRING), IMAGE)


def drop(stream: Sealer | Opener, data: bytes) -> None:
    stream.update(data)


def finish(stream: Sealer | Opener, data: bytes) -> None:
    push(stream, data)


def fail(stream: Sealer | Opener, data: bytes) -> None:
    stream.update(data[: len(data) // 2] + b"damage" * 20)
    with suppress(CannotOpen):
        stream.finish()


@pytest.mark.parametrize("end", [drop, finish, fail])
@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("opening", [False, True], ids=["sealer", "opener"])
def test_a_stream_is_freed_by_the_last_reference_to_it(
    opening: bool, scheme: Scheme, end: Callable[[Sealer | Opener, bytes], None]
) -> None:
    data = sealed(scheme) if opening else IMAGE
    stream: Sealer | Opener = open_(scheme, "alice", KEYRING) if opening else seal(scheme, "alice", KEYRING)
    end(stream, data)
    parts = [weakref.ref(stream)]
    if scheme is Scheme.SEALED:
        parts.append(weakref.ref(stream._stream))  # type: ignore[union-attr]
    del stream
    assert [part() for part in parts] == [None] * len(parts)


@pytest.mark.parametrize("end", [finish, fail])
@pytest.mark.parametrize("opening", [False, True], ids=["sealer", "opener"])
def test_a_stream_that_has_ended_holds_no_buffer(opening: bool, end: Callable[[Sealer | Opener, bytes], None]) -> None:
    data = sealed(Scheme.SEALED) if opening else IMAGE
    tracemalloc.start()
    try:
        stream = open_(Scheme.SEALED, "alice", KEYRING) if opening else seal(Scheme.SEALED, "alice", KEYRING)
        end(stream, data)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < len(IMAGE) // 10
