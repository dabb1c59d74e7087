"""Charts as parts of an SVG: lines over two logarithmic axes, and stacked bars over time."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from typing import NamedTuple

from tools.svg import MUTED, RULE, path, rectangle, text, text_width

LEFT, PLOT, HEIGHT = 104, 336, 240
"""Pixels before the vertical axis, and the size of the plot."""

_LABEL = 20  # from one label to the next


class Series(NamedTuple):
    """One line of a chart: its points are (x, y), both above 0, from left to right."""

    label: str
    colour: str
    dashes: str
    points: list[tuple[float, float]]


def lines(top: int, title: str, below: str, series: list[Series], decades: range) -> list[str]:
    """A chart, with `title` at `top` + 24 and `below` under the horizontal axis; it takes `HEIGHT` + 120 pixels.

    The vertical axis goes from the first to the last of `decades`, powers of ten. Each line is labelled at its end,
    beside a sample of its dashes, as lines may coincide.
    """
    ticks = [x for x, _ in series[0].points]
    bottom, right = top + 48 + HEIGHT, LEFT + PLOT

    def x(value: float) -> float:
        return round(LEFT + PLOT * log10(value / ticks[0]) / log10(ticks[-1] / ticks[0]), 1)

    def y(value: float) -> float:
        return round(bottom - HEIGHT * (log10(value) - decades[0]) / (decades[-1] - decades[0]), 1)

    parts = [text(16, top + 24, title, size=16, bold=True)]
    for decade in decades:
        value = 10.0**decade
        parts.append(path(f"M{LEFT} {y(value):g} H{right}", stroke=RULE, thick=1))
        parts.append(text(LEFT - 8, y(value) + 5, f"{value:,.{max(-decade, 0)}f}", size=14, anchor="end", fill=MUTED))
    parts += [text(x(tick), bottom + 24, f"{tick:,.0f}", size=14, anchor="middle", fill=MUTED) for tick in ticks]
    parts.append(text(LEFT + PLOT / 2, bottom + 48, below, size=14, anchor="middle", fill=MUTED))
    free = 0.0
    for each in sorted(series, key=lambda each: -each.points[-1][1]):
        way = " L".join(f"{x(at):g} {y(value):g}" for at, value in each.points)
        parts.append(path(f"M{way}", stroke=each.colour, thick=2.5, dashes=each.dashes))
        free = max(y(each.points[-1][1]), free + _LABEL)
        parts.append(path(f"M{right + 16} {free:g} H{right + 48}", stroke=each.colour, thick=2.5, dashes=each.dashes))
        parts.append(text(right + 56, free + 5, each.label, size=14, fill=each.colour))
    return parts


def stacks(
    top: int, title: str, below: str, columns: list[list[float]], colours: Sequence[str], most: int
) -> list[str]:
    """Stacked bars, one for each of `columns`, up to `most`; it takes `HEIGHT` / 2 + 120 pixels."""
    width, height = 720 - LEFT - 32, HEIGHT // 2
    bottom, step = top + 48 + height, width / len(columns)
    parts = [text(16, top + 24, title, size=16, bold=True)]
    for level in range(0, most + 1, 50):
        at = bottom - height * level / most
        parts.append(path(f"M{LEFT} {at:g} H{LEFT + width}", stroke=RULE, thick=1))
        parts.append(text(LEFT - 8, at + 5, f"{level}", size=14, anchor="end", fill=MUTED))
    for number, column in enumerate(columns):
        at = float(bottom)
        for value, colour in zip(column, colours, strict=True):
            at -= height * value / most
            left = LEFT + step * number
            parts.append(rectangle(left + 1, at, step - 2, height * value / most, fill=colour))
    for second in range(0, len(columns) + 1, 5):
        at = LEFT + step * second
        parts.append(text(at, bottom + 24, f"{second}", size=14, anchor="middle", fill=MUTED))
    parts.append(text(LEFT + width / 2, bottom + 48, below, size=14, anchor="middle", fill=MUTED))
    return parts


def legend(x: float, y: int, entries: list[tuple[str, str]]) -> list[str]:
    """Squares of a colour, each with its name, from left to right."""
    parts = []
    for label, colour in entries:
        parts += [rectangle(x, y - 12, 14, 14, fill=colour), text(x + 22, y, label, size=14)]
        x += 56 + round(text_width(label, 14))
    return parts
