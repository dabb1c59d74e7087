"""SVG that reads alike everywhere: elements, one palette, and how wide a text can be.

A picture is a list of elements on a white panel, so that it can be read on a light page and on a dark one. Text is set
in the reader's system font. `text_width` assumes the widest that is common (DejaVu Sans), as a layout that holds there
holds everywhere. All lengths are pixels at 100 %.
"""

from __future__ import annotations

from html import escape

RED, BLUE, GREEN = "#b3261e", "#3b6ea5", "#6f8f3a"
INK, MUTED, RULE, PANEL = "#1f2328", "#59636e", "#d1d9e0", "#f6f8fa"
FONT, MONOSPACE = "system-ui, sans-serif", "ui-monospace, monospace"

_WIDTHS = {28: "'ijl", 32: "IJ,. ", 36: "/:;\\|f-", 42: "t()[]!r", 53: '"*_`sz?', 60: "cLkFvxyP", 64: "aoTYebdghnpquES",
           71: "KAVBRXZC0123456789${}", 80: "UHNDGOQ&", 86: "w#+<=>^~M"}  # fmt: skip
_EMS = {letter: width / 100 for width, letters in _WIDTHS.items() for letter in letters}


def text_width(words: str, size: float, *, bold: bool = False, monospace: bool = False) -> float:
    """The width that `words` need at most, in the system fonts of today."""
    if monospace:
        return 0.62 * size * len(words)
    return sum(_EMS.get(letter, 1.0) for letter in words) * size * (1.12 if bold else 1)


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 13,
    anchor: str = "start",
    bold: bool = False,
    monospace: bool = False,
    fill: str = INK,
) -> str:
    """One line of text, whose baseline is at `y`."""
    style = f' text-anchor="{anchor}"' if anchor != "start" else ""
    style += ' font-weight="600"' if bold else ""
    style += f' font-family="{MONOSPACE}"' if monospace else ""
    words = escape(words, quote=False)
    return f'<text x="{round(x, 1):g}" y="{round(y, 1):g}" font-size="{size}" fill="{fill}"{style}>{words}</text>'


def rectangle(
    x: float,
    y: float,
    width: float,
    height: float,
    *,
    fill: str,
    stroke: str = "none",
    thick: float = 1.5,
    radius: int = 0,
) -> str:
    """A box, with rounded corners if `radius` is given."""
    style = f' rx="{radius}"' if radius else ""
    style += f' stroke="{stroke}" stroke-width="{thick:g}"' if stroke != "none" else ""
    box = " ".join(
        f'{name}="{round(length, 1):g}"' for name, length in (("x", x), ("y", y), ("width", width), ("height", height))
    )
    return f'<rect {box} fill="{fill}"{style}/>'


def path(d: str, *, stroke: str = INK, thick: float = 1.5, dashes: str = "", arrow: bool = False) -> str:
    """A line along `d` (an SVG path of M, L, H, V in absolute coordinates), with an arrowhead at its end or not."""
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    style += f' marker-end="url(#{_arrowhead(stroke)})"' if arrow else ""
    return f'<path d="{d}" fill="none" stroke="{stroke}" stroke-width="{thick:g}"{style}/>'


def dot(x: float, y: float, radius: float, *, fill: str = INK) -> str:
    """A filled circle."""
    return f'<circle cx="{round(x, 1):g}" cy="{round(y, 1):g}" r="{radius:g}" fill="{fill}"/>'


def svg(width: int, height: int, parts: list[str], title: str, description: str = "") -> str:
    """The picture of these elements. A screen reader reads `title` and `description`."""
    heads = sorted({colour for part in parts for colour in (RED, INK, MUTED) if f"url(#{_arrowhead(colour)})" in part})
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="{FONT}" role="img" aria-labelledby="t{" d" if description else ""}">',
        f'<title id="t">{escape(title, quote=False)}</title>',
        *([f'<desc id="d">{escape(description, quote=False)}</desc>'] if description else []),
        *map(_marker, heads),
        rectangle(0, 0, width, height, fill="#fff", radius=8),
        *parts,
    ]
    return "\n  ".join(lines) + "\n</svg>\n"


def _arrowhead(colour: str) -> str:
    return f"to-{colour.removeprefix('#')}"


def _marker(colour: str) -> str:
    return (
        f'<marker id="{_arrowhead(colour)}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="10" markerHeight="10" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 8 4 0 8z" fill="{colour}"/></marker>'
    )
