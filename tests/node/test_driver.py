"""The driver of the election: effects are carried out before they are logged, and no failure stops its clock."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

import msgspec
import pytest

from safelight.config import Config
from safelight.election.bully import Election, Epoch, Kind, Timing
from safelight.node.election.driver import ElectionDriver, ElectionMessage
from safelight.node.election.health import HealthMonitor
from safelight.node.state.data_directory import DirectoryState
from safelight.node.work.load import LoadTracker
from safelight.node.work.scheduler import Scheduler
from tests.running import GENEROUS

BEAT = 0.05
HEALTHY = DirectoryState("", "", full="")


@dataclass
class Driven:
    """Node 1 or 2 of two, whose links lead nowhere; the other node is what the test says it is."""

    node: int = 1
    said: list[str] = field(default_factory=list)
    sent: list[Kind] = field(default_factory=list)
    saved: list[Epoch] = field(default_factory=list)
    broken: bool = False
    """Whether the disk refuses."""

    def __post_init__(self) -> None:
        self.health = HealthMonitor(self, self, leader_timeout=3 * BEAT, crashes=0, log=self.said.append)
        self.driver = ElectionDriver(
            Election(self.node, [1, 2], Timing.of(BEAT), now=asyncio.get_running_loop().time()),
            links=self,
            health=self.health,
            workload=Scheduler(Config(), 1, LoadTracker(1, 2, 60.0, 1, 0)),
            log=self.said.append,
        )
        self.health.bind(self.driver)

    def send(self, peer: int, frame: bytes) -> None:
        self.sent.append(msgspec.json.decode(frame, type=ElectionMessage).kind)

    def another_is_healthy(self) -> bool:
        return True

    def examine(self, known_peers: Collection[int]) -> DirectoryState:
        return HEALTHY

    def save_epoch(self, epoch: Epoch) -> None:
        if self.broken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.saved.append(epoch)

    def hear(self, peer: int = 2, **message: object) -> None:
        self.driver.received(
            peer, msgspec.json.encode({"kind": "heartbeat", "counter": 1, "epoch_leader": 2, **message})
        )


async def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + GENEROUS
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(BEAT / 5)


def in_loop(test: Callable[[Driven], Awaitable[None]]) -> None:
    async def go() -> None:
        it = Driven()
        try:
            await test(it)
        finally:
            it.health.stop()
            it.driver.stop()

    asyncio.run(go())


def followed(it: Driven) -> None:
    """Node 2 leads, node 1 follows."""
    it.driver.start()
    it.driver.connected(2, "incarnation")
    it.hear(kind="coordinator", leader=2)
    assert it.driver.leader == 2


def test_what_cannot_be_logged_is_carried_out() -> None:
    async def test(it: Driven) -> None:
        followed(it)

        def refuse(line: str) -> None:
            raise BrokenPipeError

        it.driver._log = refuse
        with pytest.raises(BrokenPipeError):
            it.driver.lost(2)
        await until(lambda: it.driver.leads)
        assert it.saved[-1] == it.driver.epoch
        it.sent.clear()
        it.driver._log = it.said.append
        it.driver.connected(2, "another incarnation")
        assert Kind.COORDINATOR in it.sent

    in_loop(test)


def test_a_node_that_cannot_save_its_epoch_does_not_lead_until_it_can() -> None:
    async def test(it: Driven) -> None:
        followed(it)
        await it.health.start()
        it.broken = True
        it.sent.clear()
        it.driver.lost(2)
        await until(lambda: any("ineligible" in line for line in it.said))
        assert not it.driver.leads
        assert Kind.COORDINATOR not in it.sent
        it.broken = False
        await until(lambda: it.driver.leads)
        assert "eligible to lead again" in it.said
        assert it.saved[-1] == it.driver.epoch

    in_loop(test)


def test_a_node_that_stops_is_never_eligible_again_whatever_had_failed() -> None:
    async def test(it: Driven) -> None:
        followed(it)
        it.broken = True
        it.driver.lost(2)
        await until(lambda: not it.driver.leads and bool(it.said))
        it.broken = False
        it.health.drain()
        it.health.observe("epoch", "")
        it.health.step_down(0.0)
        await it.health.start()
        assert not it.driver.leads
        assert it.said.count("eligible to lead again") == 0

    in_loop(test)


def test_an_operator_may_make_a_node_step_down_and_eligible_again() -> None:
    async def test(it: Driven) -> None:
        it.driver.start()
        await it.health.start()
        await until(lambda: it.driver.leads)
        it.health.step_down(3600.0)
        assert not it.driver.leads
        it.health.step_down(0.0)
        assert it.driver.leads

    in_loop(test)


def test_a_message_of_a_newer_version_is_understood_as_far_as_it_goes() -> None:
    async def test(it: Driven) -> None:
        it.driver.start()
        it.driver.connected(2, "incarnation")
        it.hear(kind="coordinator", leader=2, mood="cheerful")
        assert it.driver.leader == 2
        assert not [line for line in it.said if "understand" in line]

    in_loop(test)


def test_a_message_that_is_not_understood_is_logged_once_for_each_incarnation() -> None:
    async def test(it: Driven) -> None:
        def logged() -> int:
            return sum("understand" in line for line in it.said)

        it.driver.start()
        it.driver.connected(2, "incarnation")
        for _ in range(10):
            it.hear(kind="mutiny")
            it.driver.received(2, b"\xff")
        assert logged() == 1
        it.driver.connected(2, "another incarnation")
        it.hear(kind="mutiny")
        assert logged() == 2

    in_loop(test)


def test_a_returning_node_announces_once_that_it_leads() -> None:
    """It leads at once, and then learns of a later epoch than its own."""

    async def go() -> None:
        it = Driven(node=2)
        try:
            it.driver.start()
            await until(lambda: it.driver.leads)
            it.driver.connected(1, "incarnation")
            it.hear(1, kind="heartbeat", counter=8, epoch_leader=1, leader=1)
            await until(lambda: it.driver.leads and it.driver.epoch > Epoch(8, 1))
            assert sum("I am the new leader!" in line for line in it.said) == 1
            assert f"My epoch is {it.driver.epoch}, as a peer knew a later one" in it.said
        finally:
            it.health.stop()
            it.driver.stop()

    asyncio.run(go())
