"""Checks of a request's head that apply to every route, before its body is read.

A header that changes what the body means is applied or refused, never ignored: otherwise a part of an image, or an
image in another encoding, would be stored as the image. An address that cannot be decoded is refused: a name is never
guessed.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from safelight.runtime.http import HttpVersion11, web
from safelight.wire.messages import Problem, Refusal

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTAINERS = ("multipart/", "message/")
"""Types whose bodies contain other content (RFC 2046). The default of curl and wget for any body,
application/x-www-form-urlencoded, is not among them."""


def check_head(request: web.Request) -> None:
    """Raises Refusal for a request whose head this node does not support."""
    url = request.rel_url
    unescaped(url.raw_path, "the address")
    unescaped(url.raw_query_string, "the query in the address")
    _check_coding(request)
    if request.method not in ("GET", "HEAD") and "Content-Range" in request.headers:  # RFC 9110, 14.5
        raise Refusal(Problem.BAD_REQUEST, "Content-Range: parts of an image are not supported; send the whole image")
    for header, part in (("Upload-Complete", "?0"), ("Upload-Incomplete", "?1")):  # resumable uploads (IETF drafts)
        if request.method == "PUT" and request.headers.get(header, "").strip() == part:
            raise Refusal(Problem.BAD_REQUEST, f"{header}: parts of an image are not supported; send the whole image")
    for coding in _listed(request, "Content-Encoding"):
        if coding != "identity":
            raise Refusal(Problem.UNSUPPORTED_TYPE, "the body has a Content-Encoding: send it unencoded")
    if request.headers.get("Content-Type", "").strip().lower().startswith(_CONTAINERS):
        raise Refusal(
            Problem.UNSUPPORTED_TYPE, "the body is a form or a multipart message: send the bytes alone (curl -T FILE)"
        )
    if any(expected != "100-continue" for expected in _listed(request, "Expect")):  # RFC 9110, 10.1.1
        raise Refusal(Problem.EXPECTATION, "the only supported expectation is 100-continue")


def unescaped(text: str, what: str) -> str:
    """Percent-encoded UTF-8 (RFC 3986, 2.1) as text; `what` is its name in messages. Raises Refusal (BAD_REQUEST)."""
    if _BROKEN_ESCAPE.search(text):
        raise Refusal(Problem.BAD_REQUEST, f"{what} has a % without two hex digits after it: write %25 for a %")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        raise Refusal(Problem.BAD_REQUEST, f"{what} is not percent-encoded UTF-8") from None


def _check_coding(request: web.Request) -> None:
    """Transfer-Encoding (RFC 9112, 6.1). Where chunked is not the last of them, the parser has refused it already."""
    codings = _listed(request, "Transfer-Encoding")
    if codings and request.version < HttpVersion11:
        raise Refusal(Problem.BAD_REQUEST, "HTTP/1.0 has no Transfer-Encoding: send Content-Length, or use HTTP/1.1")
    if codings not in ([], ["chunked"]):
        raise Refusal(Problem.UNKNOWN_CODING, "the only supported transfer coding is chunked")


def _listed(request: web.Request, header: str) -> list[str]:
    """The members of a header that is a list (RFC 9110, 5.6.1), in lower case."""
    value = ",".join(request.headers.getall(header, []))
    return [each for part in value.split(",") if (each := part.strip().lower())]
