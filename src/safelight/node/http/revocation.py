"""A revocation ends the active requests of its user: uploads, downloads, listings and WebSockets.

A request is checked when it arrives, and every `CHECK` seconds while it runs, so that a revocation takes effect within
the second for which a node caches what it read about a user. A new token ends the requests of the old one, too. If the
users cannot be read, active requests continue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from safelight.errors import SafelightError
from safelight.node.connections.http_connection import TOKEN_OF, USER, HttpConnection
from safelight.node.state.users import FRESH, Users
from safelight.runtime.http import web

CHECK = 0.2
"""Seconds between two checks of the active requests."""

AT_ONCE = 32
"""Users that are looked up at a time."""

LOOKUP_TIMEOUT = 10.0
"""Seconds that one lookup may take; the others continue meanwhile."""

logger = logging.getLogger(__name__)


class ActiveRequests:
    """The active requests of one node."""

    def __init__(self, users: Users, log: Callable[[str], None]) -> None:
        self._users, self._log = users, log
        self._requests: dict[int, web.Request] = {}  # by id: they are not hashable
        self._checking: asyncio.Task[None] | None = None
        self._checks: dict[tuple[str, str | None], asyncio.Task[None]] = {}
        self._free = asyncio.Semaphore(AT_ONCE)
        self._failed = False

    def start(self) -> None:
        self._checking = asyncio.create_task(self._check_again())

    def stop(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
        for check in self._checks.values():
            check.cancel()

    @contextmanager
    def watched(self, request: web.Request) -> Iterator[None]:
        """The request is active."""
        if id(request) in self._requests:  # one of a WebSocket's offers
            yield
            return
        self._requests[id(request)] = request
        try:
            yield
        finally:
            del self._requests[id(request)]

    async def _check_again(self) -> None:
        while True:
            await asyncio.sleep(CHECK)
            users = {(request[USER], request.get(TOKEN_OF)) for request in self._requests.values() if USER in request}
            for user, token in users - self._checks.keys():
                self._checks[user, token] = asyncio.create_task(self._check(user, token))

    async def _check(self, user: str, token: str | None) -> None:
        """End the user's requests if the user was revoked. An error here does not affect the checks of other users."""
        try:
            async with self._free, asyncio.timeout(LOOKUP_TIMEOUT):
                active = await self._users.active(user, token, within=FRESH - CHECK)
            if not active:
                self._end(user, token)
        except (SafelightError, TimeoutError):
            pass
        except Exception:
            if not self._failed:
                self._failed = True
                logger.exception("cannot check whether users were revoked; this is reported once")
        finally:
            self._checks.pop((user, token), None)

    def _end(self, user: str, token: str | None) -> None:
        ended = 0
        for request in [*self._requests.values()]:
            connection = request.protocol
            if (request.get(USER), request.get(TOKEN_OF)) == (user, token) and isinstance(connection, HttpConnection):
                ended += connection.abort()
        if ended:
            self._log(f"closed {ended} requests of {user}, who was revoked or has another token")
