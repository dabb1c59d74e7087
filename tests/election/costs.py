"""What a leader's death costs, in messages and time, ours and the textbook's: `python -m tests.election.costs`.

Measures clusters of up to 1,000 nodes in the simulated world (some minutes, 1 GB), and writes the table in
docs/election.md and the picture beside it. The picture is drawn from the table, so that the two agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tools.chart import Series, lines
from tools.svg import BLUE, RED, svg

from safelight.election.bully import Timing

from .textbook import Textbook
from .world import NOTICE, World

DOCUMENT = Path(__file__).parents[2] / "docs" / "election.md"
PICTURE = DOCUMENT.parent / "election" / "messages.svg"
BEGIN, END = "<!-- costs: begin -->\n", "<!-- costs: end -->\n"

SIZES = [3, 10, 30, 100, 300, 1000]
TIMING = Timing.of(0.5)  # the default
CASES = ["leader killed", "leader hangs", "upper half hangs"]


class Cost(NamedTuple):
    messages: int  # heartbeats not counted
    seconds: float  # from the fault until all who are left follow the next leader


Row = tuple[Cost, ...]  # for each case: ours, the textbook's


def measure(nodes: int) -> Row:
    return tuple(cost for case in CASES for cost in (_ours(nodes, case), _textbooks(nodes, case)))


def _survivors(nodes: int, case: str) -> int:
    return nodes // 2 if case == "upper half hangs" else nodes - 1


def _ours(nodes: int, case: str) -> Cost:
    """The cost where the fault comes just after a heartbeat, which makes a hung leader's silence the longest."""
    world = World(range(1, nodes + 1), TIMING)
    for node in world.machines:
        world.start(node, dials=False)
    world.unblock([])
    world.advance(TIMING.settle + 5 * TIMING.heartbeat + 0.03)
    said, began, survivors = world.chatter(), world.time, _survivors(nodes, case)
    for node in range(survivors + 1, nodes + 1):
        (world.kill if case == "leader killed" else world.pause)(node)
    while any(world.running()[node].leader != survivors for node in range(1, survivors + 1)):
        world.advance(0.001)
    took = world.time - began
    world.advance(TIMING.leader_timeout)  # whatever else is said because of it
    return Cost(world.chatter() - said, round(took, 2))


def _textbooks(nodes: int, case: str) -> Cost:
    noticed = NOTICE if case == "leader killed" else TIMING.leader_timeout
    survivors = _survivors(nodes, case)
    election = Textbook(nodes, range(1, survivors + 1), TIMING, noticed)
    assert set(election.leader.values()) == {survivors}
    return Cost(election.messages, round(election.agreed, 2))


# -- the table ---------------------------------------------------------------------------------------


def table(rows: dict[int, Row]) -> str:
    lines = ["| nodes | " + " | ".join(f"{case}: ours | textbook" for case in CASES) + " |"]
    lines.append("|--:" * (1 + 2 * len(CASES)) + "|")
    for nodes, row in rows.items():
        cells = [f"{cost.messages:,} in {cost.seconds:.2f} s" for cost in row]
        lines.append(f"| {nodes:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def read(document: str) -> dict[int, Row]:
    """The rows of the table in docs/election.md."""
    rows: dict[int, Row] = {}
    for line in document.partition(BEGIN)[2].partition(END)[0].splitlines()[2:]:
        nodes, *cells = (cell.strip().replace(",", "") for cell in line.strip("|").split("|"))
        pairs = (cell.removesuffix(" s").split(" in ") for cell in cells)
        rows[int(nodes)] = tuple(Cost(int(messages), float(seconds)) for messages, seconds in pairs)
    return rows


# -- the picture -------------------------------------------------------------------------------------

COLOURS = {"Safelight": RED, "textbook": BLUE}
DASHES = {"leader killed": "", "leader hangs": "8 4", "upper half hangs": "2 4"}


def picture(rows: dict[int, Row]) -> str:
    return svg(
        720,
        736,
        [
            *lines(8, "Messages, without heartbeats", "nodes", _series(rows, 0), range(7)),
            *lines(368, "Seconds until all follow the next leader", "nodes", _series(rows, 1), range(-2, 3)),
        ],
        "Messages and seconds that a failure of the leader costs, by number of nodes",
    )


def _series(rows: dict[int, Row], field: int) -> list[Series]:
    kinds = [(case, who) for case in CASES for who in COLOURS]
    return [
        Series(
            f"{who}, {case}", COLOURS[who], DASHES[case], [(nodes, row[column][field]) for nodes, row in rows.items()]
        )
        for column, (case, who) in enumerate(kinds)
    ]


def main() -> None:
    rows = {}
    for nodes in SIZES:
        rows[nodes] = measure(nodes)
        print(table({nodes: rows[nodes]}).splitlines()[-1], flush=True)
    PICTURE.write_text(picture(rows), encoding="utf-8")
    document = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = document.partition(BEGIN)
    DOCUMENT.write_text(before + BEGIN + table(rows) + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
