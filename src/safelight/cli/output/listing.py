"""What `ls` shows, and the pager: lines are printed page by page, so that memory use is constant."""

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

from safelight.cli.output.console import plain
from safelight.cli.output.tables import Column
from safelight.errors import SafelightError
from safelight.names import shown
from safelight.sizes import human_size
from safelight.wire.messages import Kept

COLUMNS = (
    Column("NAME", 9),
    Column("TYPE", 1),
    Column("SIZE", 4, right=True),
    Column("CREATED", 2),
    Column("ORIGINAL", 3),
)


def row(image: Kept) -> tuple[str, ...]:
    """The cells of `COLUMNS`."""
    size, created = human_size(image.size), moment(image.created)
    return plain(image.name), plain(image.type), size, created, plain(image.original)


def moment(seconds: float) -> str:
    """Unix seconds as local time; "?" for what no clock shows."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "?"


async def paged(pages: AsyncIterator[list[str]]) -> None:
    """Print lines. On a terminal, more lines than fit go through a pager."""
    height = shutil.get_terminal_size().lines - 1  # one line is for the prompt
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
    """Whether there is a pager; if not, nothing is shown. Raises SafelightError if the pager fails."""
    command = os.environ.get("PAGER", "less")
    if (pager := _start(command)) is None:
        return False
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C is for the pager: it stops a search
    try:
        with suppress(BrokenPipeError):  # the user has quit the pager
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
        raise SafelightError(
            f"the pager {shown(command)} failed (exit status {pager.returncode}): set PAGER to another"
        )
    return True


def _start(pager: str) -> subprocess.Popen[bytes] | None:
    """None if the pager is not installed, or is not a command line."""
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
