"""What a reader would object to in an SVG: text that leaves the picture or its box, or lies on a line or other text.

Knows the elements that `tools.svg` writes. Text is taken to be as wide as it can be (`text_width`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple
from xml.etree import ElementTree

from tools.svg import MONOSPACE, text_width

_NAMESPACE = "{http://www.w3.org/2000/svg}"
_MARGIN = 4.0
"""Pixels between a text and the picture's edge."""


class Text(NamedTuple):
    """A line of text, and the box that it can fill."""

    words: str
    left: float
    top: float
    right: float
    bottom: float


class Line(NamedTuple):
    """A straight stroke between two points."""

    x1: float
    y1: float
    x2: float
    y2: float
    thick: float


def objections(picture: str) -> list[str]:
    """One line for each text that cannot be read well. Raises ValueError for a path of curves."""
    root = ElementTree.fromstring(picture)  # noqa: S314 — our own picture
    width, height = (float(length) for length in root.attrib["viewBox"].split()[2:])
    texts, lines = list(_texts(root)), list(_lines(root))
    found = [
        f"{each.words!r} leaves the picture"
        for each in texts
        if min(each.left, each.top, width - each.right, height - each.bottom) < _MARGIN
    ]
    found += [
        f"{a.words!r} lies on {b.words!r}"
        for number, a in enumerate(texts)
        for b in texts[:number]
        if a.left < b.right and b.left < a.right and a.top < b.bottom and b.top < a.bottom
    ]
    found += [f"{each.words!r} lies on the line {line}" for each in texts for line in lines if _crosses(line, each)]
    return found


def _texts(root: ElementTree.Element) -> Iterator[Text]:
    for each in root.iter(f"{_NAMESPACE}text"):
        words, size = "".join(each.itertext()), float(each.attrib["font-size"])
        bold, monospace = "font-weight" in each.attrib, each.get("font-family") == MONOSPACE
        wide = text_width(words, size, bold=bold, monospace=monospace)
        left = float(each.attrib["x"]) - wide * {"start": 0, "middle": 0.5, "end": 1}[each.get("text-anchor", "start")]
        base = float(each.attrib["y"])
        yield Text(words, left, base - 0.8 * size, left + wide, base + 0.24 * size)


def _lines(root: ElementTree.Element) -> Iterator[Line]:
    """All strokes, and the edges of all rectangles but the picture's own."""
    drawn = [each for each in root if each.tag != f"{_NAMESPACE}marker"]
    for each in drawn:
        if each.tag == f"{_NAMESPACE}path":
            yield from _strokes(each.attrib["d"], float(each.attrib["stroke-width"]))
        elif each.tag == f"{_NAMESPACE}rect" and (each.get("x"), each.get("y")) != ("0", "0"):
            x, y, width, height = (float(each.attrib[name]) for name in ("x", "y", "width", "height"))
            corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
            for (x1, y1), (x2, y2) in pairwise(corners):
                yield Line(x1, y1, x2, y2, float(each.get("stroke-width", 0)))


def _strokes(d: str, thick: float) -> Iterator[Line]:
    x = y = 0.0
    for command, numbers in re.findall(r"([A-Za-z])([^A-Za-z]*)", d):
        to = [float(number) for number in re.findall(r"-?[\d.]+", numbers)]
        match command:
            case "M" | "L":
                after = to[0], to[1]
            case "H":
                after = to[0], y
            case "V":
                after = x, to[0]
            case _:
                raise ValueError(f"the path {d!r} has the command {command}: use M, L, H and V")
        if command != "M":
            yield Line(x, y, *after, thick)
        x, y = after


def _crosses(line: Line, text: Text) -> bool:
    """Whether a line passes through a text's box (Liang and Barsky's clipping, 1984)."""
    half = line.thick / 2
    dx, dy = line.x2 - line.x1, line.y2 - line.y1
    near, far = 0.0, 1.0
    for delta, to_low, to_high in (
        (dx, text.left - half - line.x1, text.right + half - line.x1),
        (dy, text.top - half - line.y1, text.bottom + half - line.y1),
    ):
        if delta == 0:
            if to_low >= 0 or to_high <= 0:
                return False
            continue
        first, last = sorted((to_low / delta, to_high / delta))
        near, far = max(near, first), min(far, last)
    return near < far
