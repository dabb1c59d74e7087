"""Which problem (RFC 9457) a failed request gets: one table from exceptions to problems, and the response.

A detail names no path and nothing of another user.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from safelight.encryption.errors import CannotOpen, TooLarge
from safelight.errors import SafelightError
from safelight.names import shown
from safelight.node.state.data_directory import DataError
from safelight.runtime.http import HttpProcessingError, web
from safelight.vault.stores.base import BadObject, StoreError, StoreFull
from safelight.vault.vault import AlreadyRemoved, NameTaken, UnknownImage, UploadConflict
from safelight.wire.messages import MAX_JSON, PROBLEM_TYPE, Problem, Refusal, problem_body

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
CUT_SHORT = (ConnectionError, HttpProcessingError, web.RequestPayloadError)
"""The client closed the connection, or sent what is not HTTP, before the end of its body."""

_FAILED = "the node failed: see its log"


class RangeNotSatisfiable(Refusal):
    """The requested range lies outside an image of `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(Problem.RANGE, f"the image has {size} bytes")
        self.size = size


def _vault_full(error: StoreFull) -> str:
    missing = f" ({error.missing})" if error.missing else ""
    return f"the vault is full{missing}: remove images or free space, then try again"


def _not_allowed(error: web.HTTPMethodNotAllowed) -> str:
    return f"{shown(error.method)} is not allowed at this address: use {', '.join(error.allowed_methods)}"


def _reason(error: web.HTTPException) -> str:
    return error.reason


PROBLEMS: dict[type[Exception], tuple[Problem, str | Callable[[Any], str]]] = {
    CannotOpen: (Problem.CANNOT_OPEN, str),
    TooLarge: (Problem.TOO_LARGE, str),
    UnknownImage: (Problem.NOT_FOUND, str),
    NameTaken: (Problem.IMAGE_TAKEN, str),
    AlreadyRemoved: (Problem.REMOVED, str),
    UploadConflict: (Problem.OVERTAKEN, str),
    StoreFull: (Problem.DISK_FULL, _vault_full),
    StoreError: (Problem.VAULT_AWAY, "the vault is unavailable: try again; the node's log gives the reason"),
    BadObject: (Problem.DAMAGED, "an object in the vault is damaged: the node's log names it"),
    DataError: (Problem.INTERNAL, _FAILED),
    SafelightError: (Problem.BAD_REQUEST, str),
    web.HTTPNotFound: (Problem.NOT_FOUND, "there is no such address: docs/api.md lists all addresses"),
    web.HTTPMethodNotAllowed: (Problem.METHOD, _not_allowed),
    web.HTTPRequestEntityTooLarge: (Problem.TOO_LARGE, f"a message has at most {MAX_JSON} bytes"),
    web.HTTPException: (Problem.BAD_REQUEST, _reason),
    **dict.fromkeys(CUT_SHORT, (Problem.BAD_LENGTH, "the connection ended before the body did")),
    Exception: (Problem.INTERNAL, _FAILED),
}
"""The entry of the nearest base class counts. The detail is a text, or a function of the exception."""


def refusal_of(error: Exception) -> Refusal:
    """The refusal for what a handler raised."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return Refusal(Problem.DISK_FULL, "the node's disk is full: free space there")
    problem, detail = next(PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS)
    return Refusal(problem, detail if isinstance(detail, str) else detail(error))


def problem_response(refusal: Refusal, node: int) -> web.Response:
    """The response of this node."""
    headers = {"Cache-Control": "no-store"}
    if refusal.problem.status in (429, 503):
        headers["Retry-After"] = "1"
    if refusal.problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refusal.problem is Problem.UNSUPPORTED_TYPE:  # RFC 9110, 12.5.3
        headers["Accept-Encoding"] = "identity"
    if isinstance(refusal, RangeNotSatisfiable):  # RFC 9110, 15.5.17
        headers["Content-Range"] = f"bytes */{refusal.size}"
    refusal.node = node
    return web.Response(
        status=refusal.problem.status, body=problem_body(refusal), content_type=PROBLEM_TYPE, headers=headers
    )
