"""Draws what was measured, from what is checked in: `make pictures` repeats it without measuring again."""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from tools.chart import Series, legend, lines, stacks
from tools.svg import BLUE, GREEN, MUTED, RED, path, rectangle, svg, text

from bench import results

HERE = Path(__file__).parent
SPEED, BALANCE, MODEL = HERE / "speed.svg", HERE / "balance.svg", HERE.parent / "docs" / "balance-model.svg"
SECONDS = HERE / "balance.json"
"""For each run, second by second, the megabytes of work that nodes 1, 2 and 3 did."""

WIDTH = 720


class Bar(NamedTuple):
    """What was measured in one place: Safelight's speed as a multiple of the peer's, and the goal for that."""

    where: str
    ratio: float
    goal: float
    met: bool


def speed() -> str:
    """A bar for each ratio in the table of RESULTS.md, with a mark at its goal."""
    found = [
        (
            f"{what.replace('`', '')}, compared with {known[1]}",
            Bar(where, float(ratio), float(least[1]), "missed" not in wanted),
        )
        for what, where, _, their, ratio, wanted, _ in results.rows("speed")
        if (known := re.search(r"\((.+)\)", their)) and (least := re.match(r"≥ ([\d.]+) ×", wanted)) and ratio
    ]
    left, scale = 104, (WIDTH - 104 - 80) / max(max(bar.ratio, bar.goal) for _, bar in found)
    title, top = "Speed as a multiple of the peer's; the mark is the goal", 80
    parts = [text(16, 32, title, size=16, bold=True), *legend(16, 64, [("goal met", BLUE), ("goal missed", RED)])]
    for name, bars in groupby(found, key=lambda each: each[0]):
        parts.append(text(16, top + 20, name, size=14))
        top += 32
        for _, (where, ratio, goal, met) in bars:
            mark = left + goal * scale
            parts += [
                text(left - 8, top + 15, where, size=14, anchor="end", fill=MUTED),
                rectangle(left, top, ratio * scale, 20, fill=BLUE if met else RED, radius=2),
                path(f"M{mark:.1f} {top - 3} V{top + 23}", thick=2),
                text(left + max(ratio, goal) * scale + 10, top + 15, f"{ratio:.2f}", size=14),
            ]
            top += 28
        top += 8
    return svg(WIDTH, top + 16, parts, title)


def balance() -> str:
    """For each run, second by second, the work that each node did."""
    runs: dict[str, list[list[float]]] = json.loads(SECONDS.read_text())
    most = 10 * -int(-max(sum(nodes) for seconds in runs.values() for nodes in seconds) // 10)
    colours, top = (BLUE, GREEN, RED), 48
    parts = legend(16, 32, [(f"node {node}", colour) for node, colour in enumerate(colours, start=1)])
    for name, seconds in runs.items():
        parts += stacks(top, f"Balance {name}: MB of work a second", "seconds", seconds, colours, most)
        top += 240
    return svg(WIDTH, top, parts, "How much work each node did, second by second")


POLICIES = {"leader": RED, "least-loaded": BLUE, "random node": GREEN}
MIXES = {"one in five is large": ("20 % large", ""), "all are small": ("all small", "6 4")}


def model() -> str:
    """Images a second against the number of nodes, from the table in docs/balance.md."""
    table = results.rows("model", HERE.parent / "docs" / "balance.md")
    series = [
        Series(
            f"{policy}, {name}",
            colour,
            dashes,
            [(float(row[1]), float(row[column].replace(",", ""))) for row in table if row[0] == mix],
        )
        for mix, (name, dashes) in MIXES.items()
        for (policy, colour), column in zip(POLICIES.items(), (2, 4, 7), strict=True)
    ]
    title = "Images a second, by number of nodes (model)"
    return svg(WIDTH, 368, lines(8, title, "nodes", series, range(2, 6)), title)


PICTURES = {SPEED: speed, BALANCE: balance, MODEL: model}
