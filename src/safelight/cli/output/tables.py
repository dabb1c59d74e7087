"""Tables that fit the terminal: a narrow one has fewer columns, a pipe has all of them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len

GAP = 2  # blanks between two columns


class Column(NamedTuple):
    """A heading; numbers are aligned to the right. Where space is short, the column of the lowest rank goes first."""

    heading: str
    rank: int
    right: bool = False


class Table:
    """Rows as lines, page by page. A column only becomes wider; which columns there are, the first page decides."""

    def __init__(self, columns: Sequence[Column], width: int | None = None) -> None:
        """`width`: of the terminal, in cells; None: no limit."""
        self._columns, self._width = columns, width
        self._widths = [len(column.heading) for column in columns]
        self._shown: list[int] = []

    @property
    def begun(self) -> bool:
        """Whether a row has been shown."""
        return bool(self._shown)

    def lines(self, rows: Sequence[Sequence[str]]) -> list[str]:
        """The rows, after the headings if they are the first."""
        if not rows:
            return []
        cells = [[(cell, cell_len(cell)) for cell in row] for row in rows]
        for number, width in enumerate(self._widths):
            self._widths[number] = max(width, *(row[number][1] for row in cells))
        if not self._shown:
            self._shown = self._fitting()
            cells.insert(0, [(column.heading, len(column.heading)) for column in self._columns])
        return [self._line(row) for row in cells]

    def _fitting(self) -> list[int]:
        shown = list(range(len(self._columns)))
        while (
            self._width is not None
            and len(shown) > 1
            and sum(self._widths[number] + GAP for number in shown) - GAP > self._width
        ):
            shown.remove(min(shown, key=lambda number: self._columns[number].rank))
        return shown

    def _line(self, row: Sequence[tuple[str, int]]) -> str:
        padded = []
        for number in self._shown:
            (cell, length), width = row[number], self._widths[number]
            blanks = " " * (width - length)
            padded.append(blanks + cell if self._columns[number].right else cell + blanks)
        return (" " * GAP).join(padded).rstrip()


def terminal_width() -> int | None:
    """The width in cells of the terminal that standard output is; None if it is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
