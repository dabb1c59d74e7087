"""Orders: what an operator tells a node to do, proved by the cluster's own secret.

Whoever can read the keyring is the operator; there is no other password. An order holds for one request to one
life of one node, for some seconds, and is signed together with what it says, so nothing in it can be changed on its
way. An operator who was told that a node does not answer is not surprised by it later.
"""

from __future__ import annotations

import os
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from safelight.encryption.errors import KeyringError
from safelight.encryption.keys import ClusterKey, KeyId, Keyring
from safelight.errors import SafelightError
from safelight.wire import signed

LIFETIME = 10.0
"""Seconds for which an operator waits for the answer. Machines' clocks must agree to within that."""

LONGEST = 7 * 24 * 3600.0
"""Seconds for which a node may be ineligible on request; to exclude it for longer, remove it from `servers`."""

KEY, ANSWERS, WRAPPING = "orders", "answers", "new keys"
"""The labels of the keys (`Keyring.derive`) that sign orders, sign answers to them, and wrap a key in an order."""


class BadCommand(SafelightError):
    """The order is not to be obeyed, and why."""


class StepDown(msgspec.Struct, forbid_unknown_fields=True, frozen=True, tag="step-down"):
    """Let others lead for so many seconds; 0: stand for election again."""

    seconds: Annotated[float, msgspec.Meta(ge=0, le=LONGEST)]


class AddKey(msgspec.Struct, forbid_unknown_fields=True, frozen=True, tag="add-key"):
    """Have this cluster key, on the disk, and do not use it yet. `wrapped` is for one order only: see `to_add`."""

    wrapped: Annotated[bytes, msgspec.Meta(max_length=256)]
    created: int | None


class UseKey(msgspec.Struct, forbid_unknown_fields=True, frozen=True, tag="use-key"):
    """Seal with the key of this id from now on: every node has it."""

    key: KeyId


class AdminCommand(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a node is to do, for one request."""

    node: int
    task: StepDown | AddKey | UseKey
    expires: float
    """Unix seconds."""
    nonce: str


class Acknowledgement(msgspec.Struct, frozen=True):
    """What a node says when it has obeyed: signed, as whoever listens on a dead node's port could say so, too."""

    node: int
    nonce: str
    """Of the order."""
    current: str
    """The key id of the key that this node seals with now."""


def add_key_command(key: ClusterKey, keyring: Keyring, node: int, expires: float, nonce: str) -> AdminCommand:
    """The order that gives a node a cluster key, readable for nodes of this cluster alone, whatever it travels on.

    wrapped = nonce (12 random bytes) || AES-256-GCM(subkey, nonce, cluster key, associated data = order's nonce / node)
    """
    iv = os.urandom(12)
    wrapped = iv + AESGCM(keyring.derive(WRAPPING)).encrypt(iv, key.secret, _bound_to(node, nonce))
    return AdminCommand(node, AddKey(wrapped, key.created), expires, nonce)


def unwrap_key(order: AdminCommand, task: AddKey, keyring: Keyring) -> ClusterKey:
    """The key that an order gives. Raises BadOrder."""
    iv, ciphertext = task.wrapped[:12], task.wrapped[12:]
    try:
        secret = AESGCM(keyring.derive(WRAPPING)).decrypt(iv, ciphertext, _bound_to(order.node, order.nonce))
        return ClusterKey(secret, task.created)
    except (InvalidTag, ValueError, KeyringError):  # ValueError: too short for a nonce
        raise BadCommand("the key in this order is not wrapped for it: give it again") from None


def _bound_to(node: int, nonce: str) -> bytes:
    return f"{nonce}/{node}".encode()


class CommandVerifier:
    """One node's ear for orders. It remembers those that it obeyed until they have expired."""

    def __init__(self, node: int, keyring: Keyring, born: float) -> None:
        """`born`: when this life of the node began, in Unix seconds; earlier orders may have been obeyed by another."""
        self._born = born
        self._node, self._key, self._answers = node, keyring.derive(KEY), keyring.derive(ANSWERS)
        self._obeyed = signed.ReplayCache()

    def read(self, text: str, now: float) -> AdminCommand:
        """The order in a signed text; only once. Raises BadOrder."""
        try:
            order = signed.read(text, self._key, AdminCommand)
        except signed.NotSigned:
            raise BadCommand("this order is not signed with the keyring of this cluster") from None
        except signed.OtherVersion:
            raise BadCommand("this order is of another version of Safelight: use this node's own") from None
        self._obeyed.forget(now)
        if order.node != self._node:
            raise BadCommand(f"this order is for node {order.node}, and this is node {self._node}")
        if not now < order.expires <= now + 2 * LIFETIME:
            raise BadCommand("this order has expired: give it again, and see that the machines' clocks agree")
        if order.expires - LIFETIME < self._born:
            raise BadCommand("this order was given before the node was started: give it again")
        if order in self._obeyed:
            raise BadCommand("this order was obeyed already: give it again")
        self._obeyed.add(order)
        return order

    def answer(self, order: AdminCommand, current: str) -> str:
        """Signed, that the order was obeyed, and which key is current now."""
        return signed.write(Acknowledgement(self._node, order.nonce, current), self._answers)


def read_acknowledgement(text: str, order: AdminCommand, keyring: Keyring) -> Acknowledgement:
    """A node's answer to an order. Raises BadOrder."""
    try:
        answer = signed.read(text, keyring.derive(ANSWERS), Acknowledgement)
    except (signed.NotSigned, signed.OtherVersion):
        raise BadCommand("what answers there does not have the cluster's secret, or is of another version") from None
    if (answer.node, answer.nonce) != (order.node, order.nonce):
        raise BadCommand("what answers there answers another order")
    return answer
