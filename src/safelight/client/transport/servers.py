"""The servers of a cluster, and small requests to them, over connections that stay open between requests."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TypeVar

import msgspec
from yarl import URL

from safelight.client.transport.connections import Connector
from safelight.config import Address, Config
from safelight.decoding import Malformed, decode
from safelight.errors import by_server
from safelight.runtime.http import aiohttp
from safelight.runtime.network_errors import WrongCluster, why_unreachable
from safelight.runtime.tasks import retrieve
from safelight.runtime.tls import client_tls
from safelight.wire.messages import API, MAX_JSON, ClusterInfo, Problem, Refusal, read_problem

CONNECT_TIMEOUT = 2.0
"""Seconds to open a TCP connection."""

KEEPALIVE = 60.0
"""Seconds that an idle connection stays open; nodes allow more."""

_T = TypeVar("_T", bound=msgspec.Struct)

TRANSPORT_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)
"""What a request raises when the server or the connection failed: the request can be retried."""


class Servers:
    """An HTTP client for all nodes of one cluster; an async context manager."""

    def __init__(self, config: Config, cluster: str | None = None) -> None:
        """`cluster`: as in `require_cluster`."""
        self.addresses: dict[int, Address] = config.addresses
        self.led = max(self.addresses)
        """The server that granted last, so probably the leader; at first the highest, which Bully prefers."""
        self._tls = client_tls(config)
        self._cluster = cluster
        self._trying: set[asyncio.Task[str]] = set()
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._connector = Connector(self._cluster, limit=0, keepalive_timeout=KEEPALIVE, ssl=self._tls or True)
        self._http = aiohttp.ClientSession(
            connector=self._connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
            auto_decompress=False,
            raise_for_status=False,
            read_bufsize=1 << 18,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.close()
        self._http = None

    def abandon(self) -> None:
        """See `Connector.abandon`."""
        if self._http is not None:
            self._http.detach()
            self._connector.abandon()

    @property
    def http(self) -> aiohttp.ClientSession:
        """The open connections. Raises RuntimeError outside of the `async with` block."""
        if self._http is None:
            raise RuntimeError("this client is not open: use it in `async with`")
        return self._http

    def require_cluster(self, cluster: str) -> None:
        """From now on, a request to a node of any other cluster raises WrongCluster (one of `TRANSPORT_ERRORS`)."""
        self._connector.cluster = cluster

    async def cluster_of(self, server: int) -> str:
        """The id of the cluster that a server is of. Raises as `ask`."""
        cluster = (await self.ask(server, "GET", f"{API}/cluster", ClusterInfo)).cluster
        self._connector.note(cluster)
        return cluster

    def connects(self, server: int) -> bool:
        """Whether a TCP connection to this server succeeds, even if it does not answer."""
        address = self.addresses[server]
        return self._connector.reaches((address.host.lower(), address.port))

    async def unreachable(self, seconds: float) -> dict[int, BaseException]:
        """The servers to which no connection succeeds within so many seconds, and why. All are tried at once; attempts
        that take longer continue in the background.
        """
        asked = {asyncio.create_task(self.cluster_of(server)): server for server in self.addresses}
        self._trying |= asked.keys()
        await asyncio.wait(asked, timeout=seconds)
        found: dict[int, BaseException] = {}
        for task, server in asked.items():
            task.add_done_callback(retrieve)
            task.add_done_callback(self._trying.discard)
            if not self.connects(server):
                found[server] = (task.exception() if task.done() else None) or TimeoutError()
        return found

    def reach(self, url: str, server: int) -> URL:
        """A node's URL as this client reaches it: the nodes may use another name for a server than the client."""
        said = URL(url, encoded=True)
        return said if self.place(url) is not None else self.at(server, said.raw_path_qs)

    def place(self, url: str) -> int | None:
        """The server that a URL leads to; None if no configured address matches."""
        origin = str(URL(url, encoded=True).origin())
        return next((server for server, address in self.addresses.items() if address.url == origin), None)

    def at(self, server: int, path: str) -> URL:
        """The address of a path (escaped already) at a server."""
        return URL(self.addresses[server].url + path, encoded=True)

    async def ask(
        self,
        server: int,
        method: str,
        path: str,
        answer: type[_T],
        *,
        authorization: str | None = None,
        message: msgspec.Struct | None = None,
        limit: int = MAX_JSON,
    ) -> _T:
        """One small request; its answer has `limit` bytes at most. Raises Refusal, and `TRANSPORT_ERRORS` where no
        answer comes.
        """
        try:
            return await self._ask(server, method, path, answer, authorization, message, limit)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            hung_up = not isinstance(error, aiohttp.ClientConnectorError)
            if hung_up and self.addresses[server].scheme == "http" and await self._speaks_tls(server):
                raise WrongCluster("it expects TLS: write https:// before its address") from None
            raise

    async def _speaks_tls(self, server: int) -> bool:
        """Whether a TLS handshake succeeds with a server that hung up on plain HTTP. Nothing is sent."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        address = self.addresses[server]
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
        except (OSError, TimeoutError):  # ssl.SSLError is an OSError
            return False
        writer.transport.abort()
        return True

    async def _ask(
        self,
        server: int,
        method: str,
        path: str,
        answer: type[_T],
        authorization: str | None,
        message: msgspec.Struct | None,
        limit: int,
    ) -> _T:
        async with self.http.request(
            method,
            self.at(server, path),
            headers={"Authorization": authorization} if authorization else None,
            data=msgspec.json.encode(message) if message is not None else None,
            allow_redirects=False,
        ) as response:
            if response.status not in (200, 201, 204):
                raise await refusal_in(response)
            return read_answer(await _read(response, limit) or b"{}", answer)


def read_answer(body: bytes | msgspec.Raw, kind: type[_T]) -> _T:
    """A node's answer. Raises Refusal for what is none."""
    try:
        return decode(body, kind)
    except Malformed:
        raise not_a_node() from None


def not_a_node() -> Refusal:
    """What to raise for an answer that no node gives."""
    return Refusal(Problem.INTERNAL, "what answers there is not a Safelight node")


async def refusal_in(response: aiohttp.ClientResponse) -> Refusal:
    """The refusal that a response holds."""
    return read_problem(response.status, await _read(response, MAX_JSON))


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body of a message, at most `limit` bytes of it."""
    try:
        return await response.content.readexactly(limit)
    except asyncio.IncompleteReadError as whole:
        return whole.partial


def reason(error: BaseException) -> str:
    """Why a request to a server failed, in a few words."""
    return error.detail if isinstance(error, Refusal) else why_unreachable(error)


def reasons(errors: Mapping[int, BaseException]) -> str:
    """Why each server failed; servers with the same reason are named together."""
    return by_server({server: reason(error) for server, error in errors.items()})
