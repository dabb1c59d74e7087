"""Sequence diagrams from scenarios: `python -m pytest tests/election --rewrite` draws those in docs/election anew.

A lifeline for every node, time downward and not to scale; red and thick where the node believes that it leads,
dotted where it is paused, absent where it is dead. What is drawn is what the transcript says, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

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

LEFT, COLUMN, RIGHT = 200, 245, 225  # pixels: before the first lifeline, between two, after the last
TOP, ROW, GAP = 60, 30, 14  # before the first row, from row to row, where time was skipped
SKIPPED = 0.1  # seconds
RED, INK, PALE = "#b3261e", "#333", "#777"
STYLES = {
    "alive": f'stroke="{PALE}" stroke-width="1.4"',
    "leads": f'stroke="{RED}" stroke-width="5"',
    "paused": f'stroke="{PALE}" stroke-width="2" stroke-dasharray="2 5"',
}
MARKER = (
    '<marker id="heard" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" orient="auto">'
    f'<path d="M1 1 7 4 1 7" fill="none" stroke="{INK}" stroke-width="1.2"/></marker>'
)


def draw(diagram: Diagram) -> str:
    """The SVG of some blocks of a scenario."""
    text = rewrite((HERE / f"{diagram.scenario}.txt").read_text(encoding="utf-8"))
    blocks = list(_blocks(text))
    nodes = [int(node) for node in blocks[0][0][0].split()[1:]]
    sheet = _Sheet(nodes, blocks[diagram.first - 1][1] if diagram.first else [])
    for commands, transcript in blocks[diagram.first : diagram.last + 1]:
        sheet.block(commands, transcript)
    return sheet.finish(text.splitlines()[0].removeprefix("# "))


def _blocks(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """Each block's commands, and what followed."""
    for paragraph in text.split("\n\n"):
        commands, rule, transcript = paragraph.partition("\n----\n")
        if rule:
            yield [line for line in commands.splitlines() if not line.startswith("#")], transcript.splitlines()


class _Sheet:
    def __init__(self, nodes: list[int], before: list[str]) -> None:
        """`before` is the transcript whose last words say what the nodes were when the picture begins."""
        self._x = {node: LEFT + COLUMN * column for column, node in enumerate(nodes)}
        self._y = TOP
        self._time = ""
        self._named: set[int] = set()  # nodes with something to say in this row already
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
        told = "; ".join(command for command in commands if not command.startswith(UNTOLD))
        self._row("")
        self._texts.append(
            f'<text x="16" y="{self._y + 4}" font-family="ui-monospace, monospace" fill="{RED}">{escape(told)}</text>'
        )
        for line in transcript:
            if match := SPEECH.match(line):
                self._speech(match[1], int(match[2]), [int(to) for to in match[3].split()], match[4])
            elif match := ENTRY.match(line):
                self._entry(match[1], int(match[2]), match[3])

    def finish(self, title: str) -> str:
        self._y += ROW
        for node in self._x:
            self._become(node, "")
        width, height = max(self._x.values()) + RIGHT, self._y + 10
        names = [
            f'<text x="{x}" y="30" text-anchor="middle" font-size="15" font-weight="600">Node {node}</text>'
            for node, x in self._x.items()
        ]
        parts = [MARKER, f'<rect width="{width}" height="{height}" fill="#fff"/>', *names]
        parts += [*self._lifelines, *self._arrows, *self._texts]
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
                'font-family="system-ui, sans-serif" font-size="13" role="img" aria-labelledby="t">',
                f'  <title id="t">{escape(title)}</title>',
                *("  " + part for part in parts),
                "</svg>\n",
            ]
        )

    def _row(self, time: str) -> None:
        """Begin a new row."""
        skipped = time and self._time and float(time) - float(self._time) > SKIPPED
        self._y += ROW + (GAP if skipped else 0)
        self._named = set()
        if time and time != self._time:
            self._time = time
            self._texts.append(
                f'<text x="{LEFT - 30}" y="{self._y + 4}" text-anchor="end" fill="{PALE}">{time} s</text>'
            )

    def _entry(self, time: str, node: int, text: str) -> None:
        """What happened to a node, or what it has become; those of one moment stand side by side."""
        if time != self._time or node in self._named or not self._named:
            self._row(time)
        self._named.add(node)
        x, y = self._x[node], self._y
        verb = text.replace(",", "").split()[0]
        if verb == "pauses":
            self._paused[node] = self._states[node]
        states = {"dies": "", "pauses": "paused", "leads": "leads"}
        self._become(node, self._paused.pop(node) if verb == "resumes" else states.get(verb, "alive"))
        colour = RED if verb == "leads" else INK
        self._texts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>')
        self._texts.append(f'<text x="{x + 11}" y="{y + 4}" fill="{colour}">{escape(text)}</text>')

    def _speech(self, time: str, sender: int, receivers: list[int], text: str) -> None:
        self._row(time)
        start = self._x[sender]
        for end in (self._x[receiver] for receiver in receivers):
            if text.endswith("(lost)"):
                end = (start + 3 * end) // 4
                style = 'stroke-dasharray="4 4"'
                self._texts.append(f'<text x="{end}" y="{self._y + 5}" text-anchor="middle" fill="{RED}">×</text>')
            else:
                style = 'marker-end="url(#heard)"'
            self._arrows.append(f'<path d="M{start} {self._y} H{end}" stroke="{INK}" stroke-width="1.2" {style}/>')
        beside = start + (COLUMN if self._x[receivers[0]] > start else -COLUMN) // 2
        self._texts.append(
            f'<text x="{beside}" y="{self._y - 6}" text-anchor="middle" font-size="12" '
            f'fill="{INK}">{escape(text, quote=False)}</text>'
        )

    def _become(self, node: int, state: str) -> None:
        """End the piece of lifeline that the node has drawn so far, and begin another."""
        before = self._states.get(node, "")
        if before:
            x = self._x[node]
            self._lifelines.append(f'<path d="M{x} {self._since[node]} V{self._y}" {STYLES[before]}/>')
        self._states[node], self._since[node] = state, self._y
