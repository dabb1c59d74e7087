"""The HTTP interface of a node: /v1. See docs/api.md; every refusal is a problem document (RFC 9457).

Here are the table, the small messages, and what becomes of errors; images are in `jobs` and `images`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable

import msgspec

from safelight import __version__
from safelight.config import Config
from safelight.decoding import Malformed, decode
from safelight.encryption.errors import CannotOpen, OtherCluster, TooLarge
from safelight.errors import SafelightError
from safelight.names import shown
from safelight.node.connections.http_connection import USER, serving, waiting
from safelight.node.election.key_sync import KeySharing
from safelight.node.election.links import PATH, Links
from safelight.node.http.admission import Admission, Redirect
from safelight.node.http.conditional import check_conditions
from safelight.node.http.offer_channel import OfferChannels
from safelight.node.http.reads import NoSuchPart, ReadHandlers
from safelight.node.http.request_head import check_head
from safelight.node.http.responses import Interrupted
from safelight.node.http.revocation import ActiveRequests
from safelight.node.http.writes import WriteHandlers
from safelight.node.state.data_directory import DataError
from safelight.node.state.key_file import Keys
from safelight.node.state.outage_log import OutageLog
from safelight.node.state.users import Users
from safelight.node.work.load import LoadTracker
from safelight.runtime.http import HttpProcessingError, HttpVersion11, web
from safelight.vault.bootstrap import NONE
from safelight.vault.records import OtherKey
from safelight.vault.stores.base import BadObject, StoreError, StoreFull
from safelight.vault.vault import AlreadyRemoved, NameTaken, UnknownImage, UploadConflict
from safelight.wire.admin_commands import AddKey, BadCommand, StepDown, UseKey, unwrap_key
from safelight.wire.messages import (
    API,
    MAX_JSON,
    PROBLEM_TYPE,
    TOKEN,
    Action,
    ClusterInfo,
    Offer,
    Problem,
    Refusal,
    Status,
    problem_body,
)

_NAME = "{name:[^/]+}"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CONTINUE = web.Response(status=100)
"""Stands for "go on, send the body"; never sent itself."""

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
        gate: Admission,
        jobs: WriteHandlers,
        images: ReadHandlers,
        users: Users,
        links: Links,
        load: LoadTracker,
        keys: Keys,
        sharing: KeySharing,
        step_down: Callable[[float], None],
        say: Callable[[str], None],
    ) -> None:
        self._config, self._node, self._cluster = config, node, cluster
        self._gate, self._jobs, self._images = gate, jobs, images
        self._load, self._say = load, say
        self._outages = OutageLog(say)
        self._links, self._keys, self._step_down = links, keys, step_down
        self._sharing = sharing
        self.running = ActiveRequests(users, say)
        self.lines = OfferChannels(self._answered, config.body_timeout)

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_JSON)
        for method, path, handler, admit in (
            ("GET", f"{API}/cluster", self.cluster, None),
            ("GET", f"{API}/status", self.status, None),
            ("PUT", f"{API}/users/{{user}}", self.enrol, None),
            ("POST", f"{API}/offers", self.offer, None),
            ("GET", f"{API}/offers", self.offers, None),
            ("POST", f"{API}/orders", self.order, None),
            ("GET", PATH, self._links.accept, None),
            ("PUT", f"{Action.SEAL.path}/{_NAME}", self._jobs.seal, Action.SEAL),
            ("PUT", f"{Action.OPEN.path}/{_NAME}", self._jobs.open, Action.OPEN),
            ("DELETE", f"{Action.REMOVE.path}/{_NAME}", self._jobs.remove, None),
            ("GET", f"{API}/images", self._images.list, None),
            ("GET", f"{API}/images/{_NAME}", self._images.get, None),
        ):
            for each in ("GET", "HEAD") if method == "GET" else (method,):
                app.router.add_route(each, path, handler, expect_handler=self._expecting(admit))
        return app

    def _expecting(self, action: Action | None) -> Handler:
        """What aiohttp calls for `Expect`, before and instead of the middlewares: what can be refused without the body
        is refused before it is asked for (RFC 9110, 10.1.1). `action`: for what the gate must admit the request.
        """

        async def go_on(request: web.Request) -> web.StreamResponse:
            if action is not None:
                await self._jobs.admit(request, action)
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError
            if request.version >= HttpVersion11:  # an older client would take it for the answer
                request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return CONTINUE

        async def expected(request: web.Request) -> web.StreamResponse | None:
            answer = await self._guard(request, go_on)
            if answer is CONTINUE:
                return None
            answer.force_close()  # the announced body will never come: this connection is of no use
            return answer

        return expected  # type: ignore[return-value]  # aiohttp's own type for it allows None

    # -- small messages ------------------------------------------------------------------------------

    async def cluster(self, request: web.Request) -> web.Response:
        return _json(ClusterInfo(self._cluster, self._node, __version__, self._gate.open_enrolment))

    async def status(self, request: web.Request) -> web.Response:
        return _json(Status(self._cluster, self._node, self._load.known()))

    async def enrol(self, request: web.Request) -> web.Response:
        """PUT /v1/users/NAME with a token: the token claims the name, where enrolment is open."""
        token = self._gate.bearer(request)
        if not token:
            raise Refusal(Problem.NO_CREDENTIALS, "enrol with a token: Authorization: Bearer TOKEN")
        if not TOKEN.fullmatch(token):
            raise Refusal(Problem.BAD_REQUEST, "a token is slt_ and 32 random bytes in base64url, 43 characters")
        if not self._gate.open_enrolment:
            raise Refusal(Problem.ENROLMENT_CLOSED, "only the operator adds users here, with `safelight user add`")
        check_conditions(request, None)  # nothing can be got from this address
        created = await self._gate.enrol(request, token, request.match_info["user"])
        return web.Response(status=201 if created else 200)

    async def order(self, request: web.Request) -> web.Response:
        """POST /v1/orders: what the operator tells this node to do. It is done, and on the disk, when this answers."""
        order = self._gate.order(request)
        try:
            match order.task:
                case StepDown(seconds):
                    self._step_down(seconds)
                case AddKey() as task:
                    await asyncio.to_thread(self._keys.add, unwrap_key(order, task, self._keys.ring))
                case UseKey(key):
                    if await asyncio.to_thread(self._keys.use, key):
                        self._say(f"new images are sealed with the key {key}")
        except BadCommand as error:
            raise Refusal(Problem.BAD_ORDER, str(error)) from None
        except SafelightError as error:  # the operator has the keyring, and may see the reason
            self._say(str(error))
            raise Refusal(Problem.INTERNAL, str(error)) from None
        return _json(self._gate.obeyed(order, self._keys.ring.current_id))

    async def offer(self, request: web.Request) -> web.Response:
        """POST /v1/offers: a grant from the leader, a refusal from everybody else."""
        await self._gate.user(request)  # before the body: who is nobody holds up nothing
        try:
            async with asyncio.timeout(self._config.body_timeout):
                text = await request.read()
        except TimeoutError:
            raise Refusal(Problem.STALLED, "the offer did not come to its end: send it again") from None
        return await self._granted(request, text)

    async def offers(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/offers: the same over a WebSocket, one frame for each offer, and one for each answer."""
        user, _ = await self._gate.user(request)  # who is nobody gets no line; each offer is checked again
        with waiting(request):
            return await self.lines.accept(request, user)

    async def _answered(self, request: web.Request, offer: bytes) -> web.StreamResponse:
        return await self._guard(request, lambda _: self._granted(request, offer))

    async def _granted(self, request: web.Request, text: bytes) -> web.Response:
        try:
            offer = decode(text, Offer)
        except Malformed as error:
            raise Refusal(Problem.BAD_REQUEST, f"this is not an offer: {error}") from None
        grant = await self._gate.grant(request, offer)
        return _json(grant, status=201)

    # -- errors --------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        with serving(request), self.running.watched(request):
            return await self._guarded(request, handler)

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._gate.check_host(request)
            check_head(request)
            response = await handler(request)
            if response.status < 400 and (changes := _asked_of_the_vault(request, response)) is not None:
                self._outages.worked(changes=changes)
            return response
        except Redirect as redirect:
            return web.Response(status=307, headers={"Location": redirect.url, "Cache-Control": "no-store"})
        except Refusal as refusal:
            response = self._problem(refusal)
            if refusal.problem is Problem.UNKNOWN_CODING or request.version < HttpVersion11:
                response.force_close()  # where its body ends is not certain (RFC 9112, 6.1)
            return response
        except CannotOpen as error:
            if isinstance(error, OtherCluster) and self._sharing.lacks(error.key_id):
                return self._problem(self._sharing.refusal(error.key_id))
            return self._problem(Refusal(Problem.CANNOT_OPEN, str(error)))
        except TooLarge as error:
            return self._problem(Refusal(Problem.TOO_LARGE, str(error)))
        except DataError as error:  # not the client's fault, nor its business
            self._outages.damaged(error)
            return self._problem(Refusal(Problem.INTERNAL, f"node {self._node} failed: see its log"))
        except (StoreError, BadObject) as error:  # nor is this
            if isinstance(error, StoreError):
                self._outages.failed(error, changes=request.method in ("PUT", "DELETE"))
            else:
                self._outages.damaged(error)
            if isinstance(error, OtherKey) and self._sharing.may_lack(error.key_id):
                return self._problem(self._sharing.refusal(error.key_id))
            if self._config.vault == NONE and not isinstance(error, StoreFull):  # the data directory failed
                return self._problem(Refusal(Problem.INTERNAL, f"node {self._node} failed: see its log"))
            return self._problem(_vaults_refusal(error))
        except (UnknownImage, NameTaken, AlreadyRemoved, UploadConflict) as error:
            return self._problem(Refusal(_OF_THE_VAULT[type(error)], str(error)))
        except SafelightError as error:
            return self._problem(Refusal(Problem.BAD_REQUEST, str(error)))
        except web.HTTPException as error:
            return self._translated(error)
        except Interrupted as interrupted:
            self._say(f"An answer broke off half-way ({interrupted})")
            return interrupted.response
        except (ConnectionError, HttpProcessingError, web.RequestPayloadError):
            if USER in request:  # strangers are not to fill the log
                self._say("A client went away half-way")
            return self._problem(Refusal(Problem.BAD_LENGTH, "the connection ended before the body did"))
        except Exception as error:
            if isinstance(error, RuntimeError) and (request.transport is None or request.transport.is_closing()):
                # The transport says so where the client went away between two steps of ours.
                return self._problem(Refusal(Problem.BAD_LENGTH, "the connection ended before the body did"))
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                return self._problem(Refusal(Problem.DISK_FULL, "the node's disk is full: free some space there"))
            log.exception("Node %d failed", self._node)
            return self._problem(Refusal(Problem.INTERNAL, f"node {self._node} failed: see its log"))

    def _problem(self, refusal: Refusal) -> web.Response:
        headers = {"Cache-Control": "no-store"}
        if refusal.problem.status in (429, 503):
            headers["Retry-After"] = "1"
        if refusal.problem.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if refusal.problem is Problem.UNSUPPORTED_TYPE:  # 12.5.3
            headers["Accept-Encoding"] = "identity"
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
    UnknownImage: Problem.NOT_FOUND,
    NameTaken: Problem.IMAGE_TAKEN,
    AlreadyRemoved: Problem.REMOVED,
    UploadConflict: Problem.OVERTAKEN,
}


def _asked_of_the_vault(request: web.Request, response: web.StreamResponse) -> bool | None:
    """Whether a request that succeeded made the vault change something (True) or read (False); None if neither."""
    if request.method in ("GET", "HEAD"):
        return False if request.path.startswith(f"{API}/images") else None
    kept = response.headers.get("Safelight-Kept") == "yes"
    return True if kept or request.method == "DELETE" or request.path.startswith(f"{API}/users/") else None


def _vaults_refusal(error: SafelightError) -> Refusal:
    """What a client learns about an error of the store: no paths, and nothing about other users' images."""
    match error:
        case StoreFull():
            missing = f" ({error.missing})" if error.missing else ""
            return Refusal(Problem.DISK_FULL, f"the vault is full{missing}: remove images or make room, then try again")
        case StoreError():
            return Refusal(Problem.VAULT_AWAY, "the vault cannot be used now: try again; the node's log says why")
        case _:
            return Refusal(Problem.DAMAGED, "an object in the vault is damaged: the node's log says which")


def _json(value: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode(value),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
