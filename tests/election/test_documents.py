"""docs/election.md agrees with the code: states, pictures, bound and costs. `--rewrite` writes states and pictures."""

import re
from pathlib import Path

import pytest

from safelight.election.bully import PROFILES

from .costs import DOCUMENT, PICTURE, SIZES, measure, picture, read
from .draw import DIAGRAMS, PICTURES, draw
from .rest import DRIFT, bound
from .scenario import TIMING
from .states import with_table

TEXT = DOCUMENT.read_text(encoding="utf-8")


def is_as_committed(path: Path, drawn: str, rewrites: bool) -> bool:
    if rewrites:
        path.write_text(drawn, encoding="utf-8")
    return path.read_text(encoding="utf-8") == drawn


@pytest.mark.parametrize("name", DIAGRAMS)
def test_diagram_shows_what_its_scenario_says(name: str, rewrites: bool) -> None:
    assert is_as_committed(PICTURES / f"{name}.svg", draw(DIAGRAMS[name]), rewrites)


def test_table_of_states_is_that_of_the_code(rewrites: bool) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert is_as_committed(DOCUMENT, with_table(text), rewrites)


def test_chart_shows_the_numbers_of_the_table(rewrites: bool) -> None:
    rows = read(TEXT)
    assert list(rows) == SIZES
    assert is_as_committed(PICTURE, picture(rows), rewrites)


def test_document_shows_every_picture_and_no_other() -> None:
    shown = set(re.findall(r"\]\(election/(.+?)\.svg\)", TEXT))
    assert shown == {path.stem for path in PICTURES.glob("*.svg")} == {*DIAGRAMS, PICTURE.stem}


@pytest.mark.parametrize("nodes", [3, 10, 30])
def test_table_shows_what_a_failure_costs(nodes: int) -> None:
    assert measure(nodes) == read(TEXT)[nodes], "measure again: python -m tests.election.costs"


def test_dead_leader_costs_at_most_four_messages_a_node_and_the_textbook_a_square() -> None:
    for nodes, (killed, textbook, hung, *_) in read(TEXT).items():
        assert max(killed.messages, hung.messages) <= 4 * nodes
        assert textbook.messages == nodes * (nodes - 1) - 1


def test_stated_bound_is_what_the_simulation_demands() -> None:
    """The scenarios' heartbeat is a second, so seconds are heartbeats."""
    first, each = map(float, re.findall(r"\*\*(\d+) \+ ([\d.]+)n heartbeats\*\*", TEXT)[0])
    for nodes in (1, 3, 7):
        messages = bound(nodes, TIMING) - (first + each * nodes) * (1 + 2 * DRIFT)
        assert 0 <= messages <= 0.3


@pytest.mark.parametrize(("column", "profile"), list(enumerate(PROFILES)))
def test_timers_are_those_of_the_profiles(column: int, profile: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", TEXT, re.MULTILINE)
    stated = {row[0]: float(row[1 + column]) for row in rows}
    assert stated == pytest.approx(vars(PROFILES[profile]))
