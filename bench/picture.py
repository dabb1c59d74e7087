"""Pictures of figures, as SVG that a browser shows in light and in dark."""

from __future__ import annotations

from html import escape

WIDTH, ROW, LABELS = 860, 30, 400

_STYLE = (
    "text{font:13px sans-serif;fill:#333}.bar{fill:#c4472b}.mark{stroke:#333;stroke-width:2}.axis{stroke:#999}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.mark{stroke:#ddd}}"
)


def bars(rows: list[tuple[str, float, float]], title: str) -> str:
    """A bar for each (label, value, goal), with a mark at the goal."""
    longest = max([1.1, *(max(value, goal) for _, value, goal in rows)])
    scale = (WIDTH - LABELS - 70) / longest
    height = 50 + ROW * len(rows)
    parts = [text(10, 22, title, weight="bold")]
    for number, (label, value, goal) in enumerate(rows):
        top, mark = 40 + ROW * number, LABELS + goal * scale
        parts += [
            text(LABELS - 10, top + 15, label, anchor="end"),
            f'<rect class="bar" x="{LABELS}" y="{top}" width="{value * scale:.1f}" height="20" rx="2"/>',
            f'<line class="mark" x1="{mark:.1f}" x2="{mark:.1f}" y1="{top - 3}" y2="{top + 23}"/>',
            text(LABELS + max(value, goal) * scale + 8, top + 15, f"{value:.2f}"),
        ]
    return svg(WIDTH, height, parts, title)


def text(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'


def svg(width: int, height: int, parts: list[str], title: str) -> str:
    """A picture of these elements."""
    box, label = f'viewBox="0 0 {width} {height}"', f'role="img" aria-label="{escape(title)}"'
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" {box} {label}>'
    return "\n".join([begin, f"<style>{_STYLE}</style>", *parts, "</svg>\n"])
