"""Random scenarios by the thousand: `python -m tests.election.simulate --seeds 1000 [--from 0]`.

A seed makes a scenario, in the language of the scenario files: faults for a while, then a quiet network
in whatever shape it was left, in which the nodes must come to rest (`rest.py`). The world's own
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

from safelight.election.bully import Election

from .rest import DRIFT
from .scenario import Scenario, rewrite
from .world import Violation

CLEAR = "\x1b[K"  # the rest of the line (ECMA-48, EL)
ORDERS = ["messages-first", "timers-first"]
FAULTS = (
    ["kill"] * 2 + ["start"] * 3 + ["pause", "resume", "resume", "ineligible", "eligible", "eligible"]
    + ["partition", "cut", "reconnect", "drop", "drop", "break", "delay", "duplicate", "reorder"]
    + ["weather", "heal", "heal"]
)  # fmt: skip


def generate(seed: int) -> list[str]:
    """The commands of one random scenario."""
    chance = random.Random(seed)
    nodes = list(range(1, chance.choice([1, 2, 3, 3, 3, 4, 5, 5, 6, 7]) + 1))
    all_nodes = " ".join(map(str, nodes))
    commands = [f"nodes {all_nodes}"]
    commands += [f"saved {node} {chance.choice([1, 5, 40])}" for node in nodes if chance.random() < 0.1]
    commands += [f"drift {node} {chance.uniform(1 - DRIFT, 1 + DRIFT):.3f}" for node in nodes if chance.random() < 0.5]
    if chance.random() < 0.5:
        commands.append(f"weather {_weather(chance, seed)}")
    order = chance.sample(nodes, len(nodes))
    if chance.random() < 0.5:
        commands.append(f"start {all_nodes}")
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
        case "cut" | "reconnect" if one != two:
            return f"{kind} {one} {two}"
        case "drop" | "break" | "duplicate" | "reorder" if one != two:
            return f"{kind} {one}->{two}"
        case "delay" if one != two:
            return f"delay {one}->{two} {chance.choice([20, 100, 400, 1500])}ms"
        case "weather":
            return f"weather {_weather(chance, chance.randrange(10**6))}"
        case "kill" | "start" | "pause" | "ineligible" | "eligible":
            return f"{kind} {one}"
    return "heal"


def _weather(chance: random.Random, seed: int) -> str:
    return (
        f"seed={seed} delay={chance.choice([0, 5, 50, 300])}ms loss={chance.choice([0, 0.02, 0.2])} "
        f"duplicate={chance.choice([0, 0.1])} reorder={chance.choice([0, 0.1])}"
    )


def run(commands: list[str], core: type[Election] = Election) -> Scenario:
    """Carry out a scenario, then leave it alone and check that it comes to rest. Raises `Violation`."""
    scenario = Scenario(core, silent=True)
    for command in [*commands, "rest"]:
        scenario.run(command)
    return scenario


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


def search(
    first: int,
    seeds: int,
    directory: Path,
    core: type[Election] = Election,
    say: Callable[[str], None] = print,
    progress: Callable[[str], None] = lambda _: None,
) -> Path | None:
    """Try so many seeds; of one that fails, the file with the smallest scenario that fails likewise."""
    began = time.monotonic()
    for seed in range(first, first + seeds):
        commands = generate(seed)
        why = fails(commands, core)
        if why is not None:
            kind = _kind(why)
            commands = minimise(commands, lambda fewer, kind=kind: _kind(fails(fewer, core)) == kind)  # type: ignore[misc]
            path = directory / f"failing-{seed}.txt"
            path.write_text(f"# Seed {seed}: {fails(commands, core)}\n" + rewrite("\n".join([*commands, "rest"]), core))
            say(f"Seed {seed} fails: {why}\nCut down to {len(commands)} commands in {path}")
            return path
        done = seed - first + 1
        if done % 100 == 0:
            progress(f"{done} of {seeds} seeds, {done / (time.monotonic() - began):.0f}/s")
    say(f"{seeds} seeds from {first}, none failed, in {time.monotonic() - began:.0f} s")
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description="Try random scenarios on the election.")
    parser.add_argument("--seeds", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed (0)")
    options = parser.parse_args()
    found = search(options.first, options.seeds, Path(), say=_say, progress=_progress)
    return 0 if found is None else 1


def _say(text: str) -> None:
    print(f"\r{CLEAR}{text}" if sys.stdout.isatty() else text)


def _progress(text: str) -> None:
    """On a terminal alone: a log of a long run has no use for it."""
    if sys.stdout.isatty():
        print(f"\r{CLEAR}{text}", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
