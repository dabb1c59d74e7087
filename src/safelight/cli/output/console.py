"""What a person sees: the transcript of an upload, the table of the nodes, a bar while it takes longer than a blink.

Lines go to standard output; what moves (bar, spinner) and what nodes say goes to standard error, and what moves
is only shown on a terminal. Everything that comes from elsewhere (names, a server's words) is shown without its
control characters: a terminal would execute them.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from safelight.client.requests.feedback import NullFeedback
from safelight.client.requests.status import ServerStatus
from safelight.sizes import human_size
from safelight.wire.messages import Load

BLINK = 0.3  # seconds; what is over sooner shows no bar
ASIDE = 1.0  # seconds that a node's line waits for the end of an answer; an election is news, and waits no longer
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # Cc, and what reverses the direction
_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red")


def console(*, stderr: bool = False) -> Console:
    """Lines as they are: not wrapped, nothing in them interpreted; colours on a terminal, unless NO_COLOR."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def plain(text: str) -> str:
    return _CONTROL.sub("�", text)


def node_line(node: int, line: str, *, dim: bool = False) -> Text:
    """`Node 2: …`, the name in the node's colour; nodes name themselves in most lines, but not twice here."""
    name = f"Node {node}: "
    text = line.removeprefix(name).removeprefix("safelight: ")
    style = "dim" if dim else ""
    return Text.assemble((name, f"{style} {_COLOURS[(node - 1) % len(_COLOURS)]}".strip()), (plain(text), style))


class ConsoleReporter:
    """The mission's lines for each image, as feedback of a session. All methods are for the event loop's thread."""

    def __init__(self, *, dialogue: bool, quiet: bool = False) -> None:
        """`dialogue`: failures are part of the conversation; otherwise they go to standard error.

        `quiet`: of what succeeds only the new file's path is shown, for programs.
        """
        self._lines = console()
        self._moving = console(stderr=True)
        self._dialogue = dialogue
        self._quiet = quiet
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._timer: asyncio.TimerHandle | None = None
        self._text = ""
        self._done = 0
        self._total: int | None = None
        self._answering = False
        self._held: list[Text] = []
        self._release: asyncio.TimerHandle | None = None

    # -- feedback of a session --

    def broadcasting(self) -> None:
        self._tell("Broadcasting...")

    def declined(self, server: int, detail: str) -> None:
        self._tell(f"  - Server {server} declined: {detail}")

    def unreachable(self, server: int, detail: str) -> None:
        self._tell(f"  - Server {server} unreachable: {detail}", "yellow")

    def waiting(self, reason: str) -> None:
        self._move(plain(reason), 0, None)

    def progress(self, done: int, total: int) -> None:
        size = total // 2  # the image goes there, and comes back
        phase = ("sending", done) if done < size else ("receiving", min(done - size, size))
        self._move(*phase, size)

    def received(self, done: int, total: int) -> None:
        """`done` of `total` bytes have come."""
        self._move("receiving", done, total)

    def processed(self, server: int, assigned_by: int | None = None) -> None:
        if assigned_by is None:
            self.say(f"  ✓ Leader (server {server}) processed request", "green")
        else:
            self.say(f"  ✓ Leader (server {assigned_by}) assigned server {server}, which processed request", "green")

    # -- what follows --

    def succeeded(self, what: str, path: Path, *, kept: bool = False) -> None:
        """`what` was done: "Encrypted" or "Decrypted"."""
        if kept:
            self.say("  ✓ Kept in the vault", "green")
        self.say("✓ Success!", "green")
        self.say(f"{what} image saved to: {path}")
        self.made(path)

    def failed(self, message: str) -> None:
        self.settle()
        console, line = self.complaint(message)
        console.print(line)

    def say(self, line: str, style: str = "") -> None:
        self.settle()
        if not self._quiet:
            self._lines.print(Text(plain(line), style))

    def note(self, line: str) -> None:
        """What a user is to see whatever is asked for, `quiet` as well: printed where failures are, and no failure."""
        self.settle()
        self.noting.print(Text(plain(line)))

    @property
    def noting(self) -> Console:
        return self._lines if self._dialogue else self._moving

    @contextmanager
    def answer(self) -> Iterator[None]:
        """What nodes say in this block is shown after it, or after ASIDE, so that it does not cut the answer in two."""
        self._answering = True
        try:
            yield
        finally:
            self._answering = False
            self._show_held()

    def node(self, node: int, line: str) -> None:
        """What a node says meanwhile: above the bar, if there is one."""
        self._held.append(node_line(node, line, dim=True))
        if not self._answering:
            self._show_held()
        elif self._release is None:
            self._release = asyncio.get_running_loop().call_later(ASIDE, self._show_held)

    def _show_held(self) -> None:
        if self._release is not None:
            self._release.cancel()
            self._release = None
        held, self._held = self._held, []
        for line in held:
            self._moving.print(line)

    def many(self, text: str) -> BulkReporter:
        """One bar for many files, and lines above it. Use it with `with`."""
        self.settle()
        return BulkReporter(self, self._lines, self._moving, text, shown=not self._quiet)

    def made(self, path: Path) -> None:
        """For programs: a new file's path, as it is, not made plain: a program opens it."""
        if self._quiet:
            click.echo(os.fsencode(path))

    def complaint(self, message: str) -> tuple[Console, Text]:
        """Where and how a failure is printed."""
        if self._dialogue:
            return self._lines, Text(f"✗ {plain(message)}", "red")
        return self._moving, Text(f"safelight: {plain(message)}")

    def status(self, servers: list[ServerStatus]) -> None:
        self.settle()
        for line in status_lines(servers):
            self._lines.print(line)

    def settle(self) -> None:
        """Take away what moves."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _tell(self, line: str, style: str = "") -> None:
        """A line in the middle of work: what moved before it goes on below."""
        self.say(line, style)
        self._move(self._text, self._done, self._total)

    # -- what moves --

    def _move(self, text: str, done: int, total: int | None) -> None:
        other_kind = (total is None) != (self._total is None) or (total is not None and text != self._text)
        self._text, self._done, self._total = text, done, total
        if self._progress is not None and other_kind:
            self.settle()
            self._appear()
        elif self._progress is not None:
            self._progress.update(self._task, description=text, completed=done, total=total)
        elif self._timer is None and sys.stderr.isatty() and self._moving.is_interactive:
            self._timer = asyncio.get_running_loop().call_later(BLINK, self._appear)

    def _appear(self) -> None:
        columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
        if self._total is not None:
            columns = [
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(binary_units=True),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            ]
        self._timer = None
        self._progress = Progress(
            *columns, console=self._moving, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._task = self._progress.add_task(self._text, completed=self._done, total=self._total)
        self._progress.start()


class BulkReporter:
    """One bar for many files under way at once, which stays while lines appear above it."""

    def __init__(self, transcript: ConsoleReporter, lines: Console, moving: Console, text: str, *, shown: bool) -> None:
        self._transcript, self._lines, self._moving, self._text = transcript, lines, moving, text
        self._shown = shown
        self._files = 0
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[done]}/{task.fields[files]}"),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=moving,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not (sys.stderr.isatty() and moving.is_interactive),
        )
        self._task = self._progress.add_task(text, total=0, done=0, files=0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def expect(self, files: int, size: int) -> None:
        """So many files, and bytes, more; fewer, if negative."""
        task = self._progress.tasks[0]
        self._progress.update(self._task, total=(task.total or 0) + size, files=task.fields["files"] + files)

    def waiting(self, reason: str) -> None:
        self._progress.update(self._task, description=plain(reason))

    def advance(self, size: int) -> None:
        self._progress.update(self._task, description=self._text, advance=size)

    def settled(self) -> None:
        """One file is done with."""
        self._files += 1
        self._progress.update(self._task, done=self._files)

    def line(self, line: str, style: str = "") -> None:
        if self._shown:
            self._print(self._lines, Text(plain(line), style))

    def note(self, line: str) -> None:
        """As `Transcript.note`."""
        self._print(self._transcript.noting, Text(plain(line)))

    def summary(self, line: str, *, noted: bool) -> None:
        """The last line. `noted`: it is to be seen even where only failures and notes are."""
        if noted and not self._shown:
            self.note(line)
        self.line(line, "bold")

    def failed(self, message: str) -> None:
        self._print(*self._transcript.complaint(message))

    def _print(self, console: Console, line: Text) -> None:
        # On a terminal both streams are the same screen, and only the bar's own console knows where the bar is.
        (self._moving if console.is_terminal and not self._progress.disable else console).print(line)


class BulkItemFeedback(NullFeedback):
    """Feedback for one file of many, of so many bytes."""

    def __init__(self, many: BulkReporter, size: int) -> None:
        self._many, self._size, self._done = many, size, 0

    def waiting(self, reason: str) -> None:
        self._many.waiting(reason)

    def progress(self, done: int, total: int) -> None:
        reached = done * self._size // max(total, 1)
        self._many.advance(reached - self._done)
        self._done = reached

    def settled(self) -> None:
        self._many.advance(self._size - self._done)
        self._many.settled()


_LEFT = ("NODE", "ADDRESS", "ROLE", "EPOCH", "LEADER")
_RIGHT = ("UPTIME", "IN FLIGHT", "IMAGES", "BYTES", "DECLINES")


def status_lines(servers: Iterable[ServerStatus]) -> list[Text]:
    """A table with one line for each node; the leader's is bold, and who cannot be reached has the reason behind it.

    What others heard of such a node is shown; what it said of the election is not: it may be a dead node's word.
    """
    rows: list[tuple[str, ...]] = [(*_LEFT, *_RIGHT)]
    ends, styles = [""], ["dim"]
    for status in servers:
        load = status.load
        known = load is not None and not status.heard
        counts = (
            (
                _duration(load.uptime),
                f"{load.in_flight}",
                f"{load.images}",
                human_size(load.bytes),
                f"{load.declines}",
            )
            if load
            else ("-",) * len(_RIGHT)
        )
        state = (load.role, f"{load.counter}", f"{load.leader or '-'}") if load and known else ("unreachable", "-", "-")
        rows.append((f"{status.server}", status.address, *state, *counts))
        if known:
            ends.append(_health(load) if load else "")
        else:
            ends.append(f"  {status.problem}" + ("; its numbers by heartbeat" if status.heard else ""))
        styles.append(("bold" if load and load.leader == load.node else "") if known else "yellow")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [Text(plain(_aligned(row, widths) + end), style) for row, end, style in zip(rows, ends, styles, strict=True)]


def _health(load: Load) -> str:
    said = {"ineligible": load.ineligible, "degraded": load.degraded, "advice": load.advice}
    return "".join(f"  {what}: {why}" for what, why in said.items() if why)


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    padded = [
        cell.ljust(width) if column < len(_LEFT) else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(padded)


def _duration(seconds: float) -> str:
    for length, unit, below in ((1, "s", 120), (60, "min", 120), (3600, "h", 48)):
        if seconds < length * below:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds // 86400:.0f} d"
