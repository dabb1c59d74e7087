"""How two nodes prove to each other that they belong to one cluster, before either believes a word.

    dialer   -> Hello      who I am, which cluster and keyring I have, a fresh nonce
    acceptor -> Hello      likewise, with its proof over both
    dialer   -> Proof      its own proof over both

A proof is an HMAC-SHA256 under a secret that only the cluster's nodes have, over both Hellos and the role
of whoever makes it: so neither a recording nor a reflection of it serves anybody else. The acceptor proves
itself first, so that what listens on a dead node's port learns nothing that it could use. Whoever refuses
says why, and both sides log it. (Mutual authentication as in ISO/IEC 9798-4, three passes.)

Unknown fields are ignored, and are not what a proof is over: nodes are replaced by newer ones one by one.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Annotated

import msgspec

from safelight.encryption.keys import MAX_KEYS, KeyId
from safelight.errors import SafelightError
from safelight.node.state.key_file import Keys


class Refused(SafelightError):
    """Why the peer is not believed."""


class Hello(msgspec.Struct):
    """One side's introduction. `life` is new with each start of the process; `proof` is the acceptor's.

    `keyring` is the check of the keyring, which must be the same on both sides. `keys` (ids) and `current` may differ,
    as they do amid a rotation.
    """

    cluster: str
    keyring: str
    node: int
    life: str
    nonce: str
    keys: Annotated[tuple[KeyId, ...], msgspec.Meta(max_length=MAX_KEYS)] = ()
    current: str = ""
    proof: str = ""


class Proof(msgspec.Struct):
    """The dialer's proof, or either side's refusal."""

    proof: str = ""
    refused: str = ""


class Party:
    """One node's side of every handshake: its identity and the secret that proves it."""

    def __init__(self, keys: Keys, node: int, life: str) -> None:
        self._keys = keys
        self._cluster, self._check = keys.ring.cluster_id, keys.ring.check
        self._secret = keys.ring.derive("peers")
        self.node = node
        self.life = life

    def hello(self) -> Hello:
        ring = self._keys.ring
        return Hello(
            cluster=self._cluster,
            keyring=self._check,
            node=self.node,
            life=self.life,
            nonce=secrets.token_hex(16),
            keys=tuple(key.id for key in ring.keys),
            current=ring.current_id,
        )

    def compare(self, other: Hello) -> None:
        """Raises Refused where the two could not work together, whatever they prove."""
        if other.cluster != self._cluster:
            raise Refused(
                f"node {other.node} belongs to cluster {_short(other.cluster)}, "
                f"node {self.node} to {_short(self._cluster)}"
            )
        if other.keyring != self._check:
            raise Refused(f"node {other.node} has another keyring than node {self.node}")
        if other.node == self.node:
            raise Refused(f"two nodes say that they are node {self.node}")

    def proof(self, role: str, dialer: Hello, acceptor: Hello) -> str:
        """The proof that `role` ("dialer" or "acceptor") makes over both Hellos."""
        said = [
            (side.cluster, side.node, side.life, side.nonce, side.keys, side.current) for side in (dialer, acceptor)
        ]
        spoken = msgspec.json.encode([role, said])
        return hmac.new(self._secret, spoken, hashlib.sha256).hexdigest()

    def check(self, proof: str, role: str, dialer: Hello, acceptor: Hello) -> None:
        """Raises Refused if `role` did not make this proof."""
        if not proof.isascii() or not hmac.compare_digest(proof, self.proof(role, dialer, acceptor)):
            node = (dialer if role == "dialer" else acceptor).node
            raise Refused(f"what says that it is node {node} does not have the cluster's secret")


def _short(cluster: str) -> str:
    return cluster[:8] if cluster.isalnum() else "?"
