"""Whom a leader gives an image to: the rule itself, without nodes."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy

from hypothesis import given
from hypothesis import strategies as st

from safelight.node.work.balance import FIXED, UNUSED, Balancer, weight

IDLE = {1: 0, 2: 0, 3: 0}
MEBIBYTE = 1 << 20


def weighs(balance: Balancer, node: int, expected: int, now: float = 0) -> bool:
    """Whether a node's unused grants weigh so much: it is chosen over a node that has more in hand, and not over one
    that has less.
    """
    other = max(IDLE) + 1

    def chosen(own: int, others: int) -> int:
        return deepcopy(balance).assign("probe", 0, {node: own, other: others}, now)

    return chosen(0, expected + 1) == node and chosen(1, expected) == other


def test_idle_nodes_take_turns() -> None:
    balance = Balancer()
    chosen = [balance.assign(f"{number}", 100, IDLE, now=number * (UNUSED + 1)) for number in range(9)]
    assert chosen[:3] == chosen[3:6] == chosen[6:]
    assert {*chosen[:3]} == {*IDLE}


def test_what_was_granted_weighs_until_it_has_begun() -> None:
    balance = Balancer()
    first = balance.assign("large", 100 * MEBIBYTE, IDLE, now=0)
    assert first not in [balance.assign(f"{number}", 100, IDLE, now=0) for number in range(20)]
    balance.started(["large"])
    assert first == balance.assign("next", 100, IDLE, now=0)


def test_who_has_much_in_hand_gets_less() -> None:
    balance = Balancer()
    in_hand = {1: 10 * weight(MEBIBYTE), 2: 0, 3: 0}
    chosen = Counter(balance.assign(f"{number}", MEBIBYTE, in_hand, now=0) for number in range(33))
    assert chosen[1] < chosen[2]
    assert abs(chosen[2] - chosen[3]) <= 1


def test_a_grant_that_nobody_uses_is_forgotten() -> None:
    balance = Balancer()
    node = balance.assign("lost", 100 * MEBIBYTE, IDLE, now=0)
    assert weighs(balance, node, weight(100 * MEBIBYTE))
    following = balance.assign("next", 0, IDLE, now=UNUSED)
    assert all(weighs(balance, each, FIXED if each == following else 0, now=UNUSED) for each in IDLE)


def test_a_lost_node_owes_nothing() -> None:
    balance = Balancer()
    node = balance.assign("upload", MEBIBYTE, IDLE, now=0)
    balance.lost(node)
    assert weighs(balance, node, 0)


def test_an_upload_that_is_offered_again_counts_once() -> None:
    balance = Balancer()
    nodes = [balance.assign("upload", MEBIBYTE, IDLE, now=0) for _ in range(5)]
    assert all(weighs(balance, each, weight(MEBIBYTE) if each == nodes[-1] else 0) for each in IDLE)


def test_what_a_user_was_granted_and_does_not_use_is_known() -> None:
    balance = Balancer()
    for number in range(3):
        balance.assign(f"{number}", 100, IDLE, now=0, user="alice")
    balance.assign("another's", 100, IDLE, now=0, user="bob")
    assert (balance.unused("alice"), balance.unused("bob"), balance.unused("carol")) == (3, 1, 0)
    balance.started(["0"])
    assert balance.unused("alice") == 2
    balance.forget(UNUSED)
    assert balance.unused("alice") == 0


UPLOADS = st.sampled_from("abcdefgh")
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("assign"), UPLOADS, st.integers(0, 50 * MEBIBYTE)),
        st.tuples(st.just("begun"), UPLOADS, st.just(0)),
        st.tuples(st.just("lost"), st.just(""), st.integers(1, 3)),
        st.tuples(st.just("wait"), st.just(""), st.integers(0, 3)),
    )
)


@given(EVENTS)
def test_promises_are_what_was_assigned_and_neither_begun_nor_lost_nor_old(events: list[tuple[str, str, int]]) -> None:
    balance, now = Balancer(), 0.0
    open_: dict[str, tuple[int, int, float]] = {}
    for kind, upload, number in events:
        match kind:
            case "assign":
                open_ = {key: grant for key, grant in open_.items() if grant[2] > now and key != upload}
                sums = {node: sum(grant[1] for grant in open_.values() if grant[0] == node) for node in IDLE}
                node = balance.assign(upload, number, IDLE, now)
                assert sums[node] == min(sums.values())
                open_[upload] = (node, weight(number), now + UNUSED)
            case "begun":
                balance.started([upload])
                open_.pop(upload, None)
            case "lost":
                balance.lost(number)
                open_ = {key: grant for key, grant in open_.items() if grant[0] != number}
            case _:
                now += number
        if kind == "assign":
            for each in IDLE:
                assert weighs(balance, each, sum(grant[1] for grant in open_.values() if grant[0] == each), now)
