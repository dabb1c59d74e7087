"""Scenarios as text: a line a command, what followed under `----`, a blank line after that.

    kill 3
    advance 2s
    ----
     1.020  2 leads in 2.2 (3: its link broke)
     1.020    2 -> 1  COORDINATOR 2.2

A line that begins with `#` is for the reader. Every command is a method below, named `do_...`;
`python -m pytest tests/election --rewrite` writes the transcripts again, to be reviewed as a diff.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from safelight.election.bully import Election, Epoch, Kind, Timing

from .rest import check_resigned, check_rest
from .world import Link, Violation, Weather, World

HEARTBEAT = 1.0  # seconds: so the scenarios' times read as heartbeats
TIMING = Timing.of(HEARTBEAT)


class Scenario:
    """Carries out commands and collects the transcript. The first command is `nodes`."""

    def __init__(self, core: type[Election] = Election, silent: bool = False) -> None:
        self.world = World([], TIMING)
        self._core = core
        self._silent = silent
        self.lines: list[str] = []

    def run(self, command: str) -> None:
        name, *words = command.split()
        getattr(self, "do_" + name)(*words)
        check_resigned(self.world)

    def _note(self, time: float, line: str) -> None:
        self.lines.append(f"{time:7.3f}  {line}")

    # -- processes -----------------------------------------------------------------------------------

    def do_nodes(self, *nodes: str) -> None:
        """`nodes 1 2 3`: the cluster; none of them runs yet."""
        self.world = World(map(int, nodes), TIMING, None if self._silent else self._note, self._core)

    def do_start(self, *nodes: str) -> None:
        for node in nodes:
            self.world.start(int(node), dials=False)
        self.world.unblock([])

    def do_kill(self, *nodes: str) -> None:
        for node in nodes:
            self.world.kill(int(node))

    def do_pause(self, *nodes: str) -> None:
        for node in nodes:
            self.world.pause(int(node))

    def do_resume(self, node: str, first: str = "messages-first") -> None:
        """`resume 3 timers-first`: what it processes first, the passed time or the waiting messages."""
        self.world.resume(int(node), first == "timers-first")

    def do_ineligible(self, *nodes: str) -> None:
        for node in nodes:
            self.world.set_eligible(int(node), False)

    def do_eligible(self, *nodes: str) -> None:
        for node in nodes:
            self.world.set_eligible(int(node), True)

    def do_drift(self, node: str, rate: str) -> None:
        """`drift 2 1.05`: the clock of node 2, from its next start on."""
        self.world.drift(int(node), float(rate))

    def do_saved(self, node: str, counter: str) -> None:
        """`saved 2 40`: node 2 has led in epoch 40.2, in another incarnation."""
        machine = self.world.machines[int(node)]
        if machine.election is None:
            machine.disk = max(machine.disk, Epoch(int(counter), int(node)))

    # -- the network ---------------------------------------------------------------------------------

    def do_partition(self, *words: str) -> None:
        """`partition 1 | 2 3`: nothing passes between the groups."""
        groups = [set(map(int, group.split())) for group in " ".join(words).split("|")]
        side = {node: index for index, group in enumerate(groups) for node in group}
        self.world.block([(a, b) for a in side for b in side if side[a] != side[b]])

    def do_cut(self, a: str, b: str) -> None:
        """`cut 2 3`: a cable; no node is notified."""
        self.world.block([(int(a), int(b)), (int(b), int(a))])

    def do_reconnect(self, a: str, b: str) -> None:
        self.world.unblock([(int(a), int(b)), (int(b), int(a))])

    def do_drop(self, link: str) -> None:
        """`drop 3->1`: what 3 sends to 1 is lost."""
        self.world.block([_link(link)])

    def do_break(self, link: str) -> None:
        """`break 2->3`: the connection breaks, and is dialled again at once."""
        self.world.break_link(_link(link))

    def do_delay(self, link: str, delay: str) -> None:
        self.world.slow[_link(link)] = _seconds(delay)

    def do_duplicate(self, link: str) -> None:
        self.world.duplicating.add(_link(link))

    def do_reorder(self, link: str) -> None:
        """`reorder 2->3`: every other message is overtaken by the next."""
        self.world.reordering.add(_link(link))

    def do_heal(self) -> None:
        """Undo partition, cut, drop, delay, duplicate and reorder."""
        self.world.heal()

    def do_weather(self, *words: str) -> None:
        """`weather seed=1 delay=50ms loss=0.1 duplicate=0.1 reorder=0.1`; `weather` alone: calm."""
        if not words:
            self.world.set_weather(None)
            return
        of = dict(word.split("=") for word in words)
        weather = Weather(
            int(of["seed"]), _seconds(of["delay"]), float(of["loss"]), float(of["duplicate"]), float(of["reorder"])
        )
        self.world.set_weather(weather)

    # -- time ----------------------------------------------------------------------------------------

    def do_advance(self, seconds: str) -> None:
        self.world.advance(_seconds(seconds))

    def do_rest(self) -> None:
        """Let a timely network run without faults: within the bound the cluster comes to rest, and remains so."""
        check_rest(self.world)

    def do_stabilize(self) -> None:
        """Let time pass until no node has changed its leader for a while, and sum up."""
        world = self.world
        begin = quiet_since = world.time
        changes = world.leader_changes
        while world.time - quiet_since < 2 * TIMING.leader_timeout:
            world.advance(HEARTBEAT)
            if world.leader_changes != changes:
                quiet_since, changes = world.time, world.leader_changes
            if world.time - begin > 60 * HEARTBEAT:
                raise Violation("they do not come to rest")
        self.do_status()

    def do_status(self) -> None:
        """Write down which leader each node follows."""
        for node, core in self.world.running().items():
            state = "paused" if self.world.machines[node].paused else core.phase.value
            self.lines.append(f"         = {node}: {state}, leader {core.leader or '-'}, epoch {core.epoch}")


def rewrite(text: str, core: type[Election] = Election) -> str:
    """Carry out a scenario's commands and return it with the transcripts that followed."""
    scenario = Scenario(core)
    out: list[str] = []
    for prose, commands in blocks(text):
        out += prose
        if commands:
            world, before = scenario.world, scenario.world.messages.copy()
            scenario.lines = []
            try:
                for command in commands:
                    scenario.run(command)
            except Violation as violation:
                scenario.lines.append(f"VIOLATION: {violation}")
                return "\n".join([*out, *commands, "----", *scenario.lines, ""])
            spent = scenario.world.messages - (before if scenario.world is world else Counter())
            heartbeats = spent.pop(Kind.HEARTBEAT, 0)
            if spent or heartbeats:
                scenario.lines.append(f"         {spent.total()} messages, {heartbeats} heartbeats")
            out += [*commands, "----", *scenario.lines, ""]
    return "\n".join(out).rstrip("\n") + "\n"


def commands(text: str) -> list[str]:
    return [command for _, block in blocks(text) for command in block]


def blocks(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """Split into (prose, commands), leaving the old transcripts out."""
    prose: list[str] = []
    commands: list[str] = []
    transcript = False
    for line in [*text.splitlines(), ""]:
        if transcript:
            if not line:
                transcript = False
                yield prose, commands
                prose, commands = [], []
        elif line == "----":
            transcript = True
        elif line and not line.startswith("#"):
            commands.append(line)
        elif commands:
            yield prose, commands
            prose, commands = [line] * bool(line), []
        else:
            prose.append(line)
    if prose:
        yield prose, []


def _link(text: str) -> Link:
    a, b = text.split("->")
    return int(a), int(b)


def _seconds(text: str) -> float:
    return float(text[:-2]) / 1000 if text.endswith("ms") else float(text.removesuffix("s"))
