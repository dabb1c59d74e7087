"""Log lines about a vault that is unavailable or has damaged objects: one for each fault, not for each request.

A fault is logged when it begins. It ends when a request succeeds that needs what failed: a change, or, if reads failed,
any read. A fault of a part of the vault can make requests fail and succeed by turns: one that returns within `CALM` is
logged once more, and then ends only after it has not returned for `CALM`. A damaged object is logged again only after
no request has met it for `CALM`.
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
"""Faults, and damaged objects, that are remembered. Others are not logged until some are forgotten."""

CALM = 30.0
"""Seconds without a fault after which it is forgotten."""

_KEY = re.compile(rf"(?:{'|'.join((RECORDS, BODIES, USERS, TOKENS, PROBES))})[0-9a-z./-]+|[0-9a-fA-F]{{16,}}")
"""What differs between the messages of one fault: an object's key, or an id."""


@dataclass
class _Fault:
    last: float  # when it was met
    only_changes: bool  # only such requests have failed
    over: bool = False
    returns: bool = False  # it has come back within CALM


class OutageLog:
    """The faults of one node's vault, as its requests meet them."""

    def __init__(self, log: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns seconds."""
        self._log, self._clock = log, clock
        self._faults: dict[str, _Fault] = {}  # by kind
        self._damaged: OrderedDict[str, float] = OrderedDict()  # when they were met; the longest ago first

    def failed(self, error: StoreError, *, changes: bool) -> None:
        """A request has failed, one that changes something or one that reads."""
        now, kind = self._clock(), _kind(error)
        self._faults = {
            each: fault for each, fault in self._faults.items() if not fault.over or now - fault.last < CALM
        }
        fault = self._faults.get(kind)
        if fault is None:
            if len(self._faults) < MOST:
                self._faults[kind] = _Fault(now, changes)
                self._log(str(error))
            return
        if fault.over:
            if not fault.returns:
                self._log(f"{error} (it comes and goes, and is not reported each time)")
            fault.over, fault.returns = False, True
        fault.last = now
        fault.only_changes &= changes

    def worked(self, *, changes: bool) -> None:
        """A request has succeeded that has made the vault change something, or read."""
        now, ended = self._clock(), False
        for fault in self._faults.values():
            if fault.over or not (changes or fault.only_changes):
                continue
            if not fault.returns or now - fault.last >= CALM:
                fault.over = ended = True
        if ended and all(fault.over for fault in self._faults.values()):
            self._log("the vault can be used again")

    def damaged(self, error: SafelightError) -> None:
        """A request has failed for an object that is damaged or cannot be read here; the message names it."""
        now, text = self._clock(), str(error)
        while self._damaged and now - next(iter(self._damaged.values())) >= CALM:
            self._damaged.popitem(last=False)
        if text not in self._damaged:
            if len(self._damaged) >= MOST:
                return
            self._log(text)
        self._damaged[text] = now
        self._damaged.move_to_end(text)


def _kind(error: StoreError) -> str:
    """What is the same for all requests that meet one fault: not the object, nor how much space is free now."""
    message = str(error.args[0]) if isinstance(error, StoreFull) else str(error)
    return f"{type(error).__name__}: {_KEY.sub('*', message)}"
