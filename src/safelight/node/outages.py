"""What the log says of a vault that cannot be used: a line for each trouble when it begins, and one when all are over.

However many requests fail meanwhile, they say nothing new. A trouble is over when a request succeeds that asks of the
vault what failed: one that changes something, or, where reading failed, any that reads.
"""

from __future__ import annotations

from collections.abc import Callable

from safelight.vault.store import StoreError, StoreFull

MOST = 100
"""Troubles that are remembered; beyond, the oldest is said again if it comes again."""


class Outages:
    """The troubles of one node's vault, as its requests meet them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._troubles: dict[str, bool] = {}  # whether only changes have failed for that reason

    def failed(self, error: StoreError, *, changes: bool) -> None:
        """A request has failed, one that changes something or one that reads."""
        trouble = (
            str(error.args[0]) if isinstance(error, StoreFull) else str(error)
        )  # without how much is free just now
        if trouble not in self._troubles:
            self._say(str(error))
        self._troubles[trouble] = self._troubles.get(trouble, True) and changes
        if len(self._troubles) > MOST:
            del self._troubles[next(iter(self._troubles))]

    def worked(self, *, changes: bool) -> None:
        """A request has succeeded that has made the vault change something, or read."""
        if self._troubles:
            self._troubles = {} if changes else {each: only for each, only in self._troubles.items() if only}
            if not self._troubles:
                self._say("the vault can be used again")
