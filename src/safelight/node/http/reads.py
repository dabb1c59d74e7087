"""Reads, which every node serves: a listing of a user's images, an image, or a part of it.

GET, HEAD, ranges and conditions follow RFC 9110. An image never changes, so its entity tag, the id of its sealed file,
is strong, and a client may join parts. A rewrap changes the header of a sealed file, so that has a tag of its own.
aiohttp's own parsers of these headers are not used: its `if_range` ignores entity tags, and its `http_range` takes the
last 0 bytes for all of them.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import AsyncGenerator, Callable
from email.utils import formatdate
from fnmatch import translate
from functools import partial
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from safelight import timestamps
from safelight.config import Config
from safelight.decoding import Malformed, decode
from safelight.encryption.stream import Bytes
from safelight.names import NAME_MAX, check_image_name, shown
from safelight.node.http.authentication import Authentication
from safelight.node.http.conditional import Current, check_conditions, http_date
from safelight.node.http.problems import RangeNotSatisfiable
from safelight.node.http.responses import from_the_vault, send, send_sealed, send_whole
from safelight.node.state.vault_handle import VaultHandle
from safelight.node.work.load import LoadTracker
from safelight.runtime.http import web
from safelight.vault.records import Image
from safelight.vault.vault import Vault, sealed_size_of
from safelight.wire.messages import ACCEPT_SEALED, MAX_LISTED, Kept, Listing, Problem, Refusal

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)
_NOT_PLAIN = re.compile(r'[^ -~]|["\\%]')
_ATTRIBUTE = "!#$&+^`|"  # what RFC 8187's attr-char has beyond what `quote` leaves alone
_QUERY = {"match", "limit", "after"}


class ReadHandlers:
    """The handlers of requests that read from the vault."""

    def __init__(
        self,
        config: Config,
        node: int,
        *,
        authentication: Authentication,
        vault_handle: VaultHandle,
        load: LoadTracker,
        log: Callable[[str], None],
    ) -> None:
        self._config, self._node = config, node
        self._authentication, self._vault_handle, self._load, self._log = authentication, vault_handle, load, log

    async def list(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/images: a user's images, newest first."""
        user, enrolment = await self._authentication.user(request)
        if unknown := request.query.keys() - _QUERY:
            raise Refusal(
                Problem.BAD_REQUEST,
                f"a listing takes {', '.join(sorted(_QUERY))}, and not {shown(sorted(unknown)[0])}",
            )
        pattern, limit = request.query.get("match"), _limit(request.query.get("limit", str(MAX_LISTED)))
        if pattern is not None and len(pattern) > NAME_MAX:
            raise Refusal(Problem.BAD_REQUEST, f"the pattern is longer than any name: {NAME_MAX} characters at most")

        # Not `fnmatchcase`, which caches 32,768 patterns. The result of `translate` matches in linear time.
        matches = re.compile(".*" if pattern is None else translate(pattern), re.DOTALL).match

        def wanted(image: Image) -> bool:
            return bool(matches(image.name) or matches(image.original))

        vault, before = self._vault_handle.vault, _read_cursor(request)
        head = request.method == "HEAD"
        with self._load.answering(user) if head else self._load.reading(user) as slot:  # a long one is megabytes
            found = await vault.newest(user, limit + 1, before=before, wanted=wanted, enrolment=enrolment)
            listing = Listing(
                [_kept(image) for image in found[:limit]], _cursor(found[limit - 1]) if found[limit:] else None
            )
            body = timestamps.to_json(listing)
            headers = {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                "Cache-Control": "no-store",
            }
            response = web.StreamResponse(headers=headers)
            return await send_whole(request, response, body, self._config.body_timeout, slot)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """GET and HEAD /v1/images/NAME: the image, or its sealed file."""
        user, enrolment = await self._authentication.user(request)
        name = check_image_name(request.match_info["name"])
        vault = self._vault_handle.vault
        image = await vault.find(user, name, enrolment=enrolment)
        headers = {
            "Cache-Control": "private, no-cache",
            "Vary": "Accept",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox",
            "Safelight-Node": str(self._node),
        }
        representation = _sealed(image) if _accepts_sealed(request) else _opened(vault, image)
        headers |= representation.validators
        if not check_conditions(request, Current((representation.tag,), representation.modified)):
            return web.Response(status=304, headers=headers)
        headers |= {**representation.headers, "Safelight-Original": quote(image.original or image.name, safe="")}
        if image.modified is not None:
            headers["Safelight-Modified"] = timestamps.text(image.modified)
        status, start, end = 200, 0, representation.size
        if representation.read is not None and (part := _range(request, representation)) is not None:
            status, (start, end) = 206, part
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{representation.size}"
        headers["Content-Length"] = str(end - start)
        reading = self._load.answering(user) if request.method == "HEAD" else self._load.reading(user)
        with reading as slot, from_the_vault(user, self._log):
            response = web.StreamResponse(status=status, headers=headers)
            if representation.read is None:
                return await send_sealed(request, response, vault, image, self._config.body_timeout, slot)
            return await send(request, response, representation.read(start, end), self._config.body_timeout, slot)


class _Representation(NamedTuple):
    """One representation of an image (RFC 9110, 3.2)."""

    size: int
    tag: str
    modified: float | None
    """Unix seconds, whole; None if unknown."""
    headers: dict[str, str]
    read: Callable[[int, int], AsyncGenerator[Bytes]] | None
    """Its bytes from one position up to another; None if it is only sent whole."""

    @property
    def validators(self) -> dict[str, str]:
        dated = {} if self.modified is None else {"Last-Modified": formatdate(self.modified, usegmt=True)}
        return {"ETag": self.tag, **dated}


def _opened(vault: Vault, image: Image) -> _Representation:
    name = image.original or image.name
    headers = {
        "Content-Type": image.type,
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'inline; filename="{_NOT_PLAIN.sub("_", name)}"; '
        f"filename*=UTF-8''{quote(name, safe=_ATTRIBUTE)}",  # RFC 6266, 4.3 and appendix D; RFC 8187
    }
    modified = _last_modified(image)
    return _Representation(image.size, _opened_tag(image), modified, headers, partial(vault.part, image))


def _sealed(image: Image) -> _Representation:
    headers = {"Content-Type": ACCEPT_SEALED, "Accept-Ranges": "none"}
    return _Representation(sealed_size_of(image), _sealed_tag(image), None, headers, read=None)


def current(image: Image) -> Current:
    """The image for a condition on its removal or replacement: either representation's tag identifies it."""
    return Current((_opened_tag(image), _sealed_tag(image)), _last_modified(image))


def _opened_tag(image: Image) -> str:
    return f'"{image.parsed_header.file_id}"'


def _sealed_tag(image: Image) -> str:
    return f'"{hashlib.sha256(image.header).hexdigest()[:32]}"'


def _last_modified(image: Image) -> float:
    return float(int(min(image.created, time.time())))  # never in the future (RFC 9110, 8.8.2.1)


def _accepts_sealed(request: web.Request) -> bool:
    """Whether `Accept` (RFC 9110, 12.5.1) has the sealed file's type, without a quality of 0."""
    for each in ",".join(request.headers.getall("Accept", [])).split(","):
        media_type, *parameters = (part.strip().lower() for part in each.split(";"))
        if media_type == ACCEPT_SEALED:
            return not any(re.fullmatch(r"q\s*=\s*0(\.0*)?", parameter) for parameter in parameters)
    return False


# -- ranges ------------------------------------------------------------------------------------------


def _range(request: web.Request, representation: _Representation) -> tuple[int, int] | None:
    """The range of a request, from its start up to its end (not included); None for the whole.

    Range applies to GET alone, and is ignored if it has another unit or several ranges (14.2), or if If-Range names
    another state of the image (13.1.5). Raises RangeNotSatisfiable (14.1.1).
    """
    match = _RANGE.fullmatch(request.headers.get("Range", ""))
    if request.method != "GET" or match is None or not _unchanged(request, representation):
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:
        if (suffix := int(last)) == 0:
            raise RangeNotSatisfiable(representation.size)
        return max(0, representation.size - suffix), representation.size
    if last and int(last) < int(first):
        return None  # invalid, not unsatisfiable
    if int(first) >= representation.size:
        raise RangeNotSatisfiable(representation.size)
    return int(first), min(int(last) + 1, representation.size) if last else representation.size


def _unchanged(request: web.Request, representation: _Representation) -> bool:
    """If-Range (13.1.5): an entity tag, compared strongly, or a date, compared exactly."""
    condition = request.headers.get("If-Range")
    if condition is None or condition == representation.tag:
        return True
    date = http_date(condition)
    return date is not None and date == representation.modified


# -- listings ----------------------------------------------------------------------------------------


def _kept(image: Image) -> Kept:
    return Kept(image.name, image.size, image.type, image.created, image.original, image.modified)


def _limit(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= MAX_LISTED:
        raise Refusal(Problem.BAD_REQUEST, f"limit is 1 to {MAX_LISTED}")
    return int(text)


def _cursor(image: Image) -> str:
    """The position after this image in a listing, whatever is added to it meanwhile."""
    return base64.urlsafe_b64encode(msgspec.json.encode((image.created, image.name))).decode().rstrip("=")


def _read_cursor(request: web.Request) -> tuple[float, str] | None:
    cursor = request.query.get("after")
    if cursor is None:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return decode(text, tuple[float, str])
    except (ValueError, Malformed):
        raise Refusal(Problem.BAD_REQUEST, "after is the value of next in an earlier listing") from None
