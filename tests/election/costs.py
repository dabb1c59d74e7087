"""What a leader's death costs, in messages and time, ours and the textbook's: `python -m tests.election.costs`.

Measures clusters of up to 1,000 nodes in the simulated world (some minutes, 1 GB), and writes the table in
docs/election.md and the picture beside it. The picture is drawn from the table, so that the two agree.
"""

from __future__ import annotations

from math import log10
from pathlib import Path
from typing import NamedTuple

from safelight.bully import Timing

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
    world.advance(TIMING.silence)  # whatever else is said because of it
    return Cost(world.chatter() - said, round(took, 2))


def _textbooks(nodes: int, case: str) -> Cost:
    noticed = NOTICE if case == "leader killed" else TIMING.silence
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

WIDTH, HEIGHT, TOP, BOTTOM = 225, 320, 60, 60  # of a panel, and around it
LEFT, PANEL = 80, 490  # before a panel's axis; from panel to panel
LABEL = 15  # between two labels
INK = {"ours": "#b3261e", "textbook": "#44546a"}
DASHES = {"leader killed": "none", "leader hangs": "7 4", "upper half hangs": "2 3"}


def picture(rows: dict[int, Row]) -> str:
    panels = [
        _panel(0, "messages, without heartbeats", rows, 0, range(7)),
        _panel(1, "seconds until the next leader is followed by all", rows, 1, range(-2, 3)),
    ]
    height = TOP + HEIGHT + BOTTOM
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * PANEL} {height}" '
            'font-family="system-ui, sans-serif" font-size="12" role="img" aria-labelledby="t">',
            '  <title id="t">Messages and time that a failure of the leader costs, against the number of nodes</title>',
            f'  <rect width="{2 * PANEL}" height="{height}" fill="#fff"/>',
            *panels,
            "</svg>\n",
        ]
    )


def _panel(index: int, title: str, rows: dict[int, Row], field: int, decades: range) -> str:
    left, bottom = index * PANEL + LEFT, TOP + HEIGHT

    def x(nodes: int) -> float:
        return left + WIDTH * log10(nodes / SIZES[0]) / log10(SIZES[-1] / SIZES[0])

    def y(value: float) -> float:
        return bottom - HEIGHT * (log10(value) - decades[0]) / (len(decades) - 1)

    out = [f'  <text x="{left}" y="{TOP - 24}" font-size="15" font-weight="600">{title}</text>']
    for decade in decades:
        at = y(10.0**decade)
        out.append(f'  <path d="M{left} {at:.1f} H{left + WIDTH}" stroke="#ddd"/>')
        value = f"{10.0**decade:,.{max(-decade, 0)}f}"
        out.append(f'  <text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end" fill="#555">{value}</text>')
    out += [
        f'  <text x="{x(nodes):.1f}" y="{bottom + 20}" text-anchor="middle" fill="#555">{nodes}</text>'
        for nodes in SIZES
    ]
    out.append(f'  <text x="{left + WIDTH / 2}" y="{bottom + 42}" text-anchor="middle" fill="#555">nodes</text>')
    labels = []
    for column, (case, who) in enumerate((case, who) for case in CASES for who in INK):
        points = [(x(nodes), y(row[column][field])) for nodes, row in rows.items()]
        path = " L".join(f"{across:.1f} {down:.1f}" for across, down in points)
        style = f'stroke="{INK[who]}" stroke-width="2" stroke-dasharray="{DASHES[case]}"'
        out.append(f'  <path d="M{path}" fill="none" {style}/>')
        labels.append((points[-1][1], f"{who}, {case}", INK[who]))
    free = 0.0
    for at, label, ink in sorted(labels):
        free = max(at, free + LABEL)
        out.append(f'  <text x="{left + WIDTH + 8}" y="{free + 4:.1f}" fill="{ink}">{label}</text>')
    return "\n".join(out)


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
