"""Who may do what: every request passes here before its body is read.

In this order: is it addressed to this node (DNS rebinding), whose is it (token or ticket), and, where something is to
be done and not only read, is it for the leader. The answer is a job to do here, another address to go to, or a refusal.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import quote

from safelight.config import Config
from safelight.election.bully import Epoch
from safelight.encryption import Scheme
from safelight.encryption.keys import Keyring
from safelight.names import check_image_name, check_user
from safelight.node.connections.http_connection import TOKEN_OF, address_of, proved
from safelight.node.election.driver import ElectionDriver
from safelight.node.http.guess_rate_limit import GuessRateLimit
from safelight.node.state.users import Account, Users
from safelight.node.work.balance import Balancer
from safelight.node.work.limits import check_size
from safelight.node.work.load import LoadTracker
from safelight.runtime.http import web
from safelight.wire import admin_commands, tickets
from safelight.wire.messages import TOKEN, UPLOAD_ID, Action, CommandResult, Grant, Offer, Problem, Refusal, fingerprint
from safelight.wire.tickets import Scope

HOLD = 0.8
"""Seconds that a request waits in a node for an election to end before it is told that nobody leads."""

TOO_MANY = "too many unknown tokens come from your address, and this is another: wait, or use the right one"


class Redirect(Exception):
    """The request belongs to another node: its address there, with a ticket in it."""

    def __init__(self, url: str) -> None:
        self.url = url


class Admission:
    """One node's gate."""

    def __init__(
        self,
        config: Config,
        node: int,
        incarnation: str,
        keyring: Keyring,
        users: Users,
        election: ElectionDriver,
        load: LoadTracker,
        balance: Balancer,
    ) -> None:
        self._config = config
        self._addresses = config.addresses
        self._node = node
        self._users = users
        self._election = election
        self._load = load
        self._balance = balance
        self._begun: list[str] = []  # assigned by a leader who has yet to hear of it
        self._cluster = keyring.cluster_id
        self._key = keyring.derive("tickets")
        self._hosts = _hosts(config, node)
        self._guesses = GuessRateLimit()
        self._orders = admin_commands.CommandVerifier(node, keyring, time.time())
        self.book = tickets.TicketLedger(node, incarnation)
        self.open_enrolment = self._addresses[node].loopback
        self.leaving = False

    # -- what a request says of itself ---------------------------------------------------------------

    def check_host(self, request: web.Request) -> None:
        """Refuse requests that a page elsewhere has caused: to names that are not this node's (DNS rebinding), and
        those whose `Origin` (RFC 6454, 7) is not this node.
        """
        address = self._addresses[self._node]
        if request.host.lower() not in self._hosts:
            raise Refusal(Problem.WRONG_HOST, f"this is {address.netloc}: ask for that address")
        for origin in request.headers.getall("Origin", []):
            scheme, _, host = origin.lower().partition("://")
            if scheme != address.scheme or host not in self._hosts:
                raise Refusal(Problem.FOREIGN_ORIGIN, "a browser says that a page of another site asks: it may not")

    def bearer(self, request: web.Request) -> str | None:
        """The token that a request carries, if any."""
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        return token.strip() if kind.lower() == "bearer" else None

    async def user(self, request: web.Request) -> Account:
        """Whose token the request carries. Raises Refusal."""
        token = self.bearer(request)
        if token is None:
            raise Refusal(Problem.NO_CREDENTIALS, "say who you are: Authorization: Bearer TOKEN")
        account = await self._account_of(request, token)
        proved(request, account.user)
        return account

    async def _account_of(self, request: web.Request, token: str) -> Account:
        """Raises Refusal (UNKNOWN_TOKEN, TOO_MANY_TOKENS)."""
        if not TOKEN.fullmatch(token):
            raise Refusal(Problem.UNKNOWN_TOKEN, "this is not a token: it has slt_ and 43 characters after it")
        request[TOKEN_OF] = mine = fingerprint(token)
        if self._users.knows(mine) or self._users.missed(mine):
            return await self._users.account(mine)
        with self._guess(address_of(request)) as allowed:
            if not allowed and not await self._users.claims.token(mine):
                raise Refusal(Problem.TOO_MANY_TOKENS, TOO_MANY)
            return await self._users.account(mine)

    async def enrol(self, request: web.Request, token: str, user: str) -> bool:
        """Let the token claim the name. Raises InvalidName, and Refusal as `Users.enrol`, and TOO_MANY_TOKENS."""
        mine = fingerprint(token)
        check_user(user)
        if self._users.knows(mine):
            return await self._users.enrol(user, mine)
        with self._guess(address_of(request)) as allowed:
            if not allowed and not await self._users.claims.may_enrol(mine, user):
                raise Refusal(Problem.TOO_MANY_TOKENS, TOO_MANY)
            return await self._users.enrol(user, mine)

    @contextmanager
    def _guess(self, address: str) -> Iterator[bool]:
        """What an unknown token is tried for. Whether a look is within what this address has: where it is not, the
        token is looked for in a listing first, so that those who guess do not keep users out. It is charged if the
        token is refused, not if it is a user's, or nobody could look.
        """
        allowed, refused = self._guesses.take(address, time.monotonic()), False
        try:
            yield allowed
        except Refusal:
            refused = True
            raise
        finally:
            if allowed and not refused:
                self._guesses.give_back(address, time.monotonic())

    def order(self, request: web.Request) -> admin_commands.AdminCommand:
        """What the operator wants of this node. Raises Refusal."""
        kind, _, text = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "order":
            raise Refusal(Problem.NO_CREDENTIALS, "only the operator may do this: see `safelight --help`")
        try:
            return self._orders.read(text.strip(), time.time())
        except admin_commands.BadCommand as error:
            raise Refusal(Problem.BAD_ORDER, str(error)) from None

    def obeyed(self, order: admin_commands.AdminCommand, current: str) -> CommandResult:
        """What to say to the operator when it is done; `current` is the current key's id."""
        return CommandResult(self._orders.answer(order, current))

    # -- offers --------------------------------------------------------------------------------------

    async def grant(self, request: web.Request, offer: Offer) -> Grant:
        """Answer an offer: grant it if this node leads. Raises Refusal."""
        if offer.cluster not in ("", self._cluster):
            raise Refusal(Problem.OTHER_CLUSTER, f"node {self._node} here is of another cluster: check the addresses")
        user, enrolment = await self.user(request)
        if user != offer.user:
            raise Refusal(Problem.WRONG_USER, f"this token is {user}'s, not {check_user(offer.user)}'s")
        name = check_image_name(offer.name)
        job = Scope(user, offer.upload, name, offer.size, Action(offer.action), offer.scheme, offer.keep, enrolment)
        if not UPLOAD_ID.fullmatch(offer.upload):
            raise Refusal(Problem.BAD_REQUEST, "an upload id has 32 hex digits")
        await self._leader_only(job)
        check_size(self._config, job)
        node, incarnation = self._worker(job, offer.avoid)
        counter = self._election.epoch.counter
        ticket = self._ticket(job, node, incarnation, None if node == self._node else counter)
        if node == self._node:
            self.book.granted(ticket)
        return Grant(
            node=self._node,
            counter=counter,
            url=self._url(job, node),
            ticket=tickets.write(ticket, self._key),
            assigned=None if node == self._node else node,
        )

    def _worker(self, job: Scope, avoid: Sequence[int]) -> tuple[int, str]:
        """Who is to do it, and which incarnation of that node: this one, or the one with the least to do.

        Of other nodes' places only the number is known, of its own also whose they are: so it is here that a user has
        its share where all places of all nodes are taken. Raises Refusal (BUSY) if no node takes more.
        """
        if job.action is Action.REMOVE:
            return self._node, self.book.incarnation
        now = time.monotonic()
        self._balance.begun([job.upload])  # it is offered again
        self._balance.forget(now)
        if self._balance.unused(job.user) >= max(1, self._config.max_in_flight // 2):
            # Whoever asks for places and does not take them is not to keep them from others.
            raise Refusal(Problem.BUSY, f"{job.user} was granted many images that have not come yet: try again")
        incarnations, in_hand = {self._node: self.book.incarnation}, dict[int, int]()
        promised, own = self._balance.waiting(self._node), self._balance.unused(job.user)
        if self._load.takes(job.user, promised=promised, own=own):
            in_hand[self._node] = self._load.weight
        for load in self._load.known() if self._config.balance == "least-loaded" else ():
            incarnation = self._election.incarnation_of(load.node)
            room = load.room > self._balance.waiting(load.node)
            if incarnation is not None and load.leader == self._node and room and not load.ineligible:
                incarnations[load.node], in_hand[load.node] = incarnation, load.weight
        if not in_hand:
            raise self._load.busy(job.user)
        spared = {node: weight for node, weight in in_hand.items() if node not in avoid}
        node = self._balance.assign(job.upload, job.size, spared or in_hand, now, job.user)
        return node, incarnations[node]

    def begun(self) -> list[str]:
        """The uploads assigned to this node that have begun since this was last asked."""
        begun, self._begun = self._begun, []
        return begun

    # -- jobs ----------------------------------------------------------------------------------------

    async def admit(self, request: web.Request, action: Action) -> Scope:
        """The job that a request is, if it is for this node. Raises GoTo and Refusal."""
        self.check_host(request)
        name = check_image_name(request.match_info["name"])
        scheme, keep = _scheme(request), _keep(request)
        size = 0 if action is Action.REMOVE else request.content_length
        text = self._ticket_text(request)
        if text is None:
            user, enrolment = await self.user(request)
            upload = request.headers.get("Safelight-Upload") or secrets.token_hex(16)
            if not UPLOAD_ID.fullmatch(upload):
                raise Refusal(Problem.BAD_REQUEST, "an upload id has 32 hex digits")
            job = Scope(user, upload, name, size, action, scheme, keep is not False, enrolment)
            issuer, assigned = None, False
        else:
            ticket = self._redeem(text)
            said = ticket.job
            keeps = said.keep if keep is None else keep
            job = Scope(said.user, said.upload, name, size, action, scheme, keeps, said.enrolment)
            if job != ticket.job:
                raise Refusal(Problem.BAD_TICKET, "this ticket is for another request: ask for a new one")
            if not await self._users.active(job.user):
                raise Refusal(Problem.USER_REVOKED, f"the user {job.user} was revoked after this ticket was granted")
            upload = request.headers.get("Safelight-Upload", job.upload)
            token = self.bearer(request)
            if upload != job.upload or (
                token is not None and await self._account_of(request, token) != (job.user, job.enrolment)
            ):
                raise Refusal(Problem.BAD_TICKET, "this ticket is for another upload or user: ask for a new one")
            issuer, assigned = ticket.issuer, self._assigned(ticket)
            proved(request, job.user)
        # What this node granted, or was assigned, it does, whoever leads by now; and while it leaves, what others
        # still sent here.
        if issuer != self._node and not assigned and not (self.leaving and issuer is not None):
            await self._leader_only(job, redirect=True)
        check_size(self._config, job)
        self._balance.begun([job.upload])
        promised = own = 0
        if issuer is None:  # others' grants, whose places are not to be taken
            promised, own = self._balance.waiting(self._node), self._balance.unused(job.user)
        if action is not Action.REMOVE and not self._load.takes(job.user, promised=promised, own=own):
            raise self._load.busy(job.user)
        if assigned:
            self._begun.append(job.upload)
        return job

    def _assigned(self, ticket: tickets.Ticket) -> bool:
        """Whether a leader has assigned this node the job. Raises Refusal if another has been elected since."""
        if ticket.counter is None or ticket.issuer == self._node:
            return False
        if Epoch(ticket.counter, ticket.issuer) < self._election.epoch:
            raise Refusal(Problem.BAD_TICKET, "this ticket is from a leader that was replaced since: ask for a new one")
        return True

    def _ticket_text(self, request: web.Request) -> str | None:
        kind, _, text = request.headers.get("Authorization", "").partition(" ")
        return text.strip() if kind.lower() == "ticket" else request.query.get("ticket")

    def _redeem(self, text: str) -> tickets.Ticket:
        try:
            ticket = tickets.read(text, self._key)
            self.book.redeem(ticket, time.time())
        except tickets.BadTicket as error:
            raise Refusal(Problem.BAD_TICKET, str(error)) from None
        return ticket

    # -- the leader's gate ---------------------------------------------------------------------------

    async def _leader_only(self, job: Scope, *, redirect: bool = False) -> None:
        """Return if this node leads; else refuse, or with `redirect` send the request to the leader."""
        leader = None if self.leaving and not redirect else await self._election.wait_for_leader(HOLD)
        if self._election.leads:
            return
        if leader is None and self.leaving:
            raise Refusal(Problem.LEAVING, f"Node {self._node} is stopping", node=self._node)
        if leader is None:
            raise Refusal(
                Problem.NO_LEADER,
                f"Node {self._node} knows no leader: an election is going on",
                node=self._node,
            )
        incarnation = self._election.incarnation_of(leader)
        if redirect and incarnation is not None:
            text = tickets.write(self._ticket(job, leader, incarnation), self._key)
            url = self._url(job, leader)
            raise Redirect(f"{url}{'&' if '?' in url else '?'}ticket={text}")
        self._load.declines += 1
        raise Refusal(Problem.NOT_THE_LEADER, f"Node {self._node} is not the leader", node=self._node, leader=leader)

    def _ticket(self, job: Scope, node: int, incarnation: str, counter: int | None = None) -> tickets.Ticket:
        return tickets.Ticket(
            job=job,
            node=node,
            incarnation=incarnation,
            issuer=self._node,
            expires=time.time() + tickets.LIFETIME,
            nonce=tickets.new_nonce(),
            counter=counter,
        )

    def _url(self, job: Scope, node: int) -> str:
        scheme = "" if job.scheme is Scheme.SEALED else f"?scheme={job.scheme.value}"
        return f"{self._addresses[node].url}{job.action.path}/{quote(job.name, safe='')}{scheme}"


def _scheme(request: web.Request) -> Scheme:
    try:
        return Scheme(request.query.get("scheme", Scheme.SEALED.value))
    except ValueError:
        known = " and ".join(scheme.value for scheme in Scheme)
        raise Refusal(Problem.BAD_REQUEST, f"there is no such scheme: there are {known}") from None


def _keep(request: web.Request) -> bool | None:
    """What a request says of keeping; None if it says nothing."""
    said = request.headers.get("Safelight-Keep")
    if said not in (None, "yes", "no"):
        raise Refusal(Problem.BAD_REQUEST, "Safelight-Keep is yes or no")
    return None if said is None else said == "yes"


def _hosts(config: Config, node: int) -> frozenset[str]:
    """The values of `Host` that mean this node."""
    address = config.addresses[node]
    hosts = {address.netloc}
    if address.loopback:
        hosts |= {f"{name}:{address.port}" for name in ("localhost", "127.0.0.1", "[::1]")}
    if address.port == {"http": 80, "https": 443}[address.scheme]:
        hosts |= {host.rpartition(":")[0] for host in hosts}
    return frozenset(hosts)
