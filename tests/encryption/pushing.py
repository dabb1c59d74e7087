"""Pass whole byte strings through sealers and openers."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Protocol

from safelight.encryption.errors import CannotOpen
from safelight.encryption.stream import Bytes


class Pushed(Protocol):
    def update(self, chunk: bytes, /) -> list[Bytes]: ...

    def finish(self) -> Bytes: ...


def push(stream: Pushed, *chunks: bytes) -> bytes:
    """Everything that comes out."""
    return b"".join([piece for chunk in chunks for piece in stream.update(chunk)] + [stream.finish()])


def push_until_error(stream: Pushed, *chunks: bytes) -> tuple[bytes, CannotOpen | None]:
    """Everything that came out before the error, and the error."""
    released = bytearray()
    try:
        for chunk in chunks:
            for piece in stream.update(chunk):
                released += piece
        released += stream.finish()
    except CannotOpen as error:
        return bytes(released), error
    return bytes(released), None


def cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The data in chunks, cut at these offsets; some chunks may be empty."""
    edges = [0, *sorted(min(at, len(data)) for at in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]
