"""The HTTP interface of a node: /v1. See docs/api.md; every refusal is a problem document (RFC 9457).

Here are the table, the small messages, and what becomes of errors; images are in `jobs` and `images`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable

import msgspec

from safelight import __version__
from safelight.config import Config
from safelight.encryption.errors import CannotOpen, TooLarge
from safelight.errors import SafelightError
from safelight.http import HttpProcessingError, web
from safelight.names import shown
from safelight.node.answers import Interrupted
from safelight.node.datadir import DataError
from safelight.node.gate import Gate, GoTo
from safelight.node.images import Images, NoSuchPart
from safelight.node.jobs import Handler, Jobs
from safelight.node.keyfile import Keys
from safelight.node.lines import Lines
from safelight.node.links import PATH, Links
from safelight.node.load import LoadBook
from safelight.node.users import Users
from safelight.orders import AddKey, BadOrder, StepDown, UseKey, key_in
from safelight.protocol import (
    API,
    MAX_JSON,
    PROBLEM_TYPE,
    Action,
    Cluster,
    Offer,
    Problem,
    Refusal,
    Status,
    fingerprint,
    problem_body,
)
from safelight.vault.opening import NONE
from safelight.vault.records import BadRecord
from safelight.vault.store import StoreError, StoreFull
from safelight.vault.vault import AlreadyRemoved, NameTaken, NoSuchImage, Overtaken

_NAME = "{name:[^/]+}"

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

log = logging.getLogger(__name__)


class Routes:
    """The handlers of one node, over what does the work."""

    def __init__(
        self,
        config: Config,
        node: int,
        cluster: str,
        *,
        gate: Gate,
        jobs: Jobs,
        images: Images,
        users: Users,
        links: Links,
        load: LoadBook,
        keys: Keys,
        step_down: Callable[[float], None],
        say: Callable[[str], None],
    ) -> None:
        self._config, self._node, self._cluster = config, node, cluster
        self._gate, self._jobs, self._images = gate, jobs, images
        self._users, self._load, self._say = users, load, say
        self._links, self._keys, self._step_down = links, keys, step_down
        self.lines = Lines(self._answered, config.body_timeout)

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_JSON)
        app.router.add_get(f"{API}/cluster", self.cluster)
        app.router.add_get(f"{API}/status", self.status)
        app.router.add_put(f"{API}/users/{{user}}", self.enrol)
        app.router.add_post(f"{API}/offers", self.offer)
        app.router.add_get(f"{API}/offers", self.offers)
        app.router.add_post(f"{API}/orders", self.order)
        app.router.add_get(PATH, self._links.accept)
        for action, handler in ((Action.SEAL, self._jobs.seal), (Action.OPEN, self._jobs.open)):
            expecting = self._jobs.expecting(action, self._guard)
            app.router.add_route("PUT", f"{action.path}/{_NAME}", handler, expect_handler=expecting)
        app.router.add_delete(f"{Action.REMOVE.path}/{_NAME}", self._jobs.remove)
        app.router.add_get(f"{API}/images", self._images.list)
        app.router.add_get(f"{API}/images/{_NAME}", self._images.get)
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
        created = await self._users.enrol(request.match_info["user"], fingerprint(token))
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
        except TimeoutError:
            raise Refusal(Problem.STALLED, "the offer did not come to its end: send it again") from None
        return await self._granted(request, text)

    async def offers(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/offers: the same over a WebSocket, one frame for each offer, and one for each answer."""
        await self._gate.user(request)  # who is nobody gets no line; each offer is checked again
        return await self.lines.accept(request)

    async def _answered(self, request: web.Request, offer: bytes) -> web.StreamResponse:
        return await self._guard(request, lambda _: self._granted(request, offer))

    async def _granted(self, request: web.Request, text: bytes) -> web.Response:
        try:
            offer = msgspec.json.decode(text, type=Offer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            why = shown(str(error)) if isinstance(error, msgspec.DecodeError) else "it is not UTF-8"
            raise Refusal(Problem.BAD_REQUEST, f"this is not an offer: {why}") from None
        grant = await self._gate.grant(request, offer)
        return _json(grant, status=201)

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
        except (StoreError, BadRecord) as error:  # nor is this
            self._say(str(error))
            if self._config.vault == NONE and not isinstance(error, StoreFull):  # it is the data directory's trouble
                return self._problem(Refusal(Problem.INTERNAL, f"node {self._node} failed: see its log"))
            return self._problem(_vaults_refusal(error))
        except (NoSuchImage, NameTaken, AlreadyRemoved, Overtaken) as error:
            return self._problem(Refusal(_OF_THE_VAULT[type(error)], str(error)))
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
        if isinstance(refusal, NoSuchPart):  # RFC 9110, 15.5.17
            headers["Content-Range"] = f"bytes */{refusal.size}"
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


_OF_THE_VAULT: dict[type[SafelightError], Problem] = {
    NoSuchImage: Problem.NOT_FOUND,
    NameTaken: Problem.IMAGE_TAKEN,
    AlreadyRemoved: Problem.REMOVED,
    Overtaken: Problem.OVERTAKEN,
}


def _vaults_refusal(error: SafelightError) -> Refusal:
    """What a client is told of a store's troubles: no paths, and nothing of other users' images."""
    match error:
        case StoreFull():
            return Refusal(Problem.DISK_FULL, "the vault is full: make room there, then try again")
        case StoreError():
            return Refusal(Problem.VAULT_AWAY, "the vault cannot be used now: try again; the node's log says why")
        case _:
            return Refusal(Problem.DAMAGED, "a record in the vault is damaged: the node's log says which")


def _json(value: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode(value),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
