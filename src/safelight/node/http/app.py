"""The HTTP interface of a node, /v1: its routes, the small messages, and the response to what a handler raises.

docs/api.md documents it. `reads` and `writes` have the handlers of images.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from safelight import __version__
from safelight.config import Config
from safelight.decoding import Malformed, decode
from safelight.encryption.errors import OtherCluster
from safelight.errors import SafelightError
from safelight.node.connections.http_connection import USER, serving, waiting
from safelight.node.election.driver import ElectionDriver
from safelight.node.election.key_sync import KeySync
from safelight.node.election.links import PATH, Links
from safelight.node.http.admission import Admission, Redirect
from safelight.node.http.authentication import Authentication, bearer
from safelight.node.http.conditional import check_conditions
from safelight.node.http.offer_channel import OfferChannels
from safelight.node.http.problems import CUT_SHORT, problem_response, refusal_of
from safelight.node.http.reads import ReadHandlers
from safelight.node.http.request_head import check_head
from safelight.node.http.responses import Interrupted
from safelight.node.http.revocation import ActiveRequests
from safelight.node.http.writes import WriteHandlers
from safelight.node.state.data_directory import DataError
from safelight.node.state.key_file import Keys
from safelight.node.state.outage_log import OutageLog
from safelight.node.state.users import Users
from safelight.runtime.http import HttpVersion11, web
from safelight.vault.records import OtherKey
from safelight.vault.stores.base import BadObject, StoreError
from safelight.wire.admin_commands import AddKey, BadCommand, StepDown, UseKey, unwrap_key
from safelight.wire.messages import API, MAX_JSON, TOKEN, Action, ClusterInfo, Offer, Problem, Refusal, Status

_NAME = "{name:[^/]+}"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CONTINUE = web.Response(status=100)
"""Means "continue: the body is wanted"; never sent itself."""

logger = logging.getLogger(__name__)


class Routes:
    """The handlers of one node."""

    def __init__(
        self,
        config: Config,
        node: int,
        cluster: str,
        *,
        authentication: Authentication,
        admission: Admission,
        writes: WriteHandlers,
        reads: ReadHandlers,
        users: Users,
        links: Links,
        election: ElectionDriver,
        keys: Keys,
        key_sync: KeySync,
        step_down: Callable[[float], None],
        log: Callable[[str], None],
    ) -> None:
        self._config, self._node, self._cluster = config, node, cluster
        self._authentication, self._admission = authentication, admission
        self._writes, self._reads = writes, reads
        self._links, self._election, self._log = links, election, log
        self._keys, self._key_sync, self._step_down = keys, key_sync, step_down
        self._outages = OutageLog(log)
        self.active_requests = ActiveRequests(users, log)
        self.offer_channels = OfferChannels(self._answer, config.body_timeout)

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_JSON)
        for method, path, handler, action in (
            ("GET", f"{API}/cluster", self.cluster, None),
            ("GET", f"{API}/status", self.status, None),
            ("PUT", f"{API}/users/{{user}}", self.enrol, None),
            ("POST", f"{API}/offers", self.offer, None),
            ("GET", f"{API}/offers", self.offers, None),
            ("POST", f"{API}/orders", self.command, None),
            ("GET", PATH, self._links.accept, None),
            ("PUT", f"{Action.SEAL.path}/{_NAME}", self._writes.seal, Action.SEAL),
            ("PUT", f"{Action.OPEN.path}/{_NAME}", self._writes.open, Action.OPEN),
            ("DELETE", f"{Action.REMOVE.path}/{_NAME}", self._writes.remove, None),
            ("GET", f"{API}/images", self._reads.list, None),
            ("GET", f"{API}/images/{_NAME}", self._reads.get, None),
        ):
            for each in ("GET", "HEAD") if method == "GET" else (method,):
                app.router.add_route(each, path, handler, expect_handler=self._expecting(action))
        return app

    def _expecting(self, action: Action | None) -> Handler:
        """What aiohttp calls for `Expect`, before and instead of the middlewares: a request that can be refused without
        its body is refused before the client sends that (RFC 9110, 10.1.1). `action`: what to admit the request for.
        """

        async def proceed(request: web.Request) -> web.StreamResponse:
            if action is not None:
                await self._writes.admit(request, action)
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError
            if request.version >= HttpVersion11:  # an older client would take it for the response
                request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return CONTINUE

        async def expected(request: web.Request) -> web.StreamResponse | None:
            response = await self._guard(request, proceed)
            if response is CONTINUE:
                return None
            response.force_close()  # the announced body will not arrive: no other request can follow
            return response

        return expected  # type: ignore[return-value]  # aiohttp's own type for it allows None

    # -- small messages ------------------------------------------------------------------------------

    async def cluster(self, request: web.Request) -> web.Response:
        return _json(ClusterInfo(self._cluster, self._node, __version__, self._authentication.open_enrolment))

    async def status(self, request: web.Request) -> web.Response:
        return _json(Status(self._cluster, self._node, self._election.loads()))

    async def enrol(self, request: web.Request) -> web.Response:
        """PUT /v1/users/NAME with a token: enrol the user, where enrolment is open."""
        token = bearer(request)
        if not token:
            raise Refusal(Problem.NO_CREDENTIALS, "enrol with a token: Authorization: Bearer TOKEN")
        if not TOKEN.fullmatch(token):
            raise Refusal(Problem.BAD_REQUEST, "a token is slt_ and 32 random bytes in base64url, 43 characters")
        if not self._authentication.open_enrolment:
            raise Refusal(Problem.ENROLMENT_CLOSED, "only the operator adds users here, with `safelight user add`")
        check_conditions(request, None)  # this address has no representation
        created = await self._authentication.enrol(request, token, request.match_info["user"])
        return web.Response(status=201 if created else 200)

    async def command(self, request: web.Request) -> web.Response:
        """POST /v1/orders: an admin command. When this returns, it is executed, and on the disk."""
        command = self._authentication.command(request)
        try:
            match command.task:
                case StepDown(seconds):
                    self._step_down(seconds)
                case AddKey() as task:
                    await asyncio.to_thread(self._keys.add, unwrap_key(command, task, self._keys.ring))
                case UseKey(key):
                    if await asyncio.to_thread(self._keys.use, key):
                        self._log(f"new images are encrypted with the key {key}")
        except BadCommand as error:
            raise Refusal(Problem.BAD_ORDER, str(error)) from None
        except SafelightError as error:  # the operator has the keyring, and may read all of it
            self._log(str(error))
            raise Refusal(Problem.INTERNAL, str(error)) from None
        return _json(self._authentication.acknowledge(command, self._keys.ring.current_id))

    async def offer(self, request: web.Request) -> web.Response:
        """POST /v1/offers: a grant from the leader, a refusal from any other node."""
        await self._authentication.user(request)  # before the body: an unknown client must not keep it open
        try:
            async with asyncio.timeout(self._config.body_timeout):
                text = await request.read()
        except TimeoutError:
            raise Refusal(Problem.STALLED, "the offer did not arrive completely: send it again") from None
        return await self._grant(request, text)

    async def offers(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/offers: the same over a WebSocket, with one frame for each offer and one for each response."""
        user, _ = await self._authentication.user(request)  # each offer is authenticated again
        with waiting(request):
            return await self.offer_channels.accept(request, user)

    async def _answer(self, request: web.Request, offer: bytes) -> web.StreamResponse:
        async def grant(request: web.Request) -> web.StreamResponse:
            return await self._grant(request, offer)

        return await self._guard(request, grant)

    async def _grant(self, request: web.Request, text: bytes) -> web.Response:
        try:
            offer = decode(text, Offer)
        except Malformed as error:
            raise Refusal(Problem.BAD_REQUEST, f"this is not an offer: {error}") from None
        return _json(await self._admission.grant(request, offer), status=201)

    # -- what handlers raise -------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Handle the request; respond with a problem document to whatever that raises."""
        with serving(request), self.active_requests.watched(request):
            try:
                self._authentication.check_host(request)
                check_head(request)
                response = await handler(request)
            except Redirect as redirect:
                return web.Response(status=307, headers={"Location": redirect.url, "Cache-Control": "no-store"})
            except Interrupted as interrupted:
                self._log(f"A response ended early ({interrupted})")
                return interrupted.response
            except Exception as error:
                return self._failed(request, error)
            if response.status < 400 and (changes := _use_of_vault(request, response)) is not None:
                self._outages.worked(changes=changes)
            return response

    def _failed(self, request: web.Request, error: Exception) -> web.StreamResponse:
        if isinstance(error, RuntimeError) and (request.transport is None or request.transport.is_closing()):
            error = ConnectionResetError()  # aiohttp's transport, when the client closes between two steps
        refusal = self._missing_key(error) or refusal_of(error)
        match error:
            case Refusal():
                pass
            case StoreError():
                self._outages.failed(error, changes=request.method in ("PUT", "DELETE"))
            case BadObject() | DataError():
                self._outages.damaged(error)
            case error if isinstance(error, CUT_SHORT):
                if USER in request:  # other clients must not fill the log
                    self._log("A client closed its connection early")
            case _ if refusal.problem is Problem.INTERNAL:
                logger.error("Node %d failed", self._node, exc_info=error)
        response = problem_response(refusal, self._node)
        if isinstance(error, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = error.headers["Allow"]
        if isinstance(error, Refusal) and (error.problem is Problem.UNKNOWN_CODING or request.version < HttpVersion11):
            response.force_close()  # where its body ends is not certain (RFC 9112, 6.1)
        return response

    def _missing_key(self, error: Exception) -> Refusal | None:
        """The refusal if this needs a key that this node lacks, and a peer has, or may have."""
        if (isinstance(error, OtherCluster) and self._key_sync.lacks(error.key_id)) or (
            isinstance(error, OtherKey) and self._key_sync.may_lack(error.key_id)
        ):
            return self._key_sync.refusal(error.key_id)
        return None


def _use_of_vault(request: web.Request, response: web.StreamResponse) -> bool | None:
    """Whether a successful request changed something in the vault (True) or read from it (False); None if neither."""
    if request.method in ("GET", "HEAD"):
        return False if request.path.startswith(f"{API}/images") else None
    kept = response.headers.get("Safelight-Kept") == "yes"
    return True if kept or request.method == "DELETE" or request.path.startswith(f"{API}/users/") else None


def _json(value: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode(value),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
