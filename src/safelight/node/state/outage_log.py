"""What the log says of a vault that cannot be used, or has damaged objects: a line for each trouble, not each request.

A trouble of the vault is reported when it begins, and its end when a request succeeds that asks of the vault what
failed: one that changes something, or, where reading failed, any that reads. Some troubles are of a part of the vault
only, and requests fail and succeed by turns: one that comes back within `CALM` is reported once more, and is then over
only when it has not come back for as long. A damaged object is reported once, until nobody has met it for `CALM`.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from safelight.errors import SafelightError
from safelight.vault.records import BODIES, PROBES, RECORDS, TOKENS, USERS
from safelight.vault.stores.base import StoreError, StoreFull

MOST = 100
"""Troubles, and damaged objects, that are remembered; beyond, others are not reported until some are forgotten."""

CALM = 30.0
"""Seconds without a trouble after which it is forgotten."""

_KEY = re.compile(rf"(?:{'|'.join((RECORDS, BODIES, USERS, TOKENS, PROBES))})[0-9a-z./-]+|[0-9a-fA-F]{{16,}}")
"""What is another one in the messages of the same trouble: an object, or an id."""


@dataclass
class _Trouble:
    last: float  # when it was met
    only_changes: bool  # only such requests have failed
    over: bool = False
    returns: bool = False  # it has come back within CALM


class OutageLog:
    """The troubles of one node's vault, as its requests meet them."""

    def __init__(self, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._say, self._clock = say, clock
        self._troubles: dict[str, _Trouble] = {}  # by kind
        self._damaged: OrderedDict[str, float] = OrderedDict()  # when they were met; the longest ago first

    def failed(self, error: StoreError, *, changes: bool) -> None:
        """A request has failed, one that changes something or one that reads."""
        now, kind = self._clock(), _kind(error)
        self._troubles = {
            each: trouble for each, trouble in self._troubles.items() if not trouble.over or now - trouble.last < CALM
        }
        trouble = self._troubles.get(kind)
        if trouble is None:
            if len(self._troubles) < MOST:
                self._troubles[kind] = _Trouble(now, changes)
                self._say(str(error))
            return
        if trouble.over:
            if not trouble.returns:
                self._say(f"{error} (it comes and goes, and is not reported each time)")
            trouble.over, trouble.returns = False, True
        trouble.last = now
        trouble.only_changes &= changes

    def worked(self, *, changes: bool) -> None:
        """A request has succeeded that has made the vault change something, or read."""
        now, ended = self._clock(), False
        for trouble in self._troubles.values():
            if trouble.over or not (changes or trouble.only_changes):
                continue
            if not trouble.returns or now - trouble.last >= CALM:
                trouble.over = ended = True
        if ended and all(trouble.over for trouble in self._troubles.values()):
            self._say("the vault can be used again")

    def damaged(self, error: SafelightError) -> None:
        """A request has failed for an object that is damaged or cannot be read here; the message names it."""
        now, text = self._clock(), str(error)
        while self._damaged and now - next(iter(self._damaged.values())) >= CALM:
            self._damaged.popitem(last=False)
        if text not in self._damaged:
            if len(self._damaged) >= MOST:
                return
            self._say(text)
        self._damaged[text] = now
        self._damaged.move_to_end(text)


def _kind(error: StoreError) -> str:
    """What is the same for all requests that meet the same trouble: not the object, nor how much room is free now."""
    message = str(error.args[0]) if isinstance(error, StoreFull) else str(error)
    return f"{type(error).__name__}: {_KEY.sub('*', message)}"
