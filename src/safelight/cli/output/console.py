"""What a person sees: lines about each image, and a progress bar for work that takes longer than a blink.

Lines go to standard output. Bars, spinners and the nodes' log lines go to standard error; bars and spinners appear on
a terminal only. Text from elsewhere (names, a server's words) is shown without control characters: a terminal would
execute them.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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

from safelight.cli.output.documents import show_document, show_lines
from safelight.client.requests.feedback import NullFeedback

BLINK = 0.3  # seconds; work that ends sooner shows no bar
ASIDE = 1.0  # seconds for which a node's log line waits for the end of an answer
NARROW = 72  # cells; a narrower terminal has room for the bar and the size, not for speed and remaining time
LABELLED = 38  # cells that the bar and the numbers beside it need on a narrow terminal
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # Cc, and what reverses the direction
_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red")


def console(*, stderr: bool = False) -> Console:
    """Prints lines unchanged: no wrapping, no markup; colours on a terminal, unless NO_COLOR is set."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def plain(text: str) -> str:
    """The text without control characters, which could make a terminal act."""
    return _CONTROL.sub("�", text)


def node_line(node: int, line: str, *, dim: bool = False) -> Text:
    """`Node 2: …`, with the name in the node's colour. A name that the line already has is not repeated."""
    name = f"Node {node}: "
    text = line.removeprefix(name).removeprefix("safelight: ")
    style = "dim" if dim else ""
    return Text.assemble((name, f"{style} {_COLOURS[(node - 1) % len(_COLOURS)]}".strip()), (plain(text), style))


class ConsoleReporter:
    """Reports a session's work on the console. Call its methods in the event loop's thread."""

    def __init__(self, *, dialogue: bool) -> None:
        """`dialogue`: failures are part of a conversation; otherwise they go to standard error."""
        self._lines = console()
        self._moving = console(stderr=True)
        self._dialogue = dialogue
        self._output: str | None = None
        self._results: list[dict[str, Any]] = []
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
        size = total // 2  # the image is sent, and comes back
        phase = ("sending", done) if done < size else ("receiving", min(done - size, size))
        self._move(*phase, size)

    def received(self, done: int, total: int) -> None:
        """`done` of `total` bytes are here."""
        self._move("receiving", done, total)

    def processed(self, server: int, assigned_by: int | None = None) -> None:
        if assigned_by is None:
            self.say(f"  ✓ Leader (server {server}) processed request", "green")
        else:
            self.say(f"  ✓ Leader (server {assigned_by}) assigned server {server}, which processed request", "green")

    # -- results --

    @contextmanager
    def reporting(self, output: str | None, field: str = "results") -> Iterator[None]:
        """Report this command's results as text (None), "quiet", "jsonl" or "json": a document with this field."""
        self._output, self._results = output, []
        try:
            yield
            self.settle()
            if output == "json":
                show_document({field: self._results})
        finally:
            self._output = None

    @property
    def is_text(self) -> bool:
        """Whether results are for a person to read."""
        return self._output is None

    def result(self, **fields: Any) -> None:
        """Report one result to a program; a person has read it in words."""
        fields = {name: os.fspath(value) if isinstance(value, Path) else value for name, value in fields.items()}
        if self._output == "quiet" and "path" in fields:
            self.settle()
            click.echo(os.fsencode(fields["path"]))
        elif self._output == "jsonl":
            self.settle()
            show_lines([fields])
        elif self._output == "json":
            self._results.append(fields)

    # -- lines --

    def succeeded(self, what: str, path: Path, *, kept: bool = False) -> None:
        """`what`: "Encrypted", "Decrypted" or "Sealed"."""
        if kept:
            self.say("  ✓ Kept in the vault", "green")
        self.say("✓ Success!", "green")
        self.say(f"{what} image saved to: {path}")

    def failed(self, message: str) -> None:
        self.settle()
        console, line = self.complaint(message)
        console.print(line)

    def say(self, line: str, style: str = "") -> None:
        """Print a line, unless the results are for a program."""
        self.settle()
        if self.is_text:
            self._lines.print(Text(plain(line), style))

    def note(self, line: str) -> None:
        """Print a line that matters with --quiet and --json, too, where failures are printed."""
        self.settle()
        self.noting.print(Text(plain(line)))

    @property
    def noting(self) -> Console:
        """Where failures and notes are printed."""
        return self._lines if self._dialogue and self.is_text else self._moving

    @contextmanager
    def answer(self) -> Iterator[None]:
        """Hold the nodes' log lines back until this block ends, or for ASIDE: they do not interrupt the answer."""
        self._answering = True
        try:
            yield
        finally:
            self._answering = False
            self._show_held()

    def node(self, node: int, line: str) -> None:
        """Print a node's log line, above the bar if there is one."""
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
        """One bar for many files, with lines above it: a context manager."""
        self.settle()
        return BulkReporter(self, self._lines, self._moving, text)

    def complaint(self, message: str) -> tuple[Console, Text]:
        """Where and how a failure is reported."""
        if self._dialogue:
            return self.noting, Text(f"✗ {plain(message)}", "red")
        return self.noting, Text(f"safelight: {plain(message)}")

    def table(self, lines: list[Text]) -> None:
        """Print the lines of a table."""
        self.settle()
        for line in lines:
            self._lines.print(line)

    def settle(self) -> None:
        """Remove the bar or the spinner."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _tell(self, line: str, style: str = "") -> None:
        """Print a line during work; the bar or spinner continues below it."""
        self.say(line, style)
        self._move(self._text, self._done, self._total)

    # -- the bar and the spinner --

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
            columns = [TextColumn("{task.description}", markup=False), *_bar(self._moving)]
        self._timer = None
        self._progress = Progress(
            *columns, console=self._moving, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._task = self._progress.add_task(self._text, completed=self._done, total=self._total)
        self._progress.start()


def _label(console: Console, text: str) -> str:
    """The text, shortened to the space that a bar leaves on a narrow terminal."""
    room = max(console.width - LABELLED, 8)
    return text if console.width >= NARROW or len(text) <= room else text[: room - 1] + "…"


def _bar(console: Console) -> list[ProgressColumn]:
    """The bar and the numbers beside it, as many as the terminal has room for."""
    size = DownloadColumn(binary_units=True)
    if console.width < NARROW:
        return [BarColumn(bar_width=10), size]
    return [
        BarColumn(bar_width=None if console.width < 100 else 40),
        size,
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    ]


class BulkReporter:
    """One bar for many files at once, with lines above it."""

    def __init__(self, reporter: ConsoleReporter, lines: Console, moving: Console, text: str) -> None:
        self._reporter, self._lines, self._moving, self._text = reporter, lines, moving, text
        self._files = 0
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[done]}/{task.fields[files]}"),
            *_bar(moving),
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
        """Expect this many more files and bytes."""
        task = self._progress.tasks[0]
        self._progress.update(self._task, total=(task.total or 0) + size, files=task.fields["files"] + files)

    def waiting(self, reason: str) -> None:
        self._progress.update(self._task, description=_label(self._moving, plain(reason)))

    def advance(self, size: int) -> None:
        self._progress.update(self._task, description=self._text, advance=size)

    def settled(self) -> None:
        """Count one file as finished."""
        self._files += 1
        self._progress.update(self._task, done=self._files)

    def line(self, line: str, style: str = "") -> None:
        """As `ConsoleReporter.say`."""
        if self._reporter.is_text:
            self._print(self._lines, Text(plain(line), style))

    def note(self, line: str) -> None:
        """As `ConsoleReporter.note`."""
        self._print(self._reporter.noting, Text(plain(line)))

    def summary(self, line: str, *, noted: bool) -> None:
        """Print the last line. `noted`: with --quiet and --json, too."""
        if noted and not self._reporter.is_text:
            self.note(line)
        self.line(line, "bold")

    def failed(self, message: str) -> None:
        self._print(*self._reporter.complaint(message))

    def _print(self, console: Console, line: Text) -> None:
        # On a terminal both streams are one screen, and only the bar's console knows where the bar is.
        (self._moving if console.is_terminal and not self._progress.disable else console).print(line)


class BulkItemFeedback(NullFeedback):
    """Feedback about one file of a bulk run, of `size` bytes."""

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
