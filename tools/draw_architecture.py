"""Draws docs/architecture.svg: one image's way through the cluster.

From top to bottom: the client, the three nodes, the vault. The numbers give the order. Red is the leader, and the way
that the image takes through it. All positions are multiples of 8 pixels, and text has at least 16, as the picture is
also read on a phone.
"""

from __future__ import annotations

from pathlib import Path

from tools.svg import INK, MUTED, PANEL, RED, RULE, dot, path, rectangle, svg, text

PICTURE = Path(__file__).parents[1] / "docs" / "architecture.svg"

WIDTH, HEIGHT = 720, 688
LINE = 24  # from one line of text to the next
TITLE = "An image's way through Safelight"
DESCRIPTION = (
    "The client offers an image to three nodes at once, without its bytes. Nodes 1 and 2 are workers and decline. "
    "Node 3 leads and grants a ticket. The image goes once, to node 3, which encrypts it and writes the body and then "
    "the record into the vault, a directory or bucket that all nodes share. When both are durable, the sealed file, or "
    "a receipt, returns to the client. Every node serves images from the vault. The nodes are linked with each other "
    "for heartbeats and elections."
)


def draw() -> str:
    """The SVG."""
    return svg(WIDTH, HEIGHT, [*_client(), *_nodes(), *_vault(), *_arrows()], TITLE, DESCRIPTION)


def _box(x: int, y: int, width: int, height: int, title: str, lines: list[str], *, leads: bool = False) -> list[str]:
    """A frame with a title, and lines under it."""
    stroke, thick = (RED, 3.0) if leads else (MUTED, 1.5)
    parts = [rectangle(x, y, width, height, fill="#fff", stroke=stroke, thick=thick, radius=8)]
    parts.append(text(x + 16, y + 32, title, size=20, bold=True, fill=RED if leads else INK))
    return parts + [text(x + 16, y + 56 + LINE * row, line, size=16) for row, line in enumerate(lines)]


def _step(x: int, y: int, number: int, *lines: str, colour: str = INK) -> list[str]:
    """The label of a step: its number in a disc, and text beside it. `y` is the first line's baseline."""
    return [
        dot(x + 12, y - 6, 12, fill=colour),
        text(x + 12, y, f"{number}", size=16, anchor="middle", bold=True, fill="#fff"),
        *(text(x + 32, y + LINE * row, line, size=16, fill=colour) for row, line in enumerate(lines)),
    ]


def _client() -> list[str]:
    lines = [
        "Offers the image to every node at once, without its bytes.",
        "Writes the sealed file into images/, whole or not at all.",
    ]
    return _box(16, 16, 688, 104, "Client", lines)


def _nodes() -> list[str]:
    parts = [rectangle(16, 232, 688, 232, fill=PANEL, stroke=RULE, radius=8)]
    for number, x in ((1, 32), (2, 200)):
        parts += _box(x, 248, 144, 144, f"Node {number}", ["worker"])
        parts += _step(x + 16, 336, 2, "declines", "(421)")
    parts += _box(376, 248, 312, 144, "Node 3", ["leader"], leads=True)
    parts += _step(392, 336, 2, "grants a ticket (201)", colour=RED)
    parts += _step(392, 368, 4, "encrypts with AES-128-GCM", colour=RED)
    parts += [
        path(d, stroke=MUTED, dashes="4 4") for d in ("M176 280 H200", "M344 280 H376", "M104 392 V416 H400 V393")
    ]
    return [*parts, text(32, 448, "Node links: heartbeats and elections", size=16, fill=MUTED)]


def _vault() -> list[str]:
    lines = [
        "A directory or a bucket that all nodes share.",
        "Holds sealed bodies and records; the keyring stays on the nodes.",
    ]
    return _box(16, 568, 688, 104, "Vault", lines)


def _arrows() -> list[str]:
    parts: list[str] = []
    for x in (48, 216, 392):
        parts += [path(f"M{x} 120 V246", arrow=True), *_step(x + 8, 168, 1, "offer")]
    for way in ("M496 120 V245", "M600 247 V123", "M456 393 V565"):
        parts.append(path(way, stroke=RED, thick=3, arrow=True))
    parts += _step(504, 168, 3, "image,", "once", colour=RED)
    parts += _step(608, 168, 6, "sealed", "file or", "receipt", colour=RED)
    parts += _step(464, 504, 5, "body, then record:", "both durable", colour=RED)
    parts += [path("M48 568 V466", arrow=True), text(64, 504, "any node serves", size=16)]
    return [*parts, text(64, 528, "the vault's images", size=16)]
