"""Admission: whether this node processes a request, decided before its body is read.

The leader grants an offer with a ticket. A request is then admitted by that ticket, or by a token alone. A request that
belongs to another node is redirected there, with a ticket in its address.
"""

from __future__ import annotations

import secrets
import time
from urllib.parse import quote

from safelight.config import Config
from safelight.election.bully import Epoch
from safelight.encryption import Scheme
from safelight.encryption.keys import Keyring
from safelight.names import check_image_name, check_user
from safelight.node.connections.http_connection import authenticated
from safelight.node.election.driver import ElectionDriver
from safelight.node.http.authentication import Authentication, bearer, credentials
from safelight.node.work.limits import check_size
from safelight.node.work.scheduler import Scheduler
from safelight.runtime.http import web
from safelight.wire import tickets
from safelight.wire.messages import UPLOAD_ID, Action, Grant, Offer, Problem, Refusal
from safelight.wire.tickets import Scope, Ticket

HOLD = 0.8
"""Seconds that a request waits for an election to end before it is refused with `no-leader`."""


class Redirect(Exception):
    """Another node processes the request; `url` is its address there, with a ticket."""

    def __init__(self, url: str) -> None:
        self.url = url


class Admission:
    """Admits requests to one node."""

    def __init__(
        self,
        config: Config,
        node: int,
        incarnation: str,
        keyring: Keyring,
        authentication: Authentication,
        driver: ElectionDriver,
        scheduler: Scheduler,
    ) -> None:
        self._config, self._node = config, node
        self._authentication, self._driver, self._scheduler = authentication, driver, scheduler
        self._cluster = keyring.cluster_id
        self._key = keyring.derive("tickets")
        self._ledger = tickets.TicketLedger(node, incarnation)
        self._draining = False

    def drain(self) -> None:
        """Grant no more offers, as this node stops."""
        self._draining = True

    def outstanding(self) -> int:
        """How many requests were granted to this node and may still come."""
        return self._ledger.outstanding(time.time())

    # -- offers --------------------------------------------------------------------------------------

    async def grant(self, request: web.Request, offer: Offer) -> Grant:
        """Grant an offer, if this node leads. Raises Refusal."""
        if offer.cluster not in ("", self._cluster):
            raise Refusal(
                Problem.OTHER_CLUSTER, f"node {self._node} at this address is of another cluster: check the addresses"
            )
        user, enrolment = await self._authentication.user(request)
        if user != offer.user:
            raise Refusal(Problem.WRONG_USER, f"this token is {user}'s, not {check_user(offer.user)}'s")
        name = check_image_name(offer.name)
        scope = Scope(user, offer.upload, name, offer.size, offer.action, offer.scheme, offer.keep, enrolment)
        _check_upload_id(offer.upload)
        await self._require_leader(scope)
        check_size(self._config, scope)
        peers = {
            node: incarnation
            for node in self._config.addresses
            if (incarnation := self._driver.incarnation_of(node)) is not None
        }
        node, counter = self._scheduler.assign(scope, offer.avoid, peers), self._driver.epoch.counter
        here = node == self._node
        ticket = self._ticket(scope, node, self._ledger.incarnation if here else peers[node], None if here else counter)
        if here:
            self._ledger.granted(ticket)
        return Grant(
            node=self._node,
            counter=counter,
            url=self._url(scope, node),
            ticket=tickets.write(ticket, self._key),
            assigned=None if here else node,
        )

    # -- requests ------------------------------------------------------------------------------------

    async def admit(self, request: web.Request, action: Action) -> Scope:
        """Admit a request to this node. Raises Redirect and Refusal."""
        self._authentication.check_host(request)
        name = check_image_name(request.match_info["name"])
        size = 0 if action is Action.REMOVE else request.content_length
        scheme, keep = _scheme(request), _keep(request)
        text = credentials(request, "ticket")
        if text is None and (text := request.query.get("ticket")) is None:
            upload = request.headers.get("Safelight-Upload") or secrets.token_hex(16)
            user, enrolment = await self._authentication.user(request)
            _check_upload_id(upload)
            scope = Scope(user, upload, name, size, action, scheme, keep is not False, enrolment)
            assigned, here = False, False
        else:
            ticket = self._redeem(text)
            of = ticket.scope
            scope = Scope(
                of.user, of.upload, name, size, action, scheme, of.keep if keep is None else keep, of.enrolment
            )
            await self._check_ticket(request, ticket, scope)
            assigned = self._assigned(ticket)
            authenticated(request, scope.user)
            # This node processes what it granted or was assigned, even if another node leads by now; while it drains,
            # also what others redirected here before.
            here = ticket.issuer == self._node or assigned or self._draining
        if not here:
            await self._require_leader(scope, redirect=True)
        check_size(self._config, scope)
        self._scheduler.start(scope, granted=text is not None, assigned=assigned)
        return scope

    def _redeem(self, text: str) -> Ticket:
        try:
            ticket = tickets.read(text, self._key)
            self._ledger.redeem(ticket, time.time())
        except tickets.BadTicket as error:
            raise Refusal(Problem.BAD_TICKET, str(error)) from None
        return ticket

    async def _check_ticket(self, request: web.Request, ticket: Ticket, scope: Scope) -> None:
        """Refuse a ticket for another request, upload or user, and one of a revoked user."""
        if scope != ticket.scope:
            raise Refusal(Problem.BAD_TICKET, "this ticket is for another request: ask for a new one")
        if not await self._authentication.active(scope.user):
            raise Refusal(Problem.USER_REVOKED, f"the user {scope.user} was revoked after this ticket was granted")
        upload, token = request.headers.get("Safelight-Upload", scope.upload), bearer(request)
        if upload != scope.upload or (
            token is not None and await self._authentication.account(request, token) != (scope.user, scope.enrolment)
        ):
            raise Refusal(Problem.BAD_TICKET, "this ticket is for another upload or user: ask for a new one")

    def _assigned(self, ticket: Ticket) -> bool:
        """Whether a leader has assigned the request to this node. Raises Refusal if the epoch has passed."""
        if ticket.counter is None or ticket.issuer == self._node:
            return False
        if Epoch(ticket.counter, ticket.issuer) < self._driver.epoch:
            raise Refusal(Problem.BAD_TICKET, "the leader of this ticket was replaced: ask for a new one")
        return True

    # -- the leader ----------------------------------------------------------------------------------

    async def _require_leader(self, scope: Scope, *, redirect: bool = False) -> None:
        """Return if this node leads. Otherwise refuse, or with `redirect` redirect the request to the leader."""
        leader = None if self._draining and not redirect else await self._driver.wait_for_leader(HOLD)
        if self._driver.leads:
            return
        if leader is None and self._draining:
            raise Refusal(Problem.LEAVING, f"Node {self._node} is draining", node=self._node)
        if leader is None:
            raise Refusal(
                Problem.NO_LEADER, f"Node {self._node} knows no leader: an election is in progress", node=self._node
            )
        incarnation = self._driver.incarnation_of(leader)
        if redirect and incarnation is not None:
            text = tickets.write(self._ticket(scope, leader, incarnation), self._key)
            url = self._url(scope, leader)
            raise Redirect(f"{url}{'&' if '?' in url else '?'}ticket={text}")
        self._scheduler.declined()
        raise Refusal(Problem.NOT_THE_LEADER, f"Node {self._node} is not the leader", node=self._node, leader=leader)

    def _ticket(self, scope: Scope, node: int, incarnation: str, counter: int | None = None) -> Ticket:
        return Ticket(
            scope=scope,
            node=node,
            incarnation=incarnation,
            issuer=self._node,
            expires=time.time() + tickets.LIFETIME,
            nonce=tickets.new_nonce(),
            counter=counter,
        )

    def _url(self, scope: Scope, node: int) -> str:
        query = "" if scope.scheme is Scheme.SEALED else f"?scheme={scope.scheme.value}"
        return f"{self._config.addresses[node].url}{scope.action.path}/{quote(scope.name, safe='')}{query}"


def _check_upload_id(upload: str) -> None:
    if not UPLOAD_ID.fullmatch(upload):
        raise Refusal(Problem.BAD_REQUEST, "an upload id has 32 hex digits")


def _scheme(request: web.Request) -> Scheme:
    try:
        return Scheme(request.query.get("scheme", Scheme.SEALED.value))
    except ValueError:
        known = " and ".join(scheme.value for scheme in Scheme)
        raise Refusal(Problem.BAD_REQUEST, f"there is no such scheme: the schemes are {known}") from None


def _keep(request: web.Request) -> bool | None:
    """Whether to store the image, as the request's header asks; None if it has no such header."""
    value = request.headers.get("Safelight-Keep")
    if value not in (None, "yes", "no"):
        raise Refusal(Problem.BAD_REQUEST, "Safelight-Keep is yes or no")
    return None if value is None else value == "yes"
