"""A user's images in the vault, as every node shows them: asked of one node, and of the next where that one fails.

A node that hangs costs STALL_TIMEOUT, one that is down nothing. The timeout doubles after each round of all nodes, so
that a slow vault gets its time, too; the configuration's `timeout` without progress ends it.
"""

from __future__ import annotations

import asyncio
import glob
import re
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import NamedTuple, NoReturn, TypeVar
from urllib.parse import quote, unquote, urlencode

from multidict import CIMultiDictProxy

from safelight import timestamps
from safelight.client.files.sink import CHUNK, Sink
from safelight.client.requests.leader_search import NoLeader
from safelight.client.requests.retry_policy import policy
from safelight.client.transport.account import Account
from safelight.client.transport.deadline import Deadline
from safelight.client.transport.rounds import rounds
from safelight.client.transport.servers import TRANSPORT_ERRORS, Servers, not_a_node, reasons, refusal_in
from safelight.config import Config
from safelight.encryption import Scheme, sealed_size
from safelight.errors import SafelightError
from safelight.names import NAME_MAX, InvalidName, check_image_name, is_valid_unicode, shown
from safelight.runtime.http import aiohttp
from safelight.wire.messages import (
    ACCEPT_SEALED,
    API,
    MAX_LISTED,
    MAX_LISTING,
    Action,
    Kept,
    Listing,
    Problem,
    Refusal,
)

STALL_TIMEOUT = 2.0
"""Seconds that a node has to begin its answer, or to go on with it."""

CONNECT_TIMEOUT = 0.75
"""Seconds that a connection to a server may take before all servers are tried at once."""

PAUSE = 0.25
"""Seconds between two rounds."""

_T = TypeVar("_T")

Moved = Callable[[int], None]
"""To be called whenever a request makes progress, with the bytes that have come of the image."""


class NoSuchImage(SafelightError):
    """No image, or more than one, has this name."""


class AmbiguousName(NoSuchImage):
    """Several images have this original name. `images`: all of them, newest first."""

    def __init__(self, word: str, images: list[Kept]) -> None:
        super().__init__(
            f"several images were made from {shown(word)}: say which, by a name that `ls {shlex.quote(word)}` shows"
        )
        self.images = images


class Meaning(NamedTuple):
    """The images that a word means, and whether as a pattern: else it is exactly one."""

    images: AsyncIterator[Kept]
    pattern: bool


class Images:
    """What one user may read."""

    def __init__(self, config: Config, servers: Servers, account: Account) -> None:
        self._config, self._servers, self._account = config, servers, account
        self._preferred = max(servers.addresses)  # the one that answered last

    # -- which images there are ----------------------------------------------------------------------

    async def all(self, match: str | None = None) -> AsyncIterator[list[Kept]]:
        """All images, or those whose name or original name matches, newest first, in pages of `MAX_LISTED`."""
        if match is not None and not is_valid_unicode(match):
            return  # an argument's bytes need not be UTF-8, those of a name are
        query = {"limit": str(MAX_LISTED)} | ({"match": match} if match is not None else {})

        async def page(server: int, bearer: str, moved: Moved) -> Listing:
            path = f"{API}/images?{urlencode(query)}"
            return await self._servers.ask(server, "GET", path, Listing, authorization=bearer, limit=MAX_LISTING)

        while True:
            listing = await self._ask_any(page)
            yield listing.images
            if listing.next is None:
                return
            query["after"] = listing.next

    async def meant(self, word: str) -> Meaning:
        """What a NAME or PATTERN means: the image of exactly this name; else the only one whose file had exactly this
        name; only then what matches the pattern. Raises NoSuchImage, and AmbiguousName if several files had this name.
        """
        image = await self._one(word)
        if image is None and not glob.has_magic(word):
            raise _no_image(word)
        return Meaning(self._matching(word) if image is None else _each([image]), pattern=image is None)

    async def one(self, name: str) -> Kept:
        """The image of exactly this name, else the only one whose file had exactly this name. Raises NoSuchImage."""
        if (image := await self._one(name)) is None:
            raise _no_image(name)
        return image

    async def _one(self, word: str) -> Kept | None:
        try:
            return await self.find(word)
        except NoSuchImage:
            same = [image for image in await self._called(word) if image.original == word]
        if len(same) > 1:
            raise AmbiguousName(word, same)
        return same[0] if same else None

    async def listed(self, word: str | None) -> AsyncIterator[list[Kept]]:
        """As `meant`, in pages, for a listing: all images that came from files of one name, and perhaps none at all.
        None: all there are.
        """
        called = [] if word is None else await self._called(word)
        if exact := [image for image in called if image.name == word] or called:
            yield exact
        elif word is None or glob.has_magic(word):
            async for page in self.all(word):
                yield page

    async def _called(self, word: str) -> list[Kept]:
        """The images whose name or original name is exactly this word, the newest first."""
        if len(word) > NAME_MAX:
            return []
        exactly = re.sub(r"[*?[]", "?", word)  # no longer than the word, as glob.escape would make it
        pages = self.all(exactly)
        return [image async for page in pages for image in page if word in (image.name, image.original)]

    async def _matching(self, pattern: str) -> AsyncIterator[Kept]:
        """Raises NoSuchImage for none."""
        found = False
        async for page in self.all(pattern):
            for image in page:
                found = True
                yield image
        if not found:
            raise NoSuchImage(f"no image matches {shown(pattern)}: see `ls`")

    async def find(self, name: str) -> Kept:
        """The image of this name. Raises NoSuchImage."""
        try:
            check_image_name(name)
        except InvalidName:
            raise _no_image(name) from None

        async def head(server: int, bearer: str, moved: Moved) -> Kept:
            headers = {"Authorization": bearer}
            url = self._servers.at(server, _path(name))
            async with self._servers.http.head(url, headers=headers, allow_redirects=False) as response:
                if response.status == 404:
                    raise _no_image(name)
                if response.status != 200:  # an answer to HEAD has no body that would say more
                    await self._raise_refusal(server, name, bearer)
                return _kept(name, response.headers)

        return await self._ask_any(head)

    async def _raise_refusal(self, server: int, name: str, bearer: str) -> NoReturn:
        async with _get(self._servers, server, name, bearer, {"Range": "bytes=0-0"}):
            raise Refusal(Problem.INTERNAL, "the server changed its mind")

    # -- one image -----------------------------------------------------------------------------------

    async def fetch(self, image: Kept, sink: Sink, *, sealed: bool, progress: Callable[[int, int], None]) -> int:
        """Write the image, or its sealed file, into the sink; goes on with another node where one breaks off. Returns
        the node that finished it. Raises SafelightError.
        """
        size = sealed_size(Scheme.SEALED, image.size, self._account.user) if sealed else image.size
        download = _Download(self._servers, image.name, size, sink, sealed, progress)
        return await self._ask_any(download.go_on)

    async def read(self, image: Kept, start: int, end: int, etag: str = "") -> tuple[bytes, str]:
        """The bytes from `start` up to `end`, and the image's entity tag (RFC 9110, 8.8.3); of the image that has
        this `etag`, if it is given. Raises NoSuchImage if that is gone, and SafelightError.
        """

        async def part(server: int, bearer: str, moved: Moved) -> tuple[bytes, str]:
            headers = {"Range": f"bytes={start}-{end - 1}"} | ({"If-Match": etag} if etag else {})
            async with _get(self._servers, server, image.name, bearer, headers, gone=(404, 412)) as response:
                if response.headers.get("Content-Range") != f"bytes {start}-{end - 1}/{image.size}":
                    raise aiohttp.ClientPayloadError  # that is not what was asked for
                found = bytearray()
                async for chunk in response.content.iter_chunked(CHUNK):
                    found += chunk
                    moved(len(found))
                    if len(found) > end - start:
                        break
            if len(found) != end - start:
                raise aiohttp.ClientPayloadError
            return bytes(found), response.headers.get("ETag", "")

        return await self._ask_any(part)

    # -- any node ------------------------------------------------------------------------------------

    async def _ask_any(self, request: Callable[[int, str, Moved], Awaitable[_T]]) -> _T:
        """`request(server, authorization, moved)` at one server after the other, until one answers.

        Raises NoLeader after the deadline, a Refusal that is final, and what the request raises.
        """
        await self._account.token()  # which concerns all servers: the timeout of one of them must not end it
        clock = asyncio.get_running_loop().time
        deadline = Deadline(clock(), self._config.timeout)
        stall_timeout = STALL_TIMEOUT
        down: dict[int, BaseException] = {}
        async for _ in rounds(PAUSE):
            errors: dict[int, BaseException] = {}
            for server in sorted(self._servers.addresses, key=lambda each: (each != self._preferred, -each)):
                if server in down:
                    errors[server] = down[server]
                    continue
                try:
                    answer = await self._ask(server, request, stall_timeout, deadline)
                except (Refusal, *TRANSPORT_ERRORS) as error:
                    if isinstance(error, Refusal) and not policy(error).read:
                        raise
                    errors[server] = error
                    if not self._servers.connects(server):
                        down = await self._servers.unreachable(CONNECT_TIMEOUT)
                    if isinstance(error, Refusal) and error.problem is Problem.BUSY:
                        deadline.busy(clock())
                else:
                    self._preferred = server
                    return answer
            all_down = all(
                isinstance(error, TRANSPORT_ERRORS)
                and not (isinstance(error, TimeoutError) and self._servers.connects(server))
                for server, error in errors.items()
            )
            if (now := clock()) >= deadline.at(unreachable=all_down):
                did = "could do it" if all(isinstance(error, Refusal) for error in errors.values()) else "answered"
                raise NoLeader(f"no server {did} within {deadline.waited(now):.0f} s ({reasons(errors)})")
            stall_timeout = min(2 * stall_timeout, self._config.body_timeout)
            broken = any(isinstance(error, TRANSPORT_ERRORS) for error in errors.values())
            down = await self._servers.unreachable(CONNECT_TIMEOUT) if broken else {}
        raise AssertionError

    async def _ask(
        self, server: int, request: Callable[[int, str, Moved], Awaitable[_T]], seconds: float, deadline: Deadline
    ) -> _T:
        """One server's answer. Raises TimeoutError after so many seconds without progress, and after CONNECT_TIMEOUT
        without a connection.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(min(CONNECT_TIMEOUT, seconds) + seconds) as stalled:

            def moved(done: int) -> None:
                deadline.progress(loop.time(), done)
                stalled.reschedule(loop.time() + seconds)

            def give_up_unless_connected() -> None:
                if not self._servers.connects(server):
                    stalled.reschedule(loop.time())

            connecting = loop.call_later(min(CONNECT_TIMEOUT, seconds), give_up_unless_connected)
            try:
                return await self._account.authenticated(server, lambda bearer: request(server, bearer, moved))
            finally:
                connecting.cancel()


class _Download:
    """What has come of one image, and how to ask for the rest of it (RFC 9110, 13.1.5 and 14.2)."""

    def __init__(
        self,
        servers: Servers,
        name: str,
        size: int,
        sink: Sink,
        sealed: bool,
        progress: Callable[[int, int], None],
    ) -> None:
        self._servers, self._name, self._size, self._sink = servers, name, size, sink
        self._sealed, self._progress = sealed, progress
        self._etag = ""
        self.done = 0  # bytes

    async def go_on(self, server: int, bearer: str, moved: Moved) -> int:
        """The node that sent the rest. Raises Refusal, `TRANSPORT_ERRORS`, and CannotWrite."""
        headers = {}
        if self._sealed:
            headers["Accept"] = ACCEPT_SEALED
        if 0 < self.done < self._size and self._etag:
            headers |= {"Range": f"bytes={self.done}-", "If-Range": self._etag}
        async with _get(self._servers, server, self._name, bearer, headers) as response:
            if response.status == 200:
                self._begin(response.headers)
            elif response.headers.get("Content-Range") != f"bytes {self.done}-{self._size - 1}/{self._size}":
                raise aiohttp.ClientPayloadError  # that is not what was asked for
            async for chunk in response.content.iter_chunked(CHUNK):
                if self.done + len(chunk) > self._size:
                    self.done += len(chunk)
                    break
                self.done += len(chunk)  # before the write, which ends even if this task is cancelled meanwhile
                await self._sink.append(chunk)
                moved(self.done)
                self._progress(self.done, self._size)
        if self.done != self._size:
            self._etag = ""  # start from the first byte: this cannot be the rest of it
            raise aiohttp.ClientPayloadError
        node = response.headers.get("Safelight-Node", "")
        return int(node) if node.isdecimal() and len(node) < 6 else server

    def _begin(self, headers: CIMultiDictProxy[str]) -> None:
        self._sink.restart()
        self.done = 0
        etag = headers.get("ETag", "")
        self._etag = "" if etag.startswith("W/") else etag


@asynccontextmanager
async def _get(
    servers: Servers, server: int, name: str, bearer: str, headers: Mapping[str, str], *, gone: tuple[int, ...] = ()
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer to a GET of an image, if it succeeds. Raises NoSuchImage for the statuses in `gone`, and Refusal."""
    url, headers = servers.at(server, _path(name)), {"Authorization": bearer, **headers}
    async with servers.http.get(url, headers=headers, allow_redirects=False) as response:
        if response.status in gone:
            raise NoSuchImage(f"{shown(name)} was removed from the vault while it was read")
        if response.status not in (200, 206):
            raise await refusal_in(response)
        yield response


async def _each(images: list[Kept]) -> AsyncIterator[Kept]:
    for image in images:
        yield image


def _no_image(name: str) -> NoSuchImage:
    return NoSuchImage(f"no image is called {shown(name)}: see `ls`")


def _path(name: str) -> str:
    return f"{Action.SEAL.path}/{quote(name, safe='')}"


def _kept(name: str, headers: CIMultiDictProxy[str]) -> Kept:
    """What the headers of an answer say of an image. Raises Refusal for what is none of ours."""
    try:
        return Kept(
            name=name,
            size=int(headers["Content-Length"]),
            type=headers.get("Content-Type", ""),
            created=parsedate_to_datetime(headers["Last-Modified"]).timestamp(),
            original=unquote(headers.get("Safelight-Original", ""), errors="replace"),
            modified=timestamps.read(headers.get("Safelight-Modified", "")),
        )
    except (KeyError, ValueError, OverflowError):
        raise not_a_node() from None
