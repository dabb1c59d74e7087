"""A request that only the leader carries out, driven to its end.

`RequestMachine` decides; this file sends the offers and the request that it asks for, and brings it the answers. What
the request is, the caller's `send` knows: `transfer` sends an image, `removal` removes one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import msgspec

from safelight.client.requests.feedback import Feedback
from safelight.client.requests.leader_request_state import (
    BodyDone,
    BodyFailed,
    BodyRefused,
    CancelBody,
    CancelOffers,
    CheckServer,
    Effect,
    Event,
    Fail,
    Granted,
    Report,
    RequestMachine,
    SendBody,
    SendOffer,
    ServerChecked,
    Succeed,
)
from safelight.client.requests.leader_search import OFFER_TIMEOUT, OfferFailed, OfferGranted, OfferRefused
from safelight.client.transport.account import Account
from safelight.client.transport.deadline import jitter
from safelight.client.transport.servers import TRANSPORT_ERRORS, Servers, reason
from safelight.config import Config
from safelight.runtime.network_errors import is_final
from safelight.runtime.tasks import cancel
from safelight.wire.messages import Offer, Refusal

Send = Callable[[Granted, Callable[[], None]], Awaitable[None]]
"""Makes the request where the grant says, once, and calls its second argument whenever a byte has moved.

Raises Refusal, one of `TRANSPORT_ERRORS`, or what ends the request at once (a file that cannot be read).
"""


class _Tasks(set[asyncio.Task[None]]):
    """What is under way of one kind."""


class LeaderRequest:
    """One image, one upload id, one name, over as many attempts as it takes."""

    def __init__(
        self, config: Config, servers: Servers, account: Account, offer: Offer, feedback: Feedback, send: Send
    ) -> None:
        self._servers, self._account, self._offer, self._feedback, self._send = servers, account, offer, feedback, send
        self._config = config
        self._clock = asyncio.get_running_loop().time
        self._events: list[tuple[Event, _Tasks]] = []
        self._error: BaseException | None = None
        self._wake = asyncio.Event()
        self._offers, self._body, self._checks = _Tasks(), _Tasks(), _Tasks()

    async def run(self) -> int:
        """Return the node that did it. Raises SafelightError."""
        machine = self._machine = RequestMachine(
            self._clock(),
            [*self._servers.addresses],
            timeout=self._config.timeout,
            body_timeout=self._config.body_timeout,
            preferred=self._servers.led,
            jitter=jitter,
        )
        try:
            while True:
                self._wake.clear()
                if self._error is not None:
                    raise self._error
                event = self._events.pop(0)[0] if self._events else None  # one at a time: an effect may cancel the rest
                for effect in machine.step(self._clock(), event):
                    match effect:
                        case Succeed(granted):
                            return granted.node
                        case Fail(error):
                            raise error
                        case _:
                            await self._carry_out(effect)
                if not self._events:
                    with suppress(TimeoutError):
                        async with asyncio.timeout_at(machine.next_call()):
                            await self._wake.wait()
        finally:
            for tasks in (self._offers, self._body, self._checks):
                await self._cancel(tasks)

    async def _carry_out(self, effect: Effect) -> None:
        match effect:
            case SendOffer(server, avoid):
                self._start(self._offers, self._make_offer(server, avoid))
            case CancelOffers():
                await self._cancel(self._offers)
            case SendBody(granted):
                self._servers.led = granted.leader
                self._start(self._body, self._make_request(granted))
            case CancelBody():
                await self._cancel(self._body)
            case CheckServer(server):
                self._start(self._checks, self._check(server))
            case Report(method, arguments):
                getattr(self._feedback, method)(*arguments)

    def _start(self, tasks: _Tasks, work: Coroutine[Any, Any, Event]) -> None:
        async def run() -> None:
            try:
                event = await work
                self._events.append((event, tasks))
            except Exception as error:  # it ends the request: see `run`
                self._error = error
            self._wake.set()

        task = asyncio.create_task(run())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _cancel(self, tasks: _Tasks) -> None:
        """Return when all have ended. What they have brought meanwhile is forgotten."""
        await cancel(*tasks)
        self._events = [(event, source) for event, source in self._events if source is not tasks]

    async def _make_offer(self, server: int, avoid: tuple[int, ...]) -> Event:
        try:
            async with asyncio.timeout(OFFER_TIMEOUT):
                grant = await self._account.offer(server, msgspec.structs.replace(self._offer, avoid=[*avoid]))
            return OfferGranted(server, grant, None if grant.assigned is None else self._servers.place(grant.url))
        except Refusal as refusal:
            return OfferRefused(server, refusal)
        except TRANSPORT_ERRORS as error:
            connected = isinstance(error, TimeoutError) and self._servers.connects(server)
            return OfferFailed(server, reason(error), is_final(error), connected)

    async def _make_request(self, granted: Granted) -> Event:
        try:
            await self._send(granted, self._moved)
            return BodyDone()
        except Refusal as refusal:
            return BodyRefused(refusal)
        except TRANSPORT_ERRORS as error:
            return BodyFailed(reason(error))

    def _moved(self) -> None:
        self._machine.moved = self._clock()

    async def _check(self, server: int) -> Event:
        try:
            async with asyncio.timeout(OFFER_TIMEOUT):
                await self._servers.cluster_of(server)
            return ServerChecked(server, hangs=False)
        except (Refusal, *TRANSPORT_ERRORS):
            return ServerChecked(server, hangs=True)
