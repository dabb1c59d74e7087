"""The retry policy: what a client may try again after each problem, in one table. What is not in it is final.

An offer is repeated at the same server, a request after another offer, and a read at the next server.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from safelight.wire.messages import Problem, Refusal

ATTEMPTS = 5
"""Requests that may break off before a client gives up; each is preceded by a search for the leader."""

MIN_TRIES = 3
"""Requests that must have met an unavailable vault before the timeout ends them: each may take long."""


class Limit(Enum):
    """How often a refused request is repeated."""

    ATTEMPTS = f"{ATTEMPTS} requests"
    PER_SERVER = f"{ATTEMPTS}, each server once"  # ATTEMPTS is the member above
    TIMEOUT = f"until the timeout, and at least {MIN_TRIES} requests"
    BUSY = "as long as a busy cluster is waited for"


class Policy(NamedTuple):
    """What may succeed after a problem."""

    offer: bool = False
    """The same offer at the same server, until the deadline."""
    request: Limit | None = None
    """The request after another offer."""
    read: bool = False
    """The same question, to another server or later, until the deadline."""
    pause: float = 0.0
    """Seconds between the refused request and the next offer, with jitter."""
    avoid: bool = True
    """The next offer asks for another node than the one that was assigned."""
    unreachable: bool = False
    """The server counts as unreachable: it is not a working node of this cluster."""
    others: bool = True
    """The same for other images. If not, a batch ends."""


POLICY: dict[Problem, Policy] = {
    Problem.NOT_THE_LEADER: Policy(offer=True, request=Limit.ATTEMPTS),
    Problem.NO_LEADER: Policy(offer=True, request=Limit.ATTEMPTS, read=True),
    Problem.LEAVING: Policy(offer=True, request=Limit.ATTEMPTS, read=True),
    Problem.TOO_MANY_TOKENS: Policy(offer=True, request=Limit.ATTEMPTS, read=True),
    Problem.BUSY: Policy(offer=True, request=Limit.BUSY, read=True, pause=0.25, avoid=False),
    Problem.VAULT_AWAY: Policy(offer=True, request=Limit.TIMEOUT, read=True, pause=1.0, avoid=False, others=False),
    Problem.INTERNAL: Policy(offer=True, request=Limit.ATTEMPTS, read=True, pause=0.4, unreachable=True),
    Problem.LACKS_KEY: Policy(offer=True, request=Limit.ATTEMPTS, read=True, pause=0.4, unreachable=True),
    Problem.OTHER_CLUSTER: Policy(offer=True, read=True, unreachable=True),
    Problem.DISK_FULL: Policy(request=Limit.PER_SERVER, pause=0.4),
    Problem.BAD_TICKET: Policy(request=Limit.ATTEMPTS),
    Problem.STALLED: Policy(request=Limit.ATTEMPTS),
    Problem.BAD_LENGTH: Policy(request=Limit.ATTEMPTS),
    Problem.OVERTAKEN: Policy(request=Limit.ATTEMPTS, avoid=False),
    Problem.WRONG_USER: Policy(others=False),
    Problem.ENROLMENT_CLOSED: Policy(others=False),
    Problem.USER_REVOKED: Policy(others=False),
    Problem.NAME_TAKEN: Policy(others=False),
}


def policy(error: BaseException) -> Policy:
    """What may succeed after this error; after anything but a Refusal, nothing."""
    return POLICY.get(error.problem, Policy()) if isinstance(error, Refusal) else Policy()
