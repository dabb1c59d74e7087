"""Admin commands: what an operator has a node do, signed with a key of the cluster.

Anyone who can read the keyring is the operator; there is no other password. A command is valid for one request to one
incarnation of one node, for some seconds, and its signature covers all of it. A command that timed out is never
executed later.
"""

from __future__ import annotations

import os
import secrets
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from safelight.encryption.errors import KeyringError
from safelight.encryption.keys import ClusterKey, KeyId, Keyring
from safelight.errors import SafelightError
from safelight.wire import signed

LIFETIME = 10.0
"""Seconds for which an operator waits for the acknowledgement. The machines' clocks must agree within that time."""

LONGEST = 7 * 24 * 3600.0
"""Seconds for which a node may step down. To exclude it for longer, remove it from `servers`."""

KEY, ACKNOWLEDGEMENTS, WRAPPING = "orders", "answers", "new keys"
"""Labels of the keys (`Keyring.derive`) that sign commands, sign acknowledgements, and wrap a key in a command."""


class BadCommand(SafelightError):
    """The command is not valid; the message says why."""


class StepDown(msgspec.Struct, forbid_unknown_fields=True, frozen=True, tag="step-down"):
    """Be ineligible for so many seconds while another leads; 0 ends that."""

    seconds: Annotated[float, msgspec.Meta(ge=0, le=LONGEST)]


class AddKey(msgspec.Struct, forbid_unknown_fields=True, frozen=True, tag="add-key"):
    """Store this cluster key, and do not use it yet. `wrapped` is valid in one command only: see `add_key_command`."""

    wrapped: Annotated[bytes, msgspec.Meta(max_length=256)]
    created: int | None


class UseKey(msgspec.Struct, forbid_unknown_fields=True, frozen=True, tag="use-key"):
    """Encrypt with this key from now on: every node has stored it."""

    key: KeyId


class AdminCommand(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What one node is to do, once."""

    node: int
    task: StepDown | AddKey | UseKey
    expires: float
    """Unix seconds."""
    nonce: str


class Acknowledgement(msgspec.Struct, frozen=True):
    """A node's answer after it executed a command. Signed, as any process could listen on a dead node's port."""

    node: int
    nonce: str
    """The nonce of the command."""
    current: str
    """The id of the key that this node encrypts with now."""


def new_command(node: int, task: StepDown | UseKey, now: float) -> AdminCommand:
    """The command that has a node do this, valid for LIFETIME from `now` (Unix seconds)."""
    return AdminCommand(node, task, now + LIFETIME, secrets.token_hex(8))


def add_key_command(key: ClusterKey, keyring: Keyring, node: int, now: float) -> AdminCommand:
    """The command that gives a node a cluster key, which only nodes of this cluster can unwrap.

    wrapped = iv (12 random bytes) || AES-256-GCM(subkey, iv, cluster key, associated data = command's nonce / node)
    """
    iv, nonce = os.urandom(12), secrets.token_hex(8)
    wrapped = iv + AESGCM(keyring.derive(WRAPPING)).encrypt(iv, key.secret, _bound_to(node, nonce))
    return AdminCommand(node, AddKey(wrapped, key.created), now + LIFETIME, nonce)


def unwrap_key(command: AdminCommand, task: AddKey, keyring: Keyring) -> ClusterKey:
    """The key in a command. Raises BadCommand."""
    iv, ciphertext = task.wrapped[:12], task.wrapped[12:]
    try:
        secret = AESGCM(keyring.derive(WRAPPING)).decrypt(iv, ciphertext, _bound_to(command.node, command.nonce))
        return ClusterKey(secret, task.created)
    except (InvalidTag, ValueError, KeyringError):  # ValueError: too short for a nonce
        raise BadCommand("the key in this command is not wrapped for it: run the command again") from None


def _bound_to(node: int, nonce: str) -> bytes:
    return f"{nonce}/{node}".encode()


class CommandVerifier:
    """Verifies commands to one node. It remembers each command that it accepted until that has expired."""

    def __init__(self, node: int, keyring: Keyring, started: float) -> None:
        """`started`: Unix seconds. An earlier incarnation of the node may have executed commands from before that."""
        self._started = started
        self._node, self._key, self._answer_key = node, keyring.derive(KEY), keyring.derive(ACKNOWLEDGEMENTS)
        self._accepted = signed.ReplayCache()

    def read(self, text: str, now: float) -> AdminCommand:
        """The command in a signed text; accepted only once. Raises BadCommand."""
        try:
            command = signed.read(text, self._key, AdminCommand)
        except signed.NotSigned:
            raise BadCommand("this command is not signed with the keyring of this cluster") from None
        except signed.OtherVersion:
            raise BadCommand(
                "this command is from another version of Safelight: run the version that this node runs"
            ) from None
        self._accepted.forget(now)
        if command.node != self._node:
            raise BadCommand(f"this command is for node {command.node}, and this is node {self._node}")
        if not now < command.expires <= now + 2 * LIFETIME:
            raise BadCommand("this command has expired: run it again, and check that the machines' clocks agree")
        if command.expires - LIFETIME < self._started:
            raise BadCommand("this command was issued before the node started: run it again")
        if command in self._accepted:
            raise BadCommand("this command was executed already: run it again")
        self._accepted.add(command)
        return command

    def acknowledge(self, command: AdminCommand, current: str) -> str:
        """The signed acknowledgement of an executed command. `current`: the id of the current key."""
        return signed.write(Acknowledgement(self._node, command.nonce, current), self._answer_key)


def read_acknowledgement(text: str, command: AdminCommand, keyring: Keyring) -> Acknowledgement:
    """A node's acknowledgement of a command. Raises BadCommand."""
    try:
        acknowledgement = signed.read(text, keyring.derive(ACKNOWLEDGEMENTS), Acknowledgement)
    except (signed.NotSigned, signed.OtherVersion):
        raise BadCommand(
            "the process that answers at this address does not have the node secret, or runs another version"
        ) from None
    if (acknowledgement.node, acknowledgement.nonce) != (command.node, command.nonce):
        raise BadCommand("the answer is for another command")
    return acknowledgement
