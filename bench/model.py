"""Clusters that this machine has no room for: `python -m bench.model`, into docs/balance.md and its picture.

A discrete-event model of 3 to 100 nodes under three ways to share work: the leader does all; the leader assigns each
image to the node with the least to do, by the very rule that nodes run (`safelight.node.work.balance`); clients choose
a node at random. It is fed with costs measured by `bench.costs`, and seeded: its result is the same each time.

What it assumes: each node has one core of its own, and nothing else limits anybody, neither network nor disk. A message
takes `LATENCY`. Small messages (offers, grants, reports) go before images, and images of one node are worked on one
after the other. Clients are many, and cost nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import NamedTuple

from bench import results
from bench.costs import LARGE, Costs, load
from bench.picture import MODEL, model
from bench.speed import SMALL
from safelight.node.work.balance import Balancer, report_pause, weight

DOCUMENT = Path(__file__).parents[1] / "docs" / "balance.md"

SIZES = [3, 10, 30, 100]
LATENCY = 0.0002
"""Seconds that a message is on its way."""

CLIENTS = 8
"""At once, for each node, where the most is asked of a cluster."""

BUSY = 0.7
"""How much of that is asked where waiting is measured."""

IMAGES = 400
"""For each node; the first fifth does not count."""


class Mix(NamedTuple):
    """What people upload: which share of the images is large."""

    name: str
    large: float


MIXES = [Mix("one in five is large", 0.2), Mix("all are small", 0.0)]
POLICIES = ["leader", "least-loaded", "by chance"]


class Result(NamedTuple):
    rate: float
    """Images a second, when as many are asked for as can be."""
    messages: float
    """Which part of the leader's core goes on messages then."""
    waiting: float
    """Seconds that one image in a hundred waits beyond what it takes alone, when BUSY of that is asked for."""


class _Core:
    """One node's core: messages first, then images, each in the order in which they came."""

    def __init__(self) -> None:
        self._messages_done = self._all_done = 0.0
        self.on_messages = 0.0
        self.in_hand = 0
        self.begun: list[str] = []
        self.reporting = False

    def message(self, now: float, cost: float) -> float:
        """When it is done."""
        self._messages_done = max(self._messages_done, now) + cost
        self._all_done = max(self._all_done, now) + cost
        self.on_messages += cost
        return self._messages_done

    def image(self, now: float, cost: float) -> float:
        self._all_done = max(self._all_done, now) + cost
        return self._all_done


class _Run:
    """One cluster, with its clients, until it has done so many images."""

    def __init__(self, nodes: int, policy: str, mix: Mix, costs: Costs, images: int) -> None:
        self._costs, self._policy, self._mix, self._images = costs, policy, mix, images
        self._cores = [_Core() for _ in range(nodes)]
        self._leader = nodes - 1
        self._balance = Balancer()
        self._told = dict.fromkeys(range(nodes), 0)  # each worker's work, as the leader last heard
        self._chance = random.Random(f"{nodes} {policy} {mix.name}")
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = count()
        self.times: list[float] = []
        self.waits: list[float] = []

    def closed(self, clients: int) -> None:
        """So many clients, each of which always has another image."""
        for _ in range(clients):
            self._at(self._chance.random() / 100, lambda now: self._upload(now, then=lambda end: self._again(end)))
        self._go()

    def _again(self, now: float) -> None:
        self._upload(now, then=self._again)

    def open(self, rate: float) -> None:
        """Images come by themselves, so many a second (a Poisson process)."""

        def come(now: float) -> None:
            self._upload(now, then=lambda end: None)
            self._at(now + self._chance.expovariate(rate), come)

        self._at(0.0, come)
        self._go()

    def rate(self) -> float:
        counted = self.times[len(self.times) // 5 :]
        return (len(counted) - 1) / (counted[-1] - counted[0])

    def messages(self) -> float:
        return min(1.0, self._cores[self._leader].on_messages / self.times[-1])

    def waiting(self) -> float:
        counted = sorted(self.waits[len(self.waits) // 5 :])
        return counted[int(0.99 * len(counted))]

    # -- events --------------------------------------------------------------------------------------

    def _at(self, time: float, do: Callable[[float], None]) -> None:
        heappush(self._events, (time, next(self._numbers), do))

    def _go(self) -> None:
        while len(self.times) < self._images:
            time, _, do = heappop(self._events)
            do(time)

    def _upload(self, now: float, then: Callable[[float], None]) -> None:
        size = LARGE << 20 if self._chance.random() < self._mix.large else SMALL
        if self._policy == "by chance":
            self._send(now, now, self._chance.randrange(len(self._cores)), size, "", then, 2 * LATENCY)
            return
        arrives, granted = now + LATENCY, 0.0
        choosing = self._costs.choice * len(self._cores) if self._policy == "least-loaded" else 0.0
        for number, core in enumerate(self._cores):
            leads = number == self._leader
            done = core.message(arrives, self._costs.grant + choosing if leads else self._costs.decline)
            granted = done if leads else granted
        self._at(granted, lambda at: self._grant(at, now, size, then))

    def _grant(self, now: float, began: float, size: int, then: Callable[[float], None]) -> None:
        node, upload = self._leader, f"{next(self._numbers)}"
        if self._policy == "least-loaded":
            self._told[self._leader] = self._cores[self._leader].in_hand
            node = self._balance.assign(upload, size, self._told, now)
        self._send(now + LATENCY, began, node, size, upload, then, self._costs.grant + 4 * LATENCY)

    def _send(
        self, now: float, began: float, node: int, size: int, upload: str, then: Callable[[float], None], alone: float
    ) -> None:
        """`alone`: seconds that it would take if nobody else were there, beyond the work itself."""
        work, core = self._costs.image + size * self._costs.byte, self._cores[node]

        def take(at: float) -> None:
            core.in_hand += weight(size)
            self._changed(at, node, [upload])
            self._at(core.image(at, work), done)

        def done(at: float) -> None:
            core.in_hand -= weight(size)
            self._changed(at, node, [])
            self.times.append(at)
            self.waits.append(at + LATENCY - began - alone - work)
            self._at(at + LATENCY, then)

        self._at(now + LATENCY, take)

    def _changed(self, now: float, node: int, begun: list[str]) -> None:
        """A worker's load is another: it says so soon."""
        if self._policy != "least-loaded":
            return
        if node == self._leader:
            self._balance.started(begun)
            return
        core = self._cores[node]
        core.begun += begun
        if not core.reporting:
            core.reporting = True
            self._at(now + report_pause(len(self._cores)), lambda at: self._report(at, node))

    def _report(self, now: float, node: int) -> None:
        core = self._cores[node]
        in_hand, begun, core.begun, core.reporting = core.in_hand, core.begun, [], False
        sent = core.message(now, self._costs.report)

        def hear(at: float) -> None:
            self._told[node] = in_hand
            self._balance.started(begun)

        def arrive(at: float) -> None:
            self._at(self._cores[self._leader].message(at, self._costs.report), hear)

        self._at(sent + LATENCY, arrive)


def result_of(nodes: int, policy: str, mix: Mix, costs: Costs) -> Result:
    images = IMAGES * nodes
    full = _Run(nodes, policy, mix, costs, images)
    full.closed(CLIENTS * nodes)
    most = full.rate()
    calm = _Run(nodes, policy, mix, costs, images)
    calm.open(BUSY * most)
    return Result(most, full.messages(), calm.waiting())


Results = dict[tuple[str, int], dict[str, Result]]
"""By mix and number of nodes, then by policy."""


def results_of(costs: Costs) -> Results:
    return {
        (mix.name, nodes): {policy: result_of(nodes, policy, mix, costs) for policy in POLICIES}
        for mix in MIXES
        for nodes in SIZES
    }


def row(mix: str, nodes: int, found: dict[str, Result]) -> str:
    cells = [mix, f"{nodes}"]
    for policy in POLICIES:
        each = found[policy]
        cells += [f"{each.rate:,.0f}", f"{1000 * each.waiting:.0f} ms"]
        if policy == "least-loaded":
            cells.append(f"{100 * each.messages:.0f} %")
    return f"| {' | '.join(cells)} |\n"


HEAD = (
    "| images | nodes | leader: images/s | p99 wait | least-loaded: images/s | p99 wait | leader's core, on messages "
    "| random node: images/s | p99 wait |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
)


def main() -> None:
    found = results_of(load())
    table = HEAD + "".join(row(mix, nodes, by) for (mix, nodes), by in found.items())
    print(table)
    results.write("model", table, DOCUMENT)
    MODEL.write_text(model())


if __name__ == "__main__":
    main()
