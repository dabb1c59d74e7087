"""Random scenarios by the thousand: `python -m tests.election.simulate --seeds 1000 [--from 0]`.

A seed makes a scenario, in the language of the scenario files: faults for a while, then a quiet network
in whatever shape it was left, in which the nodes must come to rest as `check_rest` says. The world's own
checks hold throughout. A failing seed is cut down to a scenario that still fails, and written to a file.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from safelight.bully import Election, Phase

from .scenario import HEARTBEAT, TIMING, Scenario, rewrite
from .world import DELAY, NOTICE, Violation, World

ORDERS = ["messages-first", "timers-first"]
FAULTS = (
    ["kill"] * 2 + ["start"] * 3 + ["pause", "resume", "resume", "unready", "ready", "ready"]
    + ["partition", "cut", "mend", "drop", "drop", "break", "delay", "duplicate", "reorder", "weather", "heal", "heal"]
)  # fmt: skip
DRIFT = 0.05  # clocks may be off by this much


def bound(nodes: int) -> float:
    """Seconds after the last fault within which a group agrees on its highest eligible node.

    The last to notice may have taken a dead leader's part just now, by another's word, and then hear
    from the other that it has fallen silent: twice `silence`. A turn for every rank, twice, since a rival may
    be lost in mid-turn; an unanswered question, an answer without consequence, another question; a heartbeat to
    tell those who missed the COORDINATOR, and one for epochs to be outbid.
    """
    t = TIMING
    quiet = 2 * t.silence + 2 * nodes * t.turn + 2 * t.answer + t.coordinator + 2 * t.heartbeat
    return quiet * (1 + 2 * DRIFT) + 20 * DELAY + 2 * NOTICE


def generate(seed: int) -> list[str]:
    """The commands of one random scenario."""
    chance = random.Random(seed)
    nodes = list(range(1, chance.choice([1, 2, 3, 3, 3, 4, 5, 5, 6, 7]) + 1))
    everybody = " ".join(map(str, nodes))
    commands = [f"nodes {everybody}"]
    commands += [f"saved {node} {chance.choice([1, 5, 40])}" for node in nodes if chance.random() < 0.1]
    commands += [f"drift {node} {chance.uniform(1 - DRIFT, 1 + DRIFT):.3f}" for node in nodes if chance.random() < 0.5]
    if chance.random() < 0.5:
        commands.append(f"weather {_weather(chance, seed)}")
    order = chance.sample(nodes, len(nodes))
    if chance.random() < 0.5:
        commands.append(f"start {everybody}")
    else:
        for node in order:
            commands += [f"start {node}", f"advance {chance.choice([0, 5, 30, 300, 2000])}ms"]
    for _ in range(chance.randint(1, 12)):
        commands.append(_fault(chance, nodes))
        commands.append(f"advance {chance.choice([1, 12, 25, 100, 400, 1000, 3000, 3000, 8000, 8000])}ms")
    commands.append("weather")
    commands += [f"resume {node} {chance.choice(ORDERS)}" for node in nodes]
    if chance.random() < 0.6:
        commands.append("heal")
    return commands


def _fault(chance: random.Random, nodes: list[int]) -> str:
    one = chance.choice(nodes) if chance.random() < 0.6 else nodes[-1]
    two = chance.choice([node for node in nodes if node != one] or nodes)
    kind = chance.choice(FAULTS)
    match kind:
        case "resume":
            return f"resume {one} {chance.choice(ORDERS)}"
        case "partition" if len(nodes) > 1:
            mixed = chance.sample(nodes, len(nodes))
            at = chance.randint(1, len(nodes) - 1)
            return f"partition {' '.join(map(str, mixed[:at]))} | {' '.join(map(str, mixed[at:]))}"
        case "cut" | "mend" if one != two:
            return f"{kind} {one} {two}"
        case "drop" | "break" | "duplicate" | "reorder" if one != two:
            return f"{kind} {one}->{two}"
        case "delay" if one != two:
            return f"delay {one}->{two} {chance.choice([20, 100, 400, 1500])}ms"
        case "weather":
            return f"weather {_weather(chance, chance.randrange(10**6))}"
        case "kill" | "start" | "pause" | "unready" | "ready":
            return f"{kind} {one}"
    return "heal"


def _weather(chance: random.Random, seed: int) -> str:
    return (
        f"seed={seed} delay={chance.choice([0, 5, 50, 300])}ms loss={chance.choice([0, 0.02, 0.2])} "
        f"duplicate={chance.choice([0, 0.1])} reorder={chance.choice([0, 0.1])}"
    )


def run(commands: list[str], core: type[Election] = Election) -> Scenario:
    """Carry out a scenario, then leave it alone and check that it comes to rest.

    Raises `Violation`.
    """
    scenario = Scenario(core, silent=True)
    for command in commands:
        scenario.run(command)
        _check_resigned(scenario.world)
    check_rest(scenario.world)
    return scenario


def _check_resigned(world: World) -> None:
    """Nobody leads, nor is followed, that cannot lead and has said so."""
    for node, core in world.awake().items():
        if core.leads and not world.machines[node].ready:
            raise Violation(f"{node} leads, and cannot")
        leader = world.running().get(core.leader or 0)
        if leader is not None and not world.machines[core.leader or 0].ready and core.phase is Phase.WORKER:
            assert core.leader is not None
            if world.steady(node, core.leader) and world.steady(core.leader, node):
                raise Violation(f"{node} follows {core.leader}, which cannot lead")


def check_rest(world: World) -> None:
    """With no new fault in a timely network, the nodes agree within the bound, or at least come to rest."""
    world.set_weather(None)
    world.slow.clear()
    for node in world.machines:
        world.resume(node)
    world.advance(bound(len(world.machines)))
    running = world.running()
    groups = _groups(world)
    if groups is not None:
        for group in groups:
            able = [node for node in group if running[node].ready]
            leader = max(able, default=None)
            for node in group:
                core = running[node]
                settled = Phase.OBSERVER if leader is None else Phase.LEADER if node == leader else Phase.WORKER
                if core.leader != leader or core.phase is not settled:
                    raise Violation(f"{node} has leader {core.leader} ({core.phase.value}), and should have {leader}")
    else:  # they may learn one after the other, from the top down, that only a third node hears the leader
        world.advance(len(running) * (TIMING.silence + 2 * TIMING.heartbeat))
    changes, said = world.leader_changes, world.chatter()
    rest = 4 * TIMING.silence
    world.advance(rest)
    said = world.chatter() - said
    if world.leader_changes != changes:
        raise Violation("they go on changing leaders")
    if groups is not None and said:
        raise Violation(f"they agree, and go on talking: {said} messages")
    if said > 2 * len(running) ** 2 * rest / HEARTBEAT:
        raise Violation(f"they go on talking: {said} messages in {rest} s")
    top = max((node for node, core in running.items() if core.ready), default=None)
    for node, core in running.items():
        friends = [peer for peer in running if world.talk(node, peer)]
        if top in friends and (core.leader != top or core.phase is not Phase.WORKER):
            raise Violation(f"{node} and {top} hear each other, and {node} has leader {core.leader}")
        vouched = [running[peer].leader or 0 for peer in friends if world.talk(peer, running[peer].leader or 0)]
        if core.leads and max(vouched, default=0) > node:
            raise Violation(f"{node} leads, and a peer of it hears {max(vouched)}")
        if core.ready and core.leader is None:
            raise Violation(f"{node} could lead, and has no leader")


def _groups(world: World) -> list[set[int]] | None:
    """Who can talk with whom, if that divides the nodes neatly."""
    running = world.running()
    circles = {node: {node} | {other for other in running if world.reaches(node, other)} for node in running}
    if any(circles[node] != circles[other] for node in circles for other in circles[node]):
        return None
    return list({min(circle): circle for circle in circles.values()}.values())


def fails(commands: list[str], core: type[Election] = Election) -> str | None:
    try:
        run(commands, core)
    except Violation as violation:
        return str(violation)
    return None


def _kind(why: str | None) -> str:
    """What failed, whichever nodes and epochs it happened to."""
    return re.sub(r"[\d.]+", "", why or "")


def minimise(commands: list[str], still_fails: Callable[[list[str]], bool]) -> list[str]:
    """Leave out whatever can be left out, larger pieces first. The first command, `nodes`, stays."""
    size = len(commands) // 2
    while size:
        at = 1
        while at < len(commands):
            fewer = commands[:at] + commands[at + size :]
            if still_fails(fewer):
                commands = fewer
            else:
                at += size
        size //= 2
    return commands


def main() -> int:
    parser = argparse.ArgumentParser(description="Try random scenarios on the election.")
    parser.add_argument("--seeds", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed (0)")
    options = parser.parse_args()
    began = time.monotonic()
    for seed in range(options.first, options.first + options.seeds):
        commands = generate(seed)
        why = fails(commands)
        if why is not None:
            kind = _kind(why)
            commands = minimise(commands, lambda fewer, kind=kind: _kind(fails(fewer)) == kind)  # type: ignore[misc]
            path = Path(f"failing-{seed}.txt")
            path.write_text(
                f"# Seed {seed}: {fails(commands)}\n"
                + rewrite("\n".join([*commands, "stabilize", "advance 12s", "status"]))
            )
            print(f"\nSeed {seed} fails: {why}\nCut down to {len(commands)} commands in {path}")
            return 1
        done = seed - options.first + 1
        if done % 100 == 0 or done == options.seeds:
            print(f"\r{done} of {options.seeds} seeds, {done / (time.monotonic() - began):.0f}/s", end="", flush=True)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
