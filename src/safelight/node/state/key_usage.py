"""How often this node has used each cluster key with a random nonce, and when to rotate the key.

AES-GCM with random nonces may be used 2^32 times under one key (NIST SP 800-38D, section 8.3), on all nodes together:
see docs/format.md, "Bounds". So each node counts, and warns in time for its share.

usage-N.json   {key id: {"records": …, "wraps": …}}: never fewer than there were, as it is written a block ahead
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

LIMIT = 1 << 32
"""Uses of one key."""

BLOCK = 1 << 16
"""Uses that are saved ahead: a crash adds at most so many to the count."""

WARNINGS = ((7 / 8, "now"), (1 / 2, "soon"))
"""Shares of a node's part of LIMIT, and when to rotate after that."""


class Uses(msgspec.Struct):
    """Of one key: `records` encrypted under its record key, `wraps` of data keys under user keys derived from it."""

    records: int = 0
    wraps: int = 0

    @property
    def most(self) -> int:
        """The larger: each has its own bound, as the keys are different."""
        return max(self.records, self.wraps)


class KeyUsage:
    """One node's count. On the event loop only."""

    def __init__(self, found: dict[str, Uses], nodes: int, save: Callable[[bytes], None]) -> None:
        """`found`: as last saved. `save` gets the text to save, long before it is needed."""
        self._uses, self._nodes, self._save = found, nodes, save
        self._advised: dict[str, str] = {}
        self._reserved = {key: uses.most for key, uses in found.items()}

    def record(self, key_id: str) -> None:
        """A record is encrypted under this cluster key."""
        self._of(key_id).records += 1

    def wrap(self, key_id: str) -> None:
        """A data key is wrapped under this cluster key."""
        self._of(key_id).wraps += 1

    def __bool__(self) -> bool:
        return bool(self._uses)

    def used(self, key_id: str) -> int:
        return self._uses.get(key_id, Uses()).most

    def advice(self, key_id: str) -> str:
        """What the operator should do, as a message; empty if nothing."""
        used = self.used(key_id)
        for share, when in WARNINGS:
            if used >= share * LIMIT / self._nodes:
                return (
                    f"the key {key_id} has sealed {used:,} times on this node, of {LIMIT:,} on all: "
                    f"run `safelight keys rotate` {when}"
                )
        return ""

    def due(self, key_id: str) -> str:
        """The advice, once each time that it becomes more urgent; otherwise empty."""
        advice = self.advice(key_id)
        when = advice.rpartition(" ")[2]
        if when == self._advised.get(key_id, ""):
            return ""
        self._advised[key_id] = when
        return advice

    def written(self, ahead: int) -> bytes:
        """The text of `usage-N.json`, so many uses ahead."""
        return msgspec.json.encode(
            {k: Uses(each.records + ahead, each.wraps + ahead) for k, each in self._uses.items()}
        )

    def _of(self, key_id: str) -> Uses:
        uses = self._uses.setdefault(key_id, Uses())
        if uses.most + BLOCK // 2 >= self._reserved.get(key_id, 0):
            self._reserved = {key: each.most + BLOCK for key, each in self._uses.items()}
            self._save(self.written(BLOCK))
        return uses
