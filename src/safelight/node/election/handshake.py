"""How two nodes prove to each other that they belong to one cluster, before either believes the other.

    dialer   -> Hello      its node number, cluster and keyring, and a fresh nonce
    acceptor -> Hello      the same, with its proof over both
    dialer   -> Proof      its own proof over both

A proof is an HMAC-SHA256 under a secret that only the cluster's nodes have, over both Hellos and the role
of the side that makes it: so a recording or a reflection of it is useless. The acceptor proves itself first,
so that a process that listens on a dead node's port learns nothing that it could use. The side that refuses
gives the reason, and both sides log it. (Mutual authentication as in ISO/IEC 9798-4, three passes.)

Unknown fields are ignored, and no proof is over them: nodes are upgraded one at a time.
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
    """Why the handshake with a peer failed."""


class Hello(msgspec.Struct, rename={"incarnation": "life"}):
    """One side's introduction. `incarnation` is new with each start of the process; `proof` is the acceptor's.

    `keyring` is the check of the keyring, which must be the same on both sides. `keys` (ids) and `current` may differ,
    as they do during a rotation.
    """

    cluster: str
    keyring: str
    node: int
    incarnation: str
    nonce: str
    keys: Annotated[tuple[KeyId, ...], msgspec.Meta(max_length=MAX_KEYS)] = ()
    current: str = ""
    proof: str = ""


class Proof(msgspec.Struct):
    """The dialer's proof, or either side's refusal."""

    proof: str = ""
    refused: str = ""


class PeerIdentity:
    """One node's side of every handshake: its identity and the secret that proves it."""

    def __init__(self, keys: Keys, node: int, incarnation: str) -> None:
        self._keys = keys
        self._cluster, self._check = keys.ring.cluster_id, keys.ring.check
        self._secret = keys.ring.derive("peers")
        self.node = node
        self.incarnation = incarnation

    def hello(self) -> Hello:
        ring = self._keys.ring
        return Hello(
            cluster=self._cluster,
            keyring=self._check,
            node=self.node,
            incarnation=self.incarnation,
            nonce=secrets.token_hex(16),
            keys=tuple(key.id for key in ring.keys),
            current=ring.current_id,
        )

    def compare(self, other: Hello) -> None:
        """Raises Refused if the two cannot work together, whatever they prove."""
        if other.cluster != self._cluster:
            raise Refused(
                f"node {other.node} belongs to cluster {_short(other.cluster)}, "
                f"node {self.node} to {_short(self._cluster)}"
            )
        if other.keyring != self._check:
            raise Refused(f"node {other.node} has another keyring than node {self.node}")
        if other.node == self.node:
            raise Refused(f"two nodes claim to be node {self.node}")

    def proof(self, role: str, dialer: Hello, acceptor: Hello) -> str:
        """The proof that `role` ("dialer" or "acceptor") makes over both Hellos."""
        hellos = [
            (side.cluster, side.node, side.incarnation, side.nonce, side.keys, side.current)
            for side in (dialer, acceptor)
        ]
        return hmac.new(self._secret, msgspec.json.encode([role, hellos]), hashlib.sha256).hexdigest()

    def check(self, proof: str, role: str, dialer: Hello, acceptor: Hello) -> None:
        """Raises Refused if `role` did not make this proof."""
        if not proof.isascii() or not hmac.compare_digest(proof, self.proof(role, dialer, acceptor)):
            node = (dialer if role == "dialer" else acceptor).node
            raise Refused(f"the peer that claims to be node {node} does not have the cluster's secret")


def _short(cluster: str) -> str:
    return cluster[:8] if cluster.isalnum() else "?"
