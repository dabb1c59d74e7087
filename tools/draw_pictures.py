"""`make pictures`: draws every SVG in docs/ and bench/ again, from what is checked in. Nothing is measured.

docs/failover.png is not among them: `safelight demo` draws it, of a failover that took place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.picture import BALANCE, MODEL, SPEED, balance, model, speed
from tests.election import costs
from tests.election.draw import DIAGRAMS, PICTURES, draw

from tools import draw_architecture

DRAWN: dict[Path, Callable[[], str]] = {
    draw_architecture.PICTURE: draw_architecture.draw,
    **{PICTURES / f"{name}.svg": partial(draw, diagram) for name, diagram in DIAGRAMS.items()},
    costs.PICTURE: lambda: costs.picture(costs.read(costs.DOCUMENT.read_text(encoding="utf-8"))),
    MODEL: model,
    SPEED: speed,
    BALANCE: balance,
}

if __name__ == "__main__":
    for path, picture in DRAWN.items():
        path.write_text(picture(), encoding="utf-8")
