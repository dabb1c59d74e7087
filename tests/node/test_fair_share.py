"""Fair shares of a node's places: whose transfers are taken, and whose are closed for others. Without nodes."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from safelight.node.work.fair_share import WAITING, WINDOW, FairShares, Slot
from safelight.wire.messages import Problem, Refusal

MOST, HARD, RATE = 8, 16, 1000.0


class Desk:
    """A node's places, a clock, and clients that ask for one."""

    def __init__(self, stack: ExitStack) -> None:
        self.now = 0.0
        self.it = FairShares(MOST, HARD, RATE, clock=lambda: self.now)
        self._stack = stack

    def take(self, user: str, *, active: bool = True) -> Slot:
        return self._stack.enter_context(self.it.slot(user, active=active))

    def ask(self, user: str) -> Slot | None:
        if self.it.takes(user):
            return self.take(user)
        self.it.refused(user)
        return None

    def many(self, user: str) -> list[Slot]:
        """As many as the user gets."""
        places = []
        while place := self.ask(user):
            places.append(place)
        return places


def closed(place: Slot) -> bool:
    try:
        place.moved(0.0, 0)
    except Refusal as refusal:
        return refusal.problem is Problem.STALLED
    return False


def test_who_is_alone_gets_all_places_and_others_their_share_beyond_them() -> None:
    with ExitStack() as stack:
        desk = Desk(stack)
        assert len(desk.many("alice")) == MOST
        assert len(desk.many("bob")) == MOST // 2
        assert len(desk.many("carol")) == MOST // 3
        assert desk.ask("alice") is None


def test_what_a_user_holds_beyond_its_share_is_not_given_again_while_others_are_below_theirs() -> None:
    with ExitStack() as theirs, ExitStack() as stack:
        desk, alices = Desk(stack), [ExitStack() for _ in range(MOST)]
        for each in alices:
            each.enter_context(desk.it.slot("alice"))
        desk.many("bob")
        alices[0].close()
        assert desk.ask("alice") is None
        for each in alices[1:]:
            each.close()
        theirs.close()
        assert len(desk.many("alice")) == MOST // 2


def test_a_newcomer_is_taken_where_the_utmost_is_reached_for_the_slowest_of_who_has_the_most() -> None:
    with ExitStack() as stack:
        desk = Desk(stack)
        first = desk.ask("bob")
        assert first is not None
        places = [desk.take("alice", active=False) for _ in range(HARD - 1)]
        places[3].moved(WINDOW, 5)
        assert desk.ask("carol") is not None
        assert [number for number, place in enumerate(places) if closed(place)] == [3]
        assert not closed(first)
        assert desk.it.total == HARD


def test_with_more_users_than_places_each_holds_one_and_the_next_waits_for_one_of_them() -> None:
    with ExitStack() as stack:
        desk = Desk(stack)
        with ExitStack() as first:
            first.enter_context(desk.it.slot("0"))
            for number in range(1, HARD):
                assert desk.ask(f"{number}") is not None
            assert desk.ask("late") is None
        assert desk.ask("1") is None
        assert desk.ask("late") is not None


def test_what_is_too_slow_is_closed_while_another_waits_and_not_before_and_the_slowest_first() -> None:
    with ExitStack() as stack:
        desk = Desk(stack)
        places = desk.many("alice")
        for number, place in enumerate(places):
            place.moved(WINDOW, int(WINDOW * RATE) - 4 + number)
        assert desk.ask("alice") is None  # who waits for itself closes nothing
        assert not any(map(closed, places))
        desk.many("bob")
        slow = [place.rate is not None and place.rate < RATE for place in places]
        assert slow == [True] * 4 + [False] * 4
        assert [closed(place) for place in places] == slow


def test_a_rate_is_not_known_before_it_was_waited_for_long_enough() -> None:
    with ExitStack() as stack:
        desk = Desk(stack)
        places = desk.many("alice")
        for place in places:
            place.moved(WINDOW - 0.1, 1)
        assert len(desk.many("bob")) == MOST // 2
        assert not any(map(closed, places))


def test_who_crawls_takes_nobodys_place() -> None:
    with ExitStack() as stack:
        desk = Desk(stack)
        for place in desk.many("alice"):
            place.set_slow(True)
        assert desk.it.free_slots == MOST
        assert len(desk.many("alice")) == MOST
        assert desk.it.free_slots == 0


def test_who_was_refused_has_a_share_kept_for_a_while() -> None:
    with ExitStack() as stack:
        desk = Desk(stack)
        for _ in range(MOST // 2):
            desk.take("bob")
        desk.it.refused("carol")
        desk.it.refused("dave")
        assert len(desk.many("alice")) == MOST // 2
        assert desk.ask("bob") is None
        assert desk.it.takes("carol")
        desk.now = WAITING + 1
        assert len(desk.many("erin")) == MOST // 3


@given(
    steps=st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["ask", "end", "crawl"])), max_size=200),
)
def test_whatever_happens_the_utmost_holds_and_a_user_without_a_place_gets_one(steps: list[tuple[str, str]]) -> None:
    with ExitStack() as everything:
        desk = Desk(everything)
        held: list[tuple[Slot, ExitStack]] = []
        for user, step in steps:
            own = [each for each in held if each[0].user == user]
            match step:
                case "ask":
                    takes = desk.it.takes(user)
                    assert takes or own
                    if takes:
                        stack = everything.enter_context(ExitStack())
                        held.append((stack.enter_context(desk.it.slot(user)), stack))
                case "end" if own:
                    own[0][1].close()
                    held.remove(own[0])
                case "crawl" if own:
                    own[-1][0].set_slow(True)
            held = [each for each in held if not closed(each[0])]
            assert desk.it.total == len(held) <= HARD
            assert desk.it.active == sum(place.active for place, _ in held)
            users = Counter(place.user for place, _ in held)
            assert all(desk.it.held(user) == users[user] for user in "abcdef")
