"""Orders: what an operator tells a node to do, proved by the cluster's own secret.

Whoever can read the keyring is the operator; there is no other password. An order holds for one request to one
node, for a minute, and is signed together with what it says, so nothing in it can be changed on its way.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from safelight import signed
from safelight.errors import SafelightError

LIFETIME = 60.0
"""Seconds. Machines' clocks must agree to within that, as they must for tickets."""

LONGEST = 7 * 24 * 3600.0
"""Seconds for which a node may be told to stand back: who means longer takes it out of `servers`."""

KEY = "orders"
"""The label of the key (`Keyring.derive`) that signs orders."""


class BadOrder(SafelightError):
    """The order is not to be obeyed, and why."""


class StepDown(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Let others lead for so many seconds; 0: stand for election again."""

    node: int
    seconds: Annotated[float, msgspec.Meta(ge=0, le=LONGEST)]
    expires: float
    """Unix seconds."""
    nonce: str


class Orders:
    """One node's ear for orders. It remembers those that it obeyed until they have expired."""

    def __init__(self, node: int, key: bytes) -> None:
        self._node, self._key = node, key
        self._obeyed = signed.Nonces()

    def read(self, text: str, now: float) -> StepDown:
        """The order in a signed text; only once. Raises BadOrder."""
        try:
            order = signed.read(text, self._key, StepDown)
        except signed.NotSigned:
            raise BadOrder("this order is not signed with the keyring of this cluster") from None
        except signed.OtherVersion:
            raise BadOrder("this order is of another version of Safelight: use this node's own") from None
        self._obeyed.forget(now)
        if order.node != self._node:
            raise BadOrder(f"this order is for node {order.node}, and this is node {self._node}")
        if not now < order.expires <= now + 2 * LIFETIME:
            raise BadOrder("this order has expired: give it again, and see that the machines' clocks agree")
        if order in self._obeyed:
            raise BadOrder("this order was obeyed already: give it again")
        self._obeyed.add(order)
        return order
