"""Keys and the keyring: what differs, what stays the same, what is refused and what is never shown."""

import hashlib
import json
import os
from dataclasses import replace
from functools import reduce
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.encryption.errors import KeyringError
from safelight.encryption.keys import ClusterKey, Keyring, classic_key

KEYRING = Keyring.new(random=Random("a keyring").randbytes)
SECRETS = [KEYRING.node_secret, KEYRING.current.secret]


def test_two_users_of_a_cluster_have_different_keys() -> None:
    key = KEYRING.current
    assert len({key.user_key(user) for user in ("alice", "bob", "alicf", "Alice", "alice ", "aliçe")}) == 6
    assert len(key.user_key("alice")) == 16


def test_a_user_has_another_key_in_another_cluster_and_under_another_cluster_key() -> None:
    assert len({Keyring.new().current.user_key("alice") for _ in range(10)}) == 10


def test_the_classic_key_is_the_beginning_of_the_names_sha256() -> None:
    assert classic_key("zoë") == hashlib.sha256("zoë".encode()).digest()[:16]


@pytest.mark.parametrize("user", ["", "x" * 256, "é" * 128])
def test_a_name_that_no_file_can_hold_has_no_key(user: str) -> None:
    with pytest.raises(ValueError, match="1 to 255 bytes"):
        KEYRING.current.user_key(user)


def test_a_new_keyring_is_like_no_other() -> None:
    one, other = Keyring.new(), Keyring.new()
    assert one.cluster_id != other.cluster_id
    assert one.current.id != other.current.id
    assert one.check != other.check
    assert len(one.cluster_id) == 32
    assert len(one.current.id) == 16


def test_a_cluster_key_is_found_by_its_id() -> None:
    older = ClusterKey(os.urandom(32))
    keyring = replace(KEYRING, keys=(older, *KEYRING.keys))
    assert keyring.find(older.id) == older
    assert keyring.current == KEYRING.current
    assert keyring.find("0" * 16) is None


def test_subkeys_of_the_node_secret_differ_by_label() -> None:
    assert KEYRING.derive("tickets") != KEYRING.derive("peers")
    assert len(KEYRING.derive("tickets")) == 32
    assert KEYRING.node_secret not in (KEYRING.derive(""), KEYRING.derive("tickets"))


def test_the_check_is_the_clusters_whatever_keys_it_has() -> None:
    key = ClusterKey(os.urandom(32))
    assert replace(KEYRING, keys=(key,), current_id=key.id).check == KEYRING.check
    others = [replace(KEYRING, cluster_id="0" * 32), replace(KEYRING, node_secret=os.urandom(32))]
    assert len({KEYRING.check, *(keyring.check for keyring in others)}) == 3


# -- rotation: keyrings that went different ways end the same --


def dated(created: int | None) -> ClusterKey:
    return ClusterKey(os.urandom(32), created)


def test_a_new_key_waits_until_it_is_used_and_the_old_one_stays() -> None:
    key = dated(1)
    added = KEYRING.added(key)
    assert (added.current_id, added.waiting) == (KEYRING.current_id, key)
    used = added.using(key.id)
    assert (used.current, used.waiting) == (key, None)
    assert used.find(KEYRING.current_id) == KEYRING.current
    assert added.added(key) == added
    with pytest.raises(KeyringError):
        KEYRING.using(key.id)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.booleans()), max_size=20), st.randoms())
def test_whatever_order_nodes_hear_of_rotations_in_they_end_the_same(
    steps: list[tuple[int, int, bool]], shuffle: Random
) -> None:
    keys = [ClusterKey(bytes([number]) * 32, created) for number, created in enumerate((3, 1, 2, 2, 2, 9))]
    nodes = [KEYRING] * 4
    for node, number, use in steps:
        nodes[node] = nodes[node].added(keys[number])
        if use:
            nodes[node] = nodes[node].using(keys[number].id)
    orders = [shuffle.sample(nodes, len(nodes)) for _ in range(2)]
    one, other = (reduce(Keyring.merged, order + order) for order in orders)
    assert one == other
    assert {key.id for node in nodes for key in node.keys} == {key.id for key in one.keys}
    assert one.current_id in {node.current_id for node in nodes}
    assert all(one.keys.index(one.current) >= one.keys.index(node.current) for node in nodes)


def test_keyrings_of_two_clusters_do_not_merge() -> None:
    for other in (Keyring.new(), replace(KEYRING, node_secret=os.urandom(32))):
        with pytest.raises(KeyringError, match="two clusters"):
            KEYRING.merged(other)


def test_when_a_key_was_made_is_kept_and_may_be_missing() -> None:
    keyring = KEYRING.added(dated(1_700_000_000))
    assert [key.created for key in Keyring.from_json(keyring.to_json()).keys] == [None, 1_700_000_000]


def test_neither_the_keyring_nor_its_keys_show_a_secret() -> None:
    shown = repr(KEYRING) + str(KEYRING) + repr(KEYRING.current) + KEYRING.check
    assert_reveals_nothing(shown)


def test_a_keyring_survives_being_text() -> None:
    keyring = replace(KEYRING, keys=(ClusterKey(os.urandom(32)), *KEYRING.keys))
    assert Keyring.from_json(keyring.to_json()) == keyring


def changed(**fields: Any) -> bytes:
    """KEYRING's text with some top-level fields replaced, or removed where None."""
    read = json.loads(KEYRING.to_json()) | fields
    return json.dumps({name: value for name, value in read.items() if value is not None}).encode()


ENTRY = json.loads(KEYRING.to_json())["keys"][0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"[]", "malformed"),
        (b"[" * 100_000, "malformed"),
        (KEYRING.to_json()[:-9], "malformed"),
        (changed(version=3), "version 3"),
        (changed(version=None), "missing required field `version`"),
        (changed(cluster=None), "missing required field `cluster`"),
        (changed(cluster="0" * 31), r"\$.cluster"),
        (changed(cluster="G" * 32), r"\$.cluster"),
        (changed(node_secret=None), "missing required field `node_secret`"),
        (changed(node_secret="!" * 44), r"\$.node_secret"),
        (changed(node_secret="AAAA"), r"\$.node_secret"),
        (changed(current=None), "missing required field `current`"),
        (changed(current="0" * 16), "current key is not among"),
        (changed(keys=[]), "current key is not among"),
        (changed(keys=[ENTRY, ENTRY]), "twice"),
        (changed(keys=[ENTRY | {"secret": "AAAA"}]), r"\$.keys\[0\].secret"),
        (changed(keys=[ENTRY | {"id": "0" * 16}]), "does not fit its id"),
        (changed(keys=[ENTRY | {"id": "\x1b"}]), r"\$.keys\[0\].id"),
    ],
)
def test_a_malformed_keyring_is_refused_in_one_line_that_reveals_nothing(text: bytes, why: str) -> None:
    with pytest.raises(KeyringError, match=why) as caught:
        Keyring.from_json(text)
    assert_reveals_nothing(str(caught.value))
    assert "\n" not in str(caught.value)
    assert caught.value.__context__ is None


@given(st.data())
def test_a_keyring_with_changed_bytes_is_refused_or_well_formed(data: st.DataObject) -> None:
    text = bytearray(KEYRING.to_json())
    for at in data.draw(st.lists(st.integers(0, len(text) - 1), min_size=1, max_size=3)):
        text[at] = data.draw(st.integers(0, 255))
    try:
        read = Keyring.from_json(bytes(text))
    except KeyringError as error:
        assert_reveals_nothing(str(error))
    else:
        assert Keyring.from_json(read.to_json()) == read


def test_keyrings_whose_parts_do_not_fit_cannot_be_made() -> None:
    with pytest.raises(KeyringError, match="node secret"):
        replace(KEYRING, node_secret=bytes(31))
    with pytest.raises(KeyringError, match="32 bytes"):
        ClusterKey(bytes(33))
    with pytest.raises(KeyringError, match="cluster id"):
        replace(KEYRING, cluster_id="xyz")


def assert_reveals_nothing(text: str) -> None:
    written = KEYRING.to_json().decode()
    secrets = [json.loads(written)["node_secret"], ENTRY["secret"]]
    for secret in secrets + [key.hex() for key in SECRETS] + [repr(key)[2:-1] for key in SECRETS]:
        assert not any(secret[at : at + 8] in text for at in range(0, len(secret) - 8, 4))
