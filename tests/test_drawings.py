"""The pictures that are checked in are what the code draws, and all of their text can be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import draw_architecture
from tools.check_svg import objections
from tools.draw_pictures import DRAWN
from tools.svg import path, rectangle, svg, text, text_width

ROOT = Path(__file__).parents[1]


def test_every_picture_is_drawn_by_code() -> None:
    checked_in = {path for place in ("docs", "bench") for path in (ROOT / place).rglob("*.svg")}
    assert checked_in == {*DRAWN}


@pytest.mark.parametrize("picture", DRAWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_picture_is_what_the_code_draws_and_all_of_its_text_can_be_read(picture: Path) -> None:
    checked_in = picture.read_text(encoding="utf-8")
    assert checked_in == DRAWN[picture](), "run `make pictures`"
    assert objections(checked_in) == []


def test_the_architecture_shows_the_steps_and_the_vault() -> None:
    drawn = draw_architecture.draw()
    for words in ("Vault", "offer", "declines", "grants a ticket", "durable", "heartbeats"):
        assert words in drawn


WORDS = "Node 3 leads"
WIDE = text_width(WORDS, 16)


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ([text(400 - WIDE, 100, WORDS, size=16)], "leaves the picture"),
        ([text(100, 8, WORDS, size=16)], "leaves the picture"),
        ([text(60, 100, WORDS, size=16, anchor="middle", bold=True)], "leaves the picture"),
        ([text(100, 100, WORDS, size=16), text(120, 110, "worker", size=16)], "lies on 'Node 3 leads'"),
        ([text(100, 100, WORDS, size=16), path("M50 50 L200 150")], "lies on the line"),
        ([text(100, 100, WORDS, size=16), path("M50 92 H300")], "lies on the line"),
        ([text(100, 100, WORDS, size=16), path("M150 20 V300")], "lies on the line"),
        ([text(100, 100, WORDS, size=16), path("M50 105 H300", thick=5)], "lies on the line"),
        ([rectangle(84, 60, WIDE, 80, fill="#fff"), text(100, 100, WORDS, size=16)], "lies on the line"),
    ],
)
def test_what_cannot_be_read_is_noticed(parts: list[str], problem: str) -> None:
    found = objections(svg(400, 200, parts, "t"))
    assert found
    assert all(problem in each for each in found)


def test_what_can_be_read_is_accepted() -> None:
    parts = [rectangle(84, 60, WIDE + 32, 80, fill="#fff", stroke="#000"), text(100, 100, WORDS, size=16)]
    parts += [path("M84 110 H300"), path("M100 20 V60"), text(100, 124, "below it", size=16)]
    assert objections(svg(400, 200, parts, "t")) == []
