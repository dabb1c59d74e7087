"""The HTTP interface of a node: /v1. See docs/api.md; every refusal is a problem document (RFC 9457)."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from safelight import __version__
from safelight.config import Config
from safelight.encryption.errors import CannotOpen, TooLarge
from safelight.errors import SafelightError
from safelight.names import shown
from safelight.node.datadir import DataError
from safelight.node.gate import Gate, GoTo
from safelight.node.keyfile import Keys
from safelight.node.links import PATH, Links
from safelight.node.load import LoadBook
from safelight.node.users import Users
from safelight.node.work import Workshop
from safelight.orders import AddKey, BadOrder, StepDown, UseKey, key_in
from safelight.protocol import (
    API,
    MAX_JSON,
    PROBLEM_TYPE,
    SEALED_TYPE,
    Action,
    Cluster,
    Offer,
    Problem,
    Refusal,
    Status,
    fingerprint,
    problem_body,
)
from safelight.sizes import human_size
from safelight.tickets import Job

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
JOB = web.RequestKey("job", Job)
PIECE = 1 << 16
"""Bytes of an answer that a client must take within `body_timeout`."""

CONTINUE = web.Response(status=100)
"""Stands for "go on, send the body"; never sent itself."""

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """A response broke off in its middle; it is too late for another."""

    def __init__(self, response: web.StreamResponse, reason: str) -> None:
        super().__init__(reason)
        self.response = response


class Routes:
    """The handlers of one node, over what does the work."""

    def __init__(
        self,
        config: Config,
        node: int,
        cluster: str,
        *,
        gate: Gate,
        workshop: Workshop,
        users: Users,
        links: Links,
        load: LoadBook,
        keys: Keys,
        step_down: Callable[[float], None],
        say: Callable[[str], None],
    ) -> None:
        self._config, self._node, self._cluster = config, node, cluster
        self._gate, self._workshop, self._users, self._load, self._say = gate, workshop, users, load, say
        self._links, self._keys, self._step_down = links, keys, step_down

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_JSON)
        app.router.add_get(f"{API}/cluster", self.cluster)
        app.router.add_get(f"{API}/status", self.status)
        app.router.add_put(f"{API}/users/{{user}}", self.enrol)
        app.router.add_post(f"{API}/offers", self.offer)
        app.router.add_post(f"{API}/orders", self.order)
        app.router.add_get(PATH, self._links.accept)
        for action, handler in ((Action.SEAL, self.seal), (Action.OPEN, self.open)):
            path = f"{action.path}/{{name:[^/]+}}"
            app.router.add_route("PUT", path, handler, expect_handler=self._expecting(action))
        return app

    # -- small messages ------------------------------------------------------------------------------

    async def cluster(self, request: web.Request) -> web.Response:
        return _json(Cluster(self._cluster, self._node, __version__, self._gate.open_enrolment))

    async def status(self, request: web.Request) -> web.Response:
        return _json(Status(self._cluster, self._node, self._load.known()))

    async def enrol(self, request: web.Request) -> web.Response:
        """PUT /v1/users/NAME with a token: the token claims the name, where enrolment is open."""
        token = self._gate.bearer(request)
        if not token:
            raise Refusal(Problem.NO_CREDENTIALS, "enrol with a token: Authorization: Bearer TOKEN")
        if not self._gate.open_enrolment:
            raise Refusal(Problem.ENROLMENT_CLOSED, "only the operator adds users here, with `safelight user add`")
        created = self._users.enrol(request.match_info["user"], fingerprint(token))
        return web.Response(status=201 if created else 200)

    async def order(self, request: web.Request) -> web.Response:
        """POST /v1/orders: what the operator tells this node to do. It is done, and on the disk, when this answers."""
        order = self._gate.order(request)
        try:
            match order.task:
                case StepDown(seconds):
                    self._step_down(seconds)
                case AddKey() as task:
                    await asyncio.to_thread(self._keys.add, key_in(order, task, self._keys.ring))
                case UseKey(key):
                    if await asyncio.to_thread(self._keys.use, key):
                        self._say(f"new images are sealed with the key {key}")
        except BadOrder as error:
            raise Refusal(Problem.BAD_ORDER, str(error)) from None
        except SafelightError as error:  # whoever gave the order has the keyring, and may know
            self._say(str(error))
            raise Refusal(Problem.INTERNAL, str(error)) from None
        return _json(self._gate.obeyed(order, self._keys.ring.current_id))

    async def offer(self, request: web.Request) -> web.Response:
        """POST /v1/offers: a grant from the leader, a refusal from everybody else."""
        try:
            async with asyncio.timeout(self._config.body_timeout):
                text = await request.read()
            offer = msgspec.json.decode(text, type=Offer)
        except TimeoutError:
            raise Refusal(Problem.STALLED, "the offer did not come to its end: send it again") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            why = shown(str(error)) if isinstance(error, msgspec.DecodeError) else "it is not UTF-8"
            raise Refusal(Problem.BAD_REQUEST, f"this is not an offer: {why}") from None
        grant = await self._gate.grant(request, offer)
        return _json(grant, status=201)

    # -- bodies --------------------------------------------------------------------------------------

    async def seal(self, request: web.Request) -> web.StreamResponse:
        """PUT /v1/images/NAME: an image in, its sealed file out."""
        job = await self._job(request, Action.SEAL)
        with self._load.work(job.size):
            async with self._workshop.spool() as spool:
                size = await self._workshop.seal(job, request.content, spool)
                self._say(f"Encrypted an image for {job.user} ({human_size(size)})")
                return await self._send(request, job, spool.size, spool.chunks(), status=201)

    async def open(self, request: web.Request) -> web.StreamResponse:
        """PUT /v1/opened/NAME: a sealed file in, its image out."""
        job = await self._job(request, Action.OPEN)
        with self._load.work(job.size):
            async with self._workshop.spool() as spool:
                size = await self._workshop.verify(job, request.content, spool)
                self._say(f"Opened an image for {job.user} ({human_size(size)})")
                return await self._send(request, job, size, self._workshop.opened(job, spool), status=200)

    async def _job(self, request: web.Request, action: Action) -> Job:
        return request.get(JOB) or await self._gate.admit(request, action)

    def _expecting(self, action: Action) -> Handler:
        """What aiohttp calls for `Expect: 100-continue`, before and instead of the middlewares: the gate
        must answer before the body is asked for (RFC 9110, 10.1.1).
        """

        async def expected(request: web.Request) -> web.StreamResponse | None:
            async def admit(request: web.Request) -> web.StreamResponse:
                request[JOB] = await self._gate.admit(request, action)
                return CONTINUE

            answer = await self._guard(request, admit)
            if answer is not CONTINUE:
                answer.force_close()  # the announced body will never come: this connection is of no use
                return answer
            assert request.transport is not None
            if request.version >= HttpVersion11:  # an older client would take it for the answer
                request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None

        return expected  # type: ignore[return-value]  # aiohttp's own type for it allows None

    async def _send(
        self, request: web.Request, job: Job, size: int, chunks: AsyncIterator[bytes], *, status: int
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            status=status,
            headers={
                "Content-Type": SEALED_TYPE,
                "Content-Length": str(size),
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "Safelight-Node": str(self._node),
                "Safelight-Upload": job.upload,
                "Safelight-Kept": "no",  # until there is a vault, this answer is the only copy
            },
        )
        _notice_every_step(request)
        await response.prepare(request)
        try:
            async for chunk in chunks:
                for start in range(0, len(chunk), PIECE):
                    async with asyncio.timeout(self._config.body_timeout):
                        await response.write(chunk[start : start + PIECE])
        except (CannotOpen, TimeoutError, OSError) as error:
            # Too late for another status: break off visibly, so that nobody takes a part for the whole.
            if request.transport is not None:
                request.transport.abort()
            raise Interrupted(response, str(error)) from None
        await response.write_eof()
        return response

    # -- errors --------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._gate.check_host(request)
            return await handler(request)
        except GoTo as redirect:
            return web.Response(status=307, headers={"Location": redirect.url, "Cache-Control": "no-store"})
        except Refusal as refusal:
            return self._problem(refusal)
        except CannotOpen as error:
            return self._problem(Refusal(Problem.CANNOT_OPEN, str(error)))
        except TooLarge as error:
            return self._problem(Refusal(Problem.TOO_LARGE, str(error)))
        except DataError as error:  # not the client's fault, nor its business
            self._say(str(error))
            return self._problem(Refusal(Problem.INTERNAL, f"node {self._node} failed: see its log"))
        except SafelightError as error:
            return self._problem(Refusal(Problem.BAD_REQUEST, str(error)))
        except web.HTTPException as error:
            return self._translated(error)
        except Interrupted as interrupted:
            self._say(f"An answer broke off half-way ({interrupted})")
            return interrupted.response
        except (ConnectionError, HttpProcessingError, web.RequestPayloadError):
            self._say("A client went away half-way")
            return self._problem(Refusal(Problem.BAD_LENGTH, "the connection ended before the body did"))
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                return self._problem(Refusal(Problem.DISK_FULL, "the node's disk is full: free some space there"))
            log.exception("Node %d failed", self._node)
            return self._problem(Refusal(Problem.INTERNAL, f"node {self._node} failed: see its log"))

    def _problem(self, refusal: Refusal) -> web.Response:
        headers = {"Cache-Control": "no-store"}
        if refusal.problem.status == 503:
            headers["Retry-After"] = "1"
        if refusal.problem.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        refusal.node = self._node
        return web.Response(
            status=refusal.problem.status,
            body=problem_body(refusal),
            content_type=PROBLEM_TYPE,
            headers=headers,
        )

    def _translated(self, error: web.HTTPException) -> web.Response:
        """What aiohttp itself refuses, in our words."""
        match error:
            case web.HTTPNotFound():
                refusal = Refusal(Problem.NOT_FOUND, "there is no such address: docs/api.md lists them all")
            case web.HTTPMethodNotAllowed(allowed_methods=allowed):
                refusal = Refusal(Problem.METHOD, f"{shown(error.method)} is not for here: use {', '.join(allowed)}")
            case web.HTTPRequestEntityTooLarge():
                refusal = Refusal(Problem.TOO_LARGE, f"a message has {MAX_JSON} bytes at most")
            case _:
                refusal = Refusal(Problem.BAD_REQUEST, error.reason)
        response = self._problem(refusal)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response


def _json(value: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode(value),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _notice_every_step(request: web.Request) -> None:
    """Let the socket take more as soon as the client has taken some (TCP_NOTSENT_LOWAT, tcp(7)).

    By default it takes megabytes at once, and then nothing until a third of them is gone: a slow reader
    would look like one that stands still.
    """
    connection = request.get_extra_info("socket")
    if connection is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, PIECE)
