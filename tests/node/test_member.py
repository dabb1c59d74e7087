"""A node's seat in the election: what it does is done before it is told, and nothing that fails stops its clock."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
import pytest

from safelight.election.bully import Election, Epoch, Kind, Timing
from safelight.node.election.driver import Member, Wire
from safelight.node.election.health import Watch
from safelight.node.state.data_directory import DirectoryState
from tests.running import GENEROUS

BEAT = 0.05
WELL = DirectoryState("", "", full="")


@dataclass
class Seat:
    """Node 1 of 1 and 2, whose links lead nowhere; node 2 is what the test says it is."""

    said: list[str] = field(default_factory=list)
    sent: list[Kind] = field(default_factory=list)
    saved: list[Epoch] = field(default_factory=list)
    broken: bool = False
    """Whether the disk refuses."""

    def __post_init__(self) -> None:
        self.member = Member(
            Election(1, [1, 2], Timing.of(BEAT), now=asyncio.get_running_loop().time()),
            send=lambda peer, frame: self.sent.append(msgspec.json.decode(frame, type=Wire).kind),
            save=self.save,
            unsaved=lambda error: self.watch.observe("epoch", False, "cannot save"),
            loads=list,
            begun=list,
            heard=lambda peer, loads, begun: None,
            say=self.said.append,
        )
        self.watch = Watch(
            look=lambda: WELL,
            save=lambda: self.save(self.member.epoch),
            ready=self.member.ready,
            leader=lambda: self.member.settled(3 * BEAT),
            leads=lambda: self.member.leads,
            another_is_well=lambda: True,
            crashes=0,
            say=self.said.append,
        )

    def save(self, epoch: Epoch) -> None:
        if self.broken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.saved.append(epoch)

    def hear(self, **message: object) -> None:
        self.member.received(2, msgspec.json.encode({"kind": "heartbeat", "counter": 1, "epoch_leader": 2, **message}))


async def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + GENEROUS
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(BEAT / 5)


def in_loop(test: Callable[[Seat], Awaitable[None]]) -> None:
    async def go() -> None:
        seat = Seat()
        try:
            await test(seat)
        finally:
            seat.watch.stop()
            seat.member.stop()

    asyncio.run(go())


def followed(seat: Seat) -> None:
    """Node 2 leads, node 1 follows."""
    seat.member.start()
    seat.member.connected(2, "life")
    seat.hear(kind="coordinator", leader=2)
    assert seat.member.leader == 2


def test_what_cannot_be_told_is_done_all_the_same() -> None:
    async def test(seat: Seat) -> None:
        followed(seat)

        def refuse(line: str) -> None:
            raise BrokenPipeError

        seat.member._say = refuse
        with pytest.raises(BrokenPipeError):
            seat.member.lost(2)
        await until(lambda: seat.member.leads)
        assert seat.saved[-1] == seat.member.epoch
        seat.sent.clear()
        seat.member._say = seat.said.append
        seat.member.connected(2, "another life")
        assert Kind.COORDINATOR in seat.sent

    in_loop(test)


def test_a_node_that_cannot_save_its_epoch_does_not_lead_until_it_can() -> None:
    async def test(seat: Seat) -> None:
        followed(seat)
        await seat.watch.start()
        seat.broken = True
        seat.sent.clear()
        seat.member.lost(2)
        await until(lambda: any("standing back" in line for line in seat.said))
        assert not seat.member.leads
        assert Kind.COORDINATOR not in seat.sent
        seat.broken = False
        await until(lambda: seat.member.leads)
        assert "standing for election again" in seat.said
        assert seat.saved[-1] == seat.member.epoch

    in_loop(test)


def test_a_node_that_leaves_does_not_stand_again_whatever_had_failed() -> None:
    async def test(seat: Seat) -> None:
        followed(seat)
        seat.broken = True
        seat.member.lost(2)
        await until(lambda: not seat.member.leads and bool(seat.said))
        seat.broken = False
        seat.watch.leave()
        seat.watch.observe("epoch", True)
        seat.watch.step_down(0.0)
        await seat.watch.start()
        assert not seat.member.leads
        assert seat.said.count("standing for election again") == 0

    in_loop(test)


def test_an_operator_may_make_a_node_step_down_and_stand_again() -> None:
    async def test(seat: Seat) -> None:
        seat.member.start()
        await seat.watch.start()
        await until(lambda: seat.member.leads)
        seat.watch.step_down(3600.0)
        assert not seat.member.leads
        seat.watch.step_down(0.0)
        assert seat.member.leads

    in_loop(test)


def test_a_message_of_a_newer_version_is_understood_as_far_as_it_goes() -> None:
    async def test(seat: Seat) -> None:
        seat.member.start()
        seat.member.connected(2, "life")
        seat.hear(kind="coordinator", leader=2, mood="cheerful")
        assert seat.member.leader == 2
        assert not [line for line in seat.said if "understand" in line]

    in_loop(test)


def test_of_a_peer_that_is_not_understood_is_complained_once_in_its_life() -> None:
    async def test(seat: Seat) -> None:
        def complaints() -> int:
            return sum("understand" in line for line in seat.said)

        seat.member.start()
        seat.member.connected(2, "life")
        for _ in range(10):
            seat.hear(kind="mutiny")
            seat.member.received(2, b"\xff")
        assert complaints() == 1
        seat.member.connected(2, "another life")
        seat.hear(kind="mutiny")
        assert complaints() == 2

    in_loop(test)
