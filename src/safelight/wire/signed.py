"""Structures as signed text: the form of tickets and admin commands.

    text = base64url(JSON of the structure) "." base64url(HMAC-SHA256 of that text)      RFC 4648 §5, RFC 2104

Each kind of structure is signed with its own key (`Keyring.derive`), so none passes for another kind. A structure for
one use has a nonce and a time of expiry, so a node need not remember used ones after that time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from heapq import heappop, heappush
from math import ceil
from typing import Protocol, TypeVar

import msgspec

from safelight.decoding import Malformed, decode
from safelight.errors import SafelightError

MAX_LENGTH = 4096
"""Characters; a ticket for a name of 255 bytes, escaped in JSON, makes about half of it."""

T = TypeVar("T", bound=msgspec.Struct)


class NotSigned(SafelightError):
    """The text was not signed with this key."""


class OtherVersion(SafelightError):
    """The text was signed with this key, by a version of Safelight that this one does not understand."""


def write(value: msgspec.Struct, key: bytes) -> str:
    """The signed text of a structure, safe in a URL and in a header."""
    text = _encode(msgspec.json.encode(value))
    return f"{text}.{_encode(_sign(text, key))}"


def read(text: str, key: bytes, kind: type[T]) -> T:
    """The structure, if it was signed with this key. Raises NotSigned and OtherVersion."""
    body, dot, signature = text.partition(".")
    plausible = dot and text.isascii() and len(text) <= MAX_LENGTH
    if not plausible or not hmac.compare_digest(_encode(_sign(body, key)), signature):
        raise NotSigned("this was not signed by this cluster")
    try:
        return decode(_decode(body), kind)
    except Malformed:  # an unknown field of a newer version may be a condition: it must not be ignored
        raise OtherVersion("this was signed by another version of Safelight") from None


class SingleUse(Protocol):
    """`expires` in Unix seconds."""

    @property
    def nonce(self) -> str: ...

    @property
    def expires(self) -> float: ...


class ReplayCache:
    """The nonces of used structures until they expire, grouped by the second of expiry.

    They come in any order of expiry, as clocks of nodes differ and may be set. The heap contains seconds, which are
    few, not nonces, so every operation takes amortised constant time.
    """

    def __init__(self) -> None:
        self._nonces: dict[int, set[str]] = {}
        self._seconds: list[int] = []  # the keys of `_nonces`, as a heap

    def __len__(self) -> int:
        return sum(map(len, self._nonces.values()))

    def __contains__(self, signed: SingleUse) -> bool:
        return signed.nonce in self._nonces.get(ceil(signed.expires), ())

    def add(self, signed: SingleUse) -> None:
        second = ceil(signed.expires)
        if second not in self._nonces:
            self._nonces[second] = set()
            heappush(self._seconds, second)
        self._nonces[second].add(signed.nonce)

    def discard(self, signed: SingleUse) -> None:
        self._nonces.get(ceil(signed.expires), set()).discard(signed.nonce)

    def forget(self, now: float) -> None:
        """Forget what expired before `now` (Unix seconds)."""
        while self._seconds and self._seconds[0] <= now:
            del self._nonces[heappop(self._seconds)]


def _sign(text: str, key: bytes) -> bytes:
    return hmac.digest(key, text.encode(), hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
