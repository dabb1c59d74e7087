"""What befalls nodes in the tests of chaos: killed, stopped, suspended and started again, in an order drawn by dice."""

from __future__ import annotations

import random
import signal
import time
from enum import Enum

from safelight.node.state.crash_record import record_stop
from tests.running import Running

PAUSES = (0.0, 0.05, 0.2, 0.5, 1.0)
"""Seconds between two faults: none, within an election, longer than one. They are what a test does to the cluster;
nothing is expected to happen within them."""

FORGIVEN = 4
"""At every such start a node has forgotten its crashes: else the highest would soon be ineligible for a minute, and not
lead in most of the chaos, nor at its end. With three of them it is ineligible for four seconds."""


class Fate(Enum):
    UP = "up"
    STARTING = "starting"
    SUSPENDED = "suspended"
    LEAVING = "leaving"
    DOWN = "down"


Faults = dict[Fate, tuple[signal.Signals | None, ...]]

ALL: Faults = {
    Fate.UP: (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP),
    Fate.STARTING: (signal.SIGKILL, signal.SIGSTOP),
    Fate.SUSPENDED: (signal.SIGCONT, signal.SIGCONT, signal.SIGKILL),
    Fate.LEAVING: (signal.SIGKILL,),
    Fate.DOWN: (None,),  # it is started again
}
KILLS: Faults = {Fate.UP: (signal.SIGKILL,), Fate.STARTING: (signal.SIGKILL,), Fate.DOWN: (None,)}


class Chaos:
    """Strikes one node after the other, and leaves one at least that can work: without any, uploads may fail."""

    def __init__(self, cluster: Running, dice: random.Random, faults: Faults) -> None:
        self.kills = 0
        self._blows = faults
        self._cluster = cluster
        self._dice = dice
        self._fates = dict.fromkeys(cluster.config.addresses, Fate.UP)
        self._said = dict.fromkeys(cluster.config.addresses, 0)  # lines, before this incarnation
        self._starts = dict.fromkeys(cluster.config.addresses, 0)
        self._began = time.monotonic()

    def strike(self) -> None:
        self._look()
        up = [node for node, fate in self._fates.items() if fate is Fate.UP]
        spared = up if len(up) < 2 else []
        victims = [node for node in self._fates if node not in spared]
        if not spared:
            victims += [max(up)] * 2  # it leads, or will soon
        node = self._dice.choice(victims)
        self._do(node, self._dice.choice(self._blows[self._fates[node]]))
        time.sleep(self._dice.choice(PAUSES))

    def make_good(self) -> None:
        """Let every node run."""
        for node, fate in self._fates.items():
            if fate is Fate.SUSPENDED:
                self._do(node, signal.SIGCONT)
        for node, fate in self._fates.items():
            if fate is Fate.LEAVING:
                self._cluster.wait_until_ended(node)
        self._look()
        for node, fate in self._fates.items():
            if fate is Fate.DOWN:
                self._do(node, None)

    def _look(self) -> None:
        """What has become of nodes since they were struck."""
        for node, fate in self._fates.items():
            if fate is Fate.STARTING and any("listening on" in line for line in self._lines(node)):
                self._fates[node] = Fate.UP
            if node not in self._cluster.cluster.running:
                assert fate in (Fate.LEAVING, Fate.DOWN), f"node {node} ended by itself: {self._lines(node)}"
                self._fates[node] = Fate.DOWN

    def _do(self, node: int, blow: signal.Signals | None) -> None:
        print(f"{time.monotonic() - self._began:6.2f} s: {blow.name if blow else 'start'} {node}")
        match blow:
            case None:
                self._said[node] = len(self._cluster.said(node))
                self._starts[node] += 1
                if self._starts[node] % FORGIVEN == 0:
                    record_stop(self._cluster.config.data_dir, node)
                self._cluster.cluster.start(node)
                self._fates[node] = Fate.STARTING
            case signal.SIGSTOP:
                self._cluster.suspend(node)
                self._fates[node] = Fate.SUSPENDED
            case signal.SIGCONT:
                self._cluster.cluster.kill(node, blow)
                self._fates[node] = Fate.STARTING  # which it may have been: its lines tell
            case signal.SIGTERM:
                self._cluster.cluster.kill(node, blow)
                self._fates[node] = Fate.LEAVING
            case _:
                self.kills += 1
                self._cluster.cluster.kill(node, blow)
                self._fates[node] = Fate.DOWN

    def _lines(self, node: int) -> list[str]:
        """What a node has said in this incarnation."""
        return self._cluster.said(node)[self._said[node] :]
