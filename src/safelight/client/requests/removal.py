"""An image removed from the vault: DELETE at the leader, as often as it takes to know that it is gone."""

from __future__ import annotations

from safelight.client.requests.leader_request import Errand, Granted
from safelight.client.transport.servers import read_small
from safelight.wire.messages import Problem, read_problem


class Removal(Errand):
    """One image to remove. Its offer has the action REMOVE and no size."""

    _asked_before = False

    async def _send(self, granted: Granted) -> None:
        """Raises Refusal, and `Broken` where no answer comes."""
        asked_before, self._asked_before = self._asked_before, True
        async with self._servers.http.delete(
            self._servers.reach(granted.grant.url, granted.server),
            headers={"Authorization": f"Ticket {granted.grant.ticket}"},
            allow_redirects=False,
        ) as response:
            if response.status in (200, 204):
                return
            refusal = read_problem(response.status, await read_small(response))
        if refusal.problem is Problem.NOT_FOUND and asked_before:
            return  # an earlier answer was lost
        raise refusal
