"""Sequence diagrams from scenarios: `python -m pytest tests/election --rewrite` draws those in docs/election again.

A lifeline for every node, time downward and not to scale; red and thick where the node believes that it leads,
dotted where it is paused, absent where it is dead. What is drawn is what the transcript says, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools.svg import INK, MUTED, RED, dot, path, svg, text, text_width

from .scenario import rewrite

HERE = Path(__file__).parent
PICTURES = HERE.parents[1] / "docs" / "election"


class Diagram(NamedTuple):
    scenario: str
    first: int  # of its blocks, from 0
    last: int


DIAGRAMS = {
    "cold-start": Diagram("01-cold-start", 0, 0),
    "leader-crash": Diagram("03-leader-crash", 1, 2),
    "return-of-the-highest": Diagram("04-return-of-the-highest", 1, 1),
    "hung-leader": Diagram("08-hung-leader", 1, 2),
    "cut-link": Diagram("12-cut-link", 1, 1),
}

ENTRY = re.compile(r" *([\d.]+)  (\d+) (.+)")  # 7.020  2 leads in 2.2 (3: its link broke)
SPEECH = re.compile(r" *([\d.]+)    (\d+) -> (\d[\d ]*?)  (.+)")  # 7.020    2 -> 1  COORDINATOR 2.2
STATUS = re.compile(r" += (\d+): (\w+)")  # = 2: leader, leader 2, epoch 2.2
UNTOLD = ("nodes", "stabilize", "advance", "status")  # commands that only let time pass

TOP, ROW, GAP = 56, 32, 16  # pixels before the first row, from row to row, where time was skipped
LEAST = 176  # pixels between two lifelines
SKIPPED = 0.1  # seconds
STYLES = {"alive": (MUTED, 1.5, ""), "leads": (RED, 5.0, ""), "paused": (MUTED, 2.0, "2 5")}


def draw(diagram: Diagram) -> str:
    """The SVG of some blocks of a scenario."""
    scenario = rewrite((HERE / f"{diagram.scenario}.txt").read_text(encoding="utf-8"))
    blocks = list(_blocks(scenario))
    nodes = [int(node) for node in blocks[0][0][0].split()[1:]]
    shown = blocks[diagram.first : diagram.last + 1]
    sheet = _Sheet(nodes, blocks[diagram.first - 1][1] if diagram.first else [], shown)
    for commands, transcript in shown:
        sheet.block(commands, transcript)
    return sheet.finish(scenario.splitlines()[0].removeprefix("# "))


Block = tuple[list[str], list[str]]
"""Commands, and the transcript of what followed."""


def _blocks(scenario: str) -> Iterator[Block]:
    for paragraph in scenario.split("\n\n"):
        commands, rule, transcript = paragraph.partition("\n----\n")
        if rule:
            yield [line for line in commands.splitlines() if not line.startswith("#")], transcript.splitlines()


def _shown(commands: list[str]) -> str:
    return "; ".join(command for command in commands if not command.startswith(UNTOLD))


def _columns(nodes: list[int], blocks: list[Block]) -> tuple[dict[int, int], int]:
    """Where each node's lifeline is, and how wide the picture is: so that every text has room beside its lifeline."""
    first = max(text_width(_shown(commands), 13, monospace=True) for commands, _ in blocks)
    beside = dict.fromkeys(nodes, 0.0)
    for match in (match for _, transcript in blocks for line in transcript if (match := ENTRY.match(line))):
        beside[int(match[2])] = max(beside[int(match[2])], text_width(match[3], 13))
    step = max(LEAST, *(beside[node] + 40 for node in nodes[:-1]))
    left = max(128, first + 40)
    x = {node: 8 * round((left + step * column) / 8) for column, node in enumerate(nodes)}
    return x, 8 * round((x[nodes[-1]] + max(72, beside[nodes[-1]] + 40)) / 8)


class _Sheet:
    def __init__(self, nodes: list[int], before: list[str], shown: list[Block]) -> None:
        """`before` is the transcript whose last lines show what the nodes were when the picture begins."""
        self._x, self._width = _columns(nodes, shown)
        self._step = sorted(self._x.values())[1] - sorted(self._x.values())[0]
        self._y = TOP
        self._time = ""
        self._named: set[int] = set()  # nodes that have an entry in this row already
        self._states: dict[int, str] = {}
        self._since: dict[int, int] = {}
        self._paused: dict[int, str] = {}  # what they were
        self._lifelines: list[str] = []
        self._arrows: list[str] = []
        self._texts: list[str] = []
        for line in before:
            if match := STATUS.match(line):
                self._become(int(match[1]), "leads" if match[2] == "leader" else "alive")

    def block(self, commands: list[str], transcript: list[str]) -> None:
        self._row("")
        self._texts.append(text(16, self._y + 4, _shown(commands), fill=RED, monospace=True))
        for line in transcript:
            if match := SPEECH.match(line):
                self._speech(match[1], int(match[2]), [int(to) for to in match[3].split()], match[4])
            elif match := ENTRY.match(line):
                self._entry(match[1], int(match[2]), match[3])

    def finish(self, title: str) -> str:
        self._y += ROW
        for node in self._x:
            self._become(node, "")
        names = [text(x, 32, f"Node {node}", size=15, anchor="middle", bold=True) for node, x in self._x.items()]
        return svg(self._width, self._y + 16, [*names, *self._lifelines, *self._arrows, *self._texts], title)

    def _row(self, time: str) -> None:
        """Begin a new row."""
        skipped = time and self._time and float(time) - float(self._time) > SKIPPED
        self._y += ROW + (GAP if skipped else 0)
        self._named = set()
        if time and time != self._time:
            self._time = time
            self._texts.append(text(min(self._x.values()) - 24, self._y + 4, f"{time} s", anchor="end", fill=MUTED))

    def _entry(self, time: str, node: int, words: str) -> None:
        """What happened to a node, or what it has become; those of one moment stand side by side."""
        if time != self._time or node in self._named or not self._named:
            self._row(time)
        self._named.add(node)
        x, y = self._x[node], self._y
        verb = words.replace(",", "").split()[0]
        if verb == "pauses":
            self._paused[node] = self._states[node]
        states = {"dies": "", "pauses": "paused", "leads": "leads"}
        self._become(node, self._paused.pop(node) if verb == "resumes" else states.get(verb, "alive"))
        colour = RED if verb == "leads" else INK
        self._texts += [dot(x, y, 4, fill=colour), text(x + 12, y + 4, words, fill=colour)]

    def _speech(self, time: str, sender: int, receivers: list[int], words: str) -> None:
        self._row(time)
        start, y = self._x[sender], self._y
        self._texts.append(dot(start, y, 2.5))
        lost = words.endswith("(lost)")
        for receiver in receivers:
            end = (start + 8 * self._x[receiver]) // 9 if lost else self._x[receiver]
            if lost:
                self._texts += [path(f"M{end - 4} {y - 4} L{end + 4} {y + 4}", stroke=RED)]
                self._texts += [path(f"M{end - 4} {y + 4} L{end + 4} {y - 4}", stroke=RED)]
            self._arrows.append(path(f"M{start} {y} H{end}", thick=1.25, dashes="4 4" if lost else "", arrow=not lost))
        step = self._step if self._x[receivers[0]] > start else -self._step
        self._texts.append(text(start + step / 2, y - 7, words, size=12, anchor="middle"))

    def _become(self, node: int, state: str) -> None:
        """End the piece of lifeline that the node has drawn so far, and begin another."""
        before = self._states.get(node, "")
        if before:
            stroke, thick, dashes = STYLES[before]
            way = f"M{self._x[node]} {self._since[node]} V{self._y}"
            self._lifelines.append(path(way, stroke=stroke, thick=thick, dashes=dashes))
        self._states[node], self._since[node] = state, self._y
