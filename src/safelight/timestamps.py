"""Times of files, to the nanosecond: Unix seconds as a decimal number, in headers, in JSON and in records alike.

A float has no room for nanoseconds today (it holds some 16 digits, and they need 19); a number in JSON has
(RFC 8259, section 6), whatever a reader makes of it. What a reader of an earlier version makes of it is a float.
"""

from __future__ import annotations

import re
from decimal import Decimal

import msgspec

_TEXT = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,9})?")
_BEYOND = 10**12 * 10**9
"""Nanoseconds: from here on, in the year 33658, a time has more digits than are taken."""

to_json = msgspec.json.Encoder(decimal_format="number").encode
"""What has such times in it, as JSON."""


def read(text: str) -> Decimal | None:
    """Unix seconds out of a header: up to 12 digits, and 9 behind the point. None for anything else."""
    return Decimal(text) if _TEXT.fullmatch(text) else None


def text(seconds: Decimal) -> str:
    """Without an exponent, so that it reads back as the same."""
    return format(seconds, "f").removesuffix(".0")


def from_nanoseconds(moment: int) -> Decimal | None:
    """Unix seconds, for a header. None for a time that `read` does not take."""
    if abs(moment) >= _BEYOND:
        return None
    return Decimal(moment).scaleb(-9).normalize()


def to_nanoseconds(seconds: Decimal) -> int | None:
    """Unix time. None for what is beyond the times that `read` takes: a client may send anything."""
    if not seconds.is_finite() or seconds.adjusted() > 12:  # an exponent may be large beyond computing
        return None
    moment = int(seconds.scaleb(9)) if seconds.adjusted() > -12 else 0
    return moment if abs(moment) < _BEYOND else None
