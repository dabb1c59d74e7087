"""An image removed from the vault: DELETE at the leader, repeated until it is known to be gone."""

from __future__ import annotations

from collections.abc import Callable

from safelight.client.requests.leader_request_state import Granted
from safelight.client.transport.servers import Servers, refusal_in
from safelight.client.transport.tokens import Secret
from safelight.wire.messages import Problem


class Removal:
    """One image to remove. Its offer has the action REMOVE and no size."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._sent_before = False

    async def send(self, granted: Granted, moved: Callable[[], None]) -> None:
        """Make the request, once. Raises Refusal, and `TRANSPORT_ERRORS` where no answer comes."""
        sent_before, self._sent_before = self._sent_before, True
        async with self._servers.http.delete(
            self._servers.reach(granted.grant.url, granted.server),
            headers={"Authorization": Secret(f"Ticket {granted.grant.ticket}")},
            allow_redirects=False,
        ) as response:
            if response.status in (200, 204):
                return
            refusal = await refusal_in(response)
        if refusal.problem is Problem.NOT_FOUND and sent_before:
            return  # an earlier answer was lost
        raise refusal
