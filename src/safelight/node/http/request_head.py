"""What a request's head may say, whatever it asks for: checked before anything of its body is read.

A header that changes what the body means is applied or refused, never ignored: otherwise a part of an image, or an
image in a wrapping, would be kept as the image. And an address that cannot be decoded names nothing: a name is never
guessed.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from safelight.runtime.http import HttpVersion11, web
from safelight.wire.messages import Problem, Refusal

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_WRAPPINGS = ("multipart/", "message/")
"""Types whose bodies have the content inside, or a part of it (RFC 2046). What curl and wget call any body of theirs,
application/x-www-form-urlencoded, is not among them."""


def check_head(request: web.Request) -> None:
    """Raises Refusal for a request whose head this node cannot, or must not, follow."""
    url = request.rel_url
    unescaped(url.raw_path, "the address")
    unescaped(url.raw_query_string, "what follows ? in the address")
    _check_coding(request)
    if request.method not in ("GET", "HEAD") and "Content-Range" in request.headers:  # RFC 9110, 14.5
        raise Refusal(Problem.BAD_REQUEST, "Content-Range: a part of an image is not taken, send the whole image")
    for header, part in (("Upload-Complete", "?0"), ("Upload-Incomplete", "?1")):  # resumable uploads (IETF drafts)
        if request.method == "PUT" and request.headers.get(header, "").strip() == part:
            raise Refusal(Problem.BAD_REQUEST, f"{header}: a part of an image is not taken, send the whole image")
    for coding in _listed(request, "Content-Encoding"):
        if coding != "identity":
            raise Refusal(
                Problem.UNSUPPORTED_TYPE, "the body has a Content-Encoding: send it as it is, without compression"
            )
    if request.headers.get("Content-Type", "").strip().lower().startswith(_WRAPPINGS):
        raise Refusal(
            Problem.UNSUPPORTED_TYPE, "the body is a form or another wrapping: send the bytes alone (curl -T FILE)"
        )
    if any(expected != "100-continue" for expected in _listed(request, "Expect")):  # RFC 9110, 10.1.1
        raise Refusal(Problem.EXPECTATION, "the only expectation known here is 100-continue")


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
        raise Refusal(Problem.UNKNOWN_CODING, "the only transfer coding known here is chunked")


def _listed(request: web.Request, header: str) -> list[str]:
    """The members of a header that is a list (RFC 9110, 5.6.1), in lower case."""
    said = ",".join(request.headers.getall(header, []))
    return [each for part in said.split(",") if (each := part.strip().lower())]
