"""JSON from outside: whatever the bytes are, it is a structure or one error.

A parser that is fed by strangers raises more than it documents: besides errors of its own also those of Unicode, of
numbers, and of a nesting that is too deep. All of them are caught here, and nowhere else.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from safelight.errors import SafelightError
from safelight.names import shown

T = TypeVar("T")


class Malformed(SafelightError):
    """The bytes are not JSON of the structure that was expected; the message says where, in one short line."""


def decode(data: bytes | msgspec.Raw | str, kind: type[T]) -> T:
    """The structure of this type in JSON (RFC 8259). Raises Malformed, and nothing else."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise Malformed(shown(str(error))[1:-1]) from None
    except UnicodeError:  # it carries the text
        raise Malformed("it is not UTF-8") from None
    except (RecursionError, MemoryError):
        raise Malformed("it is nested too deeply, or too large") from None
    except (ValueError, OverflowError):
        raise Malformed("it has a number in it that cannot be read") from None
