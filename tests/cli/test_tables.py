"""Tables fit the terminal."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from safelight.cli.output import listing
from safelight.cli.output.status_table import status_lines
from safelight.cli.output.tables import Column, Table
from safelight.client.requests.status import ServerStatus
from safelight.wire.messages import Kept, Load

IMAGE = Kept("encrypted_lighthouse_1795627662.png", 1_355_237, "image/png", 1_795_627_662.0, "lighthouse.png")
SERVERS = [
    ServerStatus(node, f"127.0.0.1:800{node}", Load(node, "leader" if node == 3 else "worker", 12, 3, 3600.0))
    for node in (1, 2, 3)
]


@pytest.mark.parametrize("width", [50, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = Table(listing.COLUMNS, width).lines([listing.row(IMAGE)] * 3)
    lines += [line.plain for line in status_lines(SERVERS, width)]
    assert max(map(cell_len, lines)) <= width
    assert lines[0].split()[0] == "NAME"
    assert IMAGE.name in lines[1]
    assert "12.3" in lines[-1]


def test_a_pipe_has_every_column() -> None:
    heading, row = Table(listing.COLUMNS).lines([listing.row(IMAGE)])
    assert heading.split() == ["NAME", "TYPE", "SIZE", "CREATED", "ORIGINAL"]
    assert row.endswith("lighthouse.png")


def test_columns_of_two_pages_are_aligned_as_far_as_the_first_page_tells() -> None:
    table = Table([Column("A", 1), Column("SIZE", 2, right=True)], None)
    assert table.lines([("ab", "1")]) == ["A   SIZE", "ab     1"]
    assert table.lines([("äöü", "22")]) == ["äöü    22"]
    assert table.lines([]) == []


def test_an_error_that_does_not_fit_stands_below_its_line() -> None:
    down = ServerStatus(1, "127.0.0.1:8001", None, "connection refused")
    _, row, error = (line.plain for line in status_lines([down], 50))
    assert (row.split()[0], error) == ("1", "      connection refused")
    _, row = (line.plain for line in status_lines([down], None))
    assert row.endswith("connection refused")
