"""The retry policy: what a client may try again after each refusal, in one table. What is not in it is final.

An offer is repeated at the same server until the time limit, a request by another offer and a few times only, and a
read by the next server. Three refusals have limits of their own. BUSY: a crowd is waited for longer than an election.
VAULT_AWAY: requests are repeated until the time limit, too. DISK_FULL: once for each server.
"""

from __future__ import annotations

from typing import NamedTuple

from safelight.wire.messages import Problem, Refusal


class Retry(NamedTuple):
    """What may succeed after a refusal."""

    offer: bool = False
    """The same offer at the same server, later."""
    request: bool = False
    """The request after another offer."""
    read: bool = False
    """The same question, to another server or later."""
    others: bool = True
    """The same for other images. If not, a batch ends."""


POLICY: dict[Problem, Retry] = {
    Problem.NOT_THE_LEADER: Retry(offer=True, request=True),
    Problem.NO_LEADER: Retry(offer=True, request=True, read=True),
    Problem.LEAVING: Retry(offer=True, request=True, read=True),
    Problem.BUSY: Retry(offer=True, request=True, read=True),
    Problem.TOO_MANY_TOKENS: Retry(offer=True, request=True, read=True),
    Problem.VAULT_AWAY: Retry(offer=True, request=True, read=True, others=False),
    Problem.INTERNAL: Retry(offer=True, request=True, read=True),
    Problem.LACKS_KEY: Retry(offer=True, request=True, read=True),
    Problem.OTHER_CLUSTER: Retry(offer=True, read=True),
    Problem.DISK_FULL: Retry(request=True),
    Problem.BAD_TICKET: Retry(request=True),
    Problem.STALLED: Retry(request=True),
    Problem.BAD_LENGTH: Retry(request=True),
    Problem.OVERTAKEN: Retry(request=True),
    Problem.WRONG_USER: Retry(others=False),
    Problem.ENROLMENT_CLOSED: Retry(others=False),
    Problem.USER_REVOKED: Retry(others=False),
    Problem.NAME_TAKEN: Retry(others=False),
    Problem.NO_VAULT: Retry(others=False),
}


def policy(error: BaseException) -> Retry:
    """What may succeed after this error; for what is not a refusal, nothing is known."""
    return POLICY.get(error.problem, Retry()) if isinstance(error, Refusal) else Retry()
