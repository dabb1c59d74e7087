"""What `ls` shows: a table that is written page by page, so that it has no end in memory."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from rich.cells import cell_len

from safelight.cli.output.console import plain
from safelight.errors import SafelightError
from safelight.names import shown
from safelight.sizes import human_size
from safelight.wire.messages import Kept

HEADING = ("NAME", "TYPE", "SIZE", "KEPT", "ORIGINAL")


class Table:
    """Lines of pages of images; a column only ever becomes wider."""

    def __init__(self) -> None:
        self._widths = [len(word) for word in HEADING]
        self.begun = False

    def lines(self, images: list[Kept]) -> list[str]:
        """The heading comes before the first."""
        rows = [_row(image) for image in images]
        if not self.begun and rows:
            rows.insert(0, HEADING)
            self.begun = True
        cells = [[(cell, cell_len(cell)) for cell in row] for row in rows]
        self._widths = [
            max(width, *(row[column][1] for row in cells)) if cells else width
            for column, width in enumerate(self._widths)
        ]
        return [self._line(row) for row in cells]

    def _line(self, row: list[tuple[str, int]]) -> str:
        padded = [
            " " * (width - length) + cell if column == 2 else cell + " " * (width - length)
            for column, ((cell, length), width) in enumerate(zip(row, self._widths, strict=True))
        ]
        return "  ".join(padded).rstrip()


def _row(image: Kept) -> tuple[str, ...]:
    return plain(image.name), plain(image.type), human_size(image.size), _when(image.created), plain(image.original)


def _when(created: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(created))
    except (OverflowError, ValueError, OSError):
        return "?"


async def paged(pages: AsyncIterator[list[str]]) -> None:
    """Print lines; on a terminal, more than fit go through a pager, as git's do."""
    height = shutil.get_terminal_size().lines - 1  # one for the prompt that follows
    held: list[str] = []
    if sys.stdout.isatty():
        async for lines in pages:
            held += lines
            if len(held) > height:
                break
    if len(held) <= height or not await _through_pager(held, pages):
        _print(held)
        async for lines in pages:
            _print(lines)


def _print(lines: list[str]) -> None:
    if lines:
        print("\n".join(lines), flush=True)


async def _through_pager(first: list[str], rest: AsyncIterator[list[str]]) -> bool:
    """False, and nothing is shown, if there is no pager. Raises SafelightError for one that fails."""
    said = os.environ.get("PAGER", "less")
    if (pager := _started(said)) is None:
        return False
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # it is the pager's: it stops a search, not the pager
    try:
        with suppress(BrokenPipeError):  # its user has seen enough
            await _feed(pager, first)
            async for lines in rest:
                await _feed(pager, lines)
        await asyncio.to_thread(pager.communicate)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        if pager.returncode is None:
            pager.terminate()
            pager.wait()
    if pager.returncode:
        raise SafelightError(f"the pager {shown(said)} failed (exit status {pager.returncode}): set PAGER to another")
    return True


def _started(pager: str) -> subprocess.Popen[bytes] | None:
    """None where it is not installed, and for what is empty or no command line."""
    try:
        command = shlex.split(pager)
        return subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, env={"LESS": "FRX", **os.environ})
    except (OSError, ValueError, IndexError):
        return None


async def _feed(pager: subprocess.Popen[bytes], lines: list[str]) -> None:
    assert pager.stdin is not None
    data = memoryview("".join(f"{line}\n" for line in lines).encode(errors="replace"))
    while data:
        data = data[await asyncio.to_thread(pager.stdin.write, data) :]
