"""Conditional requests (RFC 9110, 13), evaluated in the same way for every method before it takes effect.

If-Match, If-Unmodified-Since, If-None-Match and If-Modified-Since are evaluated in the order of 13.2.2. A list of
entity tags that is malformed is refused; a date that is malformed is ignored (13.1.3, 13.1.4).
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from safelight.runtime.http import web
from safelight.wire.messages import Problem, Refusal

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\U0010ffff]*"'  # RFC 9110, 8.8.3
_TAGS = re.compile(rf"[ \t,]*(?:{_TAG}[ \t]*(?:,[ \t,]*|\Z))+")
_EACH = re.compile(_TAG)
_DATES = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")  # RFC 9110, 5.6.7


class Current(NamedTuple):
    """The current state of the addressed resource."""

    tags: tuple[str, ...]
    """The strong entity tags of its representations."""
    modified: float | None
    """Unix seconds, whole; None if unknown."""


def conditional(request: web.Request) -> bool:
    """Whether the request has a condition: without one, no lookup is needed."""
    return any(
        header in request.headers
        for header in ("If-Match", "If-Unmodified-Since", "If-None-Match", "If-Modified-Since")
    )


def check_conditions(request: web.Request, current: Current | None) -> bool:
    """False for 304 (Not Modified), with GET and HEAD only. `current`: None if the resource does not exist.

    Raises Refusal (PRECONDITION; BAD_REQUEST for a malformed list of entity tags).
    """
    reads = request.method in ("GET", "HEAD")
    modified = None if current is None else current.modified
    if "If-Match" in request.headers:  # 13.1.1
        holds = _matches(request, "If-Match", current, weakly=False)
    else:  # 13.1.4
        date = _date(request, "If-Unmodified-Since")
        holds = date is None or modified is None or modified <= date
    if not holds:
        raise Refusal(Problem.PRECONDITION, "the image is not the one in the condition of the request: get it again")
    if "If-None-Match" in request.headers:  # 13.1.2
        differs = not _matches(request, "If-None-Match", current, weakly=True)
    else:  # 13.1.3
        date = _date(request, "If-Modified-Since") if reads else None
        differs = date is None or modified is None or modified > date
    if not differs and not reads:
        raise Refusal(
            Problem.PRECONDITION,
            "an image has this name, which the condition of the request excludes: choose another name",
        )
    return differs


def http_date(text: str) -> float | None:
    """A date (5.6.7) in Unix seconds; None if it is malformed."""
    for form in _DATES:
        with suppress(ValueError):
            return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
    return None


def _date(request: web.Request, header: str) -> float | None:
    values = request.headers.getall(header, [])
    return http_date(values[0]) if len(values) == 1 else None


def _matches(request: web.Request, header: str, current: Current | None, *, weakly: bool) -> bool:
    """Whether a list of entity tags, or `*`, matches the current state (8.8.3.2)."""
    value = ",".join(request.headers.getall(header))
    if value.strip() == "*":
        return current is not None
    if not _TAGS.fullmatch(value):
        raise Refusal(Problem.BAD_REQUEST, f'{header} is a list of entity tags, such as "abc", or * alone')
    tags = () if current is None else current.tags
    return any((each.removeprefix("W/") if weakly else each) in tags for each in _EACH.findall(value))
