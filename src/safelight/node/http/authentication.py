"""Who sends a request: a user with a token, or the operator with an admin command; and whether this node is meant.

A token that this node does not know costs reads of the vault, so each address may try only so many (`GuessRateLimit`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from safelight.config import Config
from safelight.encryption.keys import Keyring
from safelight.names import check_user
from safelight.node.connections.http_connection import TOKEN_OF, address_of, authenticated
from safelight.node.http.guess_rate_limit import GuessRateLimit
from safelight.node.state.users import Account, Users
from safelight.runtime.http import web
from safelight.wire import admin_commands
from safelight.wire.messages import TOKEN, CommandResult, Problem, Refusal
from safelight.wire.messages import fingerprint as fingerprint_of

_TOO_MANY = "your address has sent too many unknown tokens, and this is another: wait, or use the right token"


class Authentication:
    """One node's check of hosts, tokens and admin commands."""

    def __init__(self, config: Config, node: int, keyring: Keyring, users: Users) -> None:
        self._address = config.addresses[node]
        self._users = users
        self._hosts = _hosts(config, node)
        self._guesses = GuessRateLimit()
        self._commands = admin_commands.CommandVerifier(node, keyring, time.time())
        self.open_enrolment = self._address.loopback

    def check_host(self, request: web.Request) -> None:
        """Refuse what a page of another site sends: to a name that is not this node's (DNS rebinding), or with an
        `Origin` (RFC 6454, 7) that is not this node.
        """
        if request.host.lower() not in self._hosts:
            raise Refusal(Problem.WRONG_HOST, f"this is {self._address.netloc}: use that address")
        for origin in request.headers.getall("Origin", []):
            scheme, _, host = origin.lower().partition("://")
            if scheme != self._address.scheme or host not in self._hosts:
                raise Refusal(Problem.FOREIGN_ORIGIN, "a browser sent this for a page of another site")

    async def user(self, request: web.Request) -> Account:
        """The user whose token the request has. Raises Refusal (NO_CREDENTIALS, UNKNOWN_TOKEN, TOO_MANY_TOKENS)."""
        token = bearer(request)
        if token is None:
            raise Refusal(Problem.NO_CREDENTIALS, "authenticate with a token: Authorization: Bearer TOKEN")
        account = await self.account(request, token)
        authenticated(request, account.user)
        return account

    async def account(self, request: web.Request, token: str) -> Account:
        """The user with this token. Raises Refusal (UNKNOWN_TOKEN, TOO_MANY_TOKENS)."""
        if not TOKEN.fullmatch(token):
            raise Refusal(Problem.UNKNOWN_TOKEN, "this is not a token: a token is slt_ and 43 characters")
        request[TOKEN_OF] = fingerprint = fingerprint_of(token)
        if self._users.knows(fingerprint) or self._users.missed(fingerprint):
            return await self._users.account(fingerprint)
        with self._guess(address_of(request)) as allowed:
            if not allowed and not await self._users.claims.token(fingerprint):
                raise Refusal(Problem.TOO_MANY_TOKENS, _TOO_MANY)
            return await self._users.account(fingerprint)

    async def enrol(self, request: web.Request, token: str, user: str) -> bool:
        """Enrol a user with this token; False if it was enrolled before. Raises InvalidName, and Refusal as
        `Users.enrol`, and TOO_MANY_TOKENS.
        """
        fingerprint = fingerprint_of(token)
        check_user(user)
        if self._users.knows(fingerprint):
            return await self._users.enrol(user, fingerprint)
        with self._guess(address_of(request)) as allowed:
            if not allowed and not await self._users.claims.may_enrol(fingerprint, user):
                raise Refusal(Problem.TOO_MANY_TOKENS, _TOO_MANY)
            return await self._users.enrol(user, fingerprint)

    async def active(self, user: str) -> bool:
        """Whether the user has not been revoked."""
        return await self._users.active(user)

    @contextmanager
    def _guess(self, address: str) -> Iterator[bool]:
        """The lookup of an unknown token: whether this address may look it up alone. If not, a listing shows whether a
        user has it, so that guesses do not keep users out. A lookup counts only if the token is refused.
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

    def command(self, request: web.Request) -> admin_commands.AdminCommand:
        """The admin command that a request carries. Raises Refusal (NO_CREDENTIALS, BAD_ORDER)."""
        text = credentials(request, "order")
        if text is None:
            raise Refusal(Problem.NO_CREDENTIALS, "only the operator may do this: see `safelight --help`")
        try:
            return self._commands.read(text, time.time())
        except admin_commands.BadCommand as error:
            raise Refusal(Problem.BAD_ORDER, str(error)) from None

    def acknowledge(self, command: admin_commands.AdminCommand, current: str) -> CommandResult:
        """The response to an executed command. `current`: the id of the current key."""
        return CommandResult(self._commands.acknowledge(command, current))


def credentials(request: web.Request, scheme: str) -> str | None:
    """What `Authorization` (RFC 9110, 11.6.2) has for this scheme, in lower case; None if it has another, or none."""
    kind, _, text = request.headers.get("Authorization", "").partition(" ")
    return text.strip() if kind.lower() == scheme else None


def bearer(request: web.Request) -> str | None:
    """The token of a request, if it has one."""
    return credentials(request, "bearer")


def _hosts(config: Config, node: int) -> frozenset[str]:
    """The values of `Host` that mean this node."""
    address = config.addresses[node]
    hosts = {address.netloc}
    if address.loopback:
        hosts |= {f"{name}:{address.port}" for name in ("localhost", "127.0.0.1", "[::1]")}
    if address.port == {"http": 80, "https": 443}[address.scheme]:
        hosts |= {host.rpartition(":")[0] for host in hosts}
    return frozenset(hosts)
