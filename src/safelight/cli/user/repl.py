"""The REPL: reads a line, executes it, prints the answer. An error is an answer, too; `quit` and Ctrl-D end it.

On a terminal, prompt_toolkit reads the lines, with completion and a history. Otherwise standard input has them: each is
shown as if it had been typed, and the exit code reports whether all of them succeeded.
"""

from __future__ import annotations

import asyncio
import difflib
import errno
import os
import shutil
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from safelight.cli.output.console import ConsoleReporter
from safelight.cli.user.commands import Ask, Commands, history, info, status
from safelight.cli.user.completion import completions
from safelight.cli.user.declarations import user_commands
from safelight.cli.user.history import History
from safelight.cli.user.words import expand, is_comment, split
from safelight.client.async_client import AsyncClient
from safelight.client.session import Session
from safelight.config import Config, expanded
from safelight.errors import SafelightError, reason
from safelight.names import shown

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.input import Input

prompt_commands = click.Group(
    "prompt",
    commands={
        **user_commands.commands,
        "help": click.Command("help", short_help="Show this list; help upload shows the options of upload, and so on."),
        "quit": click.Command(
            "quit", short_help="Leave, as exit and Ctrl-D do. Ctrl-C stops a command that is running."
        ),
        "exit": click.Command("exit", hidden=True),
    },
)
"""The commands at the prompt."""

NOTES = (
    "Quote a path with spaces. A path can begin with ~ and can be a pattern, such as *.png. A NAME can be a pattern, "
    "too. A name that exists is never a pattern. A line that begins with # is a comment."
)


class Repl:
    """One user's conversation, wherever the lines come from."""

    def __init__(
        self, config: Config, session: Session, reporter: ConsoleReporter, ask: Ask | None = None, user: str = ""
    ) -> None:
        """`ask` asks the person at the terminal; None without a terminal. `user`: whose history it writes, if any."""
        self.done = False
        self._ask, self._config, self._reporter = ask, config, reporter
        self._history = History(config.client_dir, user) if user else None
        self._commands = Commands(session, reporter, ask=ask, history=self._history)

    @property
    def known(self) -> Mapping[str, str]:
        """Image names that complete, with their original names."""
        return self._commands.known

    async def execute(self, line: str) -> bool:
        """Execute a line. Reports a failure and returns False."""
        with self._reporter.answer():
            return await self._execute(line)

    async def _execute(self, line: str) -> bool:
        try:
            words = [] if is_comment(line) else split(line)
            return await self._dispatch(words[0], words[1:]) if words else True
        except SafelightError as error:
            self._reporter.failed(str(error))
        except click.exceptions.Exit:  # from --help
            return True
        except click.ClickException as error:
            self._reporter.failed(error.format_message())
        except Exception as error:
            self._reporter.failed(f"this is a bug in Safelight, please report it: {error!r}")
        finally:
            self._reporter.settle()
        return False

    async def _dispatch(self, name: str, words: list[str]) -> bool:
        if name not in prompt_commands.commands:
            close = difflib.get_close_matches(name.lower(), prompt_commands.commands, n=1)
            hint = f"did you mean {close[0]}?" if close else "help lists all there are"
            raise SafelightError(f"there is no command {shown(name)}; {hint}")
        if name == "help":
            return await self._help(words)
        if name in ("quit", "exit"):
            if words:
                raise SafelightError(f"{name} takes nothing after it")
            self.done = True
            return True
        options = self._options(name, words)
        match name:
            case "info":
                return info(self._reporter, **options)
            case "status":
                return await status(self._config, self._reporter, **options)
            case "history":
                return await history(self._history, **options) if self._history is not None else True
            case "ls" if self._ask is not None:
                return await self._commands.ls(**options, most=max(20, shutil.get_terminal_size().lines - 5))
        command: Callable[..., Awaitable[bool]] = getattr(self._commands, name)
        return await command(**options)

    def _options(self, name: str, words: list[str]) -> dict[str, Any]:
        """A command's parameters, with paths expanded. Raises click.ClickException, Exit and SafelightError."""
        with prompt_commands.commands[name].make_context(name, list(words)) as context:
            options = context.params
        if "paths" in options:
            options["paths"] = expand(options["paths"])
        if options.get("to") is not None:
            options["to"] = expanded(options["to"])
        return options

    async def _help(self, words: list[str]) -> bool:
        if words and words[0] in user_commands.commands:
            return await self._dispatch(words[0], ["--help"])
        formatter = click.HelpFormatter(width=min(shutil.get_terminal_size().columns, 100))
        rows = []
        for name, command in prompt_commands.commands.items():
            if not command.hidden:
                usage = command.collect_usage_pieces(click.Context(command))
                what = command.get_short_help_str(limit=200)
                rows.append((" ".join([name, *(piece for piece in usage if piece != "[OPTIONS]")]), what))
        formatter.write_dl(rows)
        formatter.write_text(NOTES)
        for line in formatter.getvalue().splitlines():
            self._reporter.say(line)
        return True


# -- where the lines come from --


async def converse(config: Config, user: str, reporter: ConsoleReporter) -> bool:
    """Run the REPL of `user`, on a terminal or with standard input. Returns whether every line of the latter succeeded.

    Raises InvalidName for the user.
    """
    async with AsyncClient.of(config, user) as client:
        session = client.session
        at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        repl = Repl(config, session, reporter, _ask if at_terminal else None, user)
        if at_terminal:
            await _on_terminal(repl, config, user, reporter)
            return True
        return await _through_pipe(repl, user, reporter)


async def _through_pipe(repl: Repl, user: str, reporter: ConsoleReporter) -> bool:
    succeeded = True
    async for line in _standard_input():
        if not line.strip() or is_comment(line):
            continue
        reporter.say(f"{user}> {line}")
        succeeded &= await repl.execute(line)
        if repl.done:
            break
    return succeeded


async def _standard_input() -> AsyncIterator[str]:
    """Lines, read in a daemon thread and without a lock that others need: a read that blocks does not block the exit.

    Raises SafelightError if standard input is closed.
    """
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | OSError | None] = asyncio.Queue()

    def read() -> None:
        with suppress(RuntimeError):  # the loop has ended
            try:
                with open(0, "rb", buffering=0, closefd=False) as stream:
                    while line := stream.readline():
                        loop.call_soon_threadsafe(lines.put_nowait, os.fsdecode(line.rstrip(b"\r\n")))
                loop.call_soon_threadsafe(lines.put_nowait, None)
            except OSError as error:
                loop.call_soon_threadsafe(lines.put_nowait, error)

    threading.Thread(target=read, daemon=True).start()
    while (line := await lines.get()) is not None:
        if isinstance(line, OSError):
            why = "it is closed" if line.errno == errno.EBADF else reason(line)
            raise SafelightError(f"cannot read commands from standard input: {why}")
        yield line


async def _on_terminal(repl: Repl, config: Config, user: str, reporter: ConsoleReporter) -> None:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.shortcuts import CompleteStyle

    reporter.say("Type help for the commands. Tab completes commands, paths and names.", "dim")
    prompt: PromptSession[str] = PromptSession(
        history=_typed_lines(config.client_dir / f"history-{user}"),
        completer=_completer(lambda: repl.known),
        complete_style=CompleteStyle.READLINE_LIKE,
        enable_suspend=True,
    )
    # Ctrl-C stays a key between two prompts, too. As a signal it would also reach the parent process, and `make` would
    # report a failure.
    with prompt.input.raw_mode():
        while not repl.done:
            try:
                line = await prompt.prompt_async(f"{user}> ")
            except KeyboardInterrupt:
                continue
            except EOFError:
                break
            await _interruptible(repl.execute(line), reporter, prompt.input)


async def _interruptible(work: Coroutine[Any, Any, bool], reporter: ConsoleReporter, keyboard: Input) -> None:
    """Run a command. Ctrl-C, as a key or as a signal, stops it. Other keys are kept for the next prompt."""
    from prompt_toolkit.input.typeahead import store_typeahead
    from prompt_toolkit.keys import Keys

    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)

    def typed() -> None:
        keys = keyboard.read_keys()
        if any(key.key == Keys.ControlC for key in keys):
            task.cancel()
        else:
            store_typeahead(keyboard, keys)

    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        with keyboard.attach(typed):
            await asyncio.wait([task])
        if task.cancelled():
            reporter.failed("stopped by Ctrl-C")
        else:
            task.result()
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


def above_prompt(show: Callable[[], None]) -> None:
    """Print above the prompt, if there is one. Call it in the event loop's thread."""
    from prompt_toolkit.application import get_app_or_none, run_in_terminal

    app = get_app_or_none()
    if app is not None and app.is_running:
        run_in_terminal(show)
    else:
        show()


def _typed_lines(file: Path) -> FileHistory | InMemoryHistory:
    """The lines that the user typed before. Only the user can read the file, because paths are private."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    try:
        file.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        with open(os.open(file, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600), "rb") as opened:
            os.fchmod(opened.fileno(), 0o600)
    except OSError:  # a read-only home directory
        return InMemoryHistory()
    return FileHistory(file)


async def _ask(question: str) -> str | None:
    """Ask during a command."""
    from prompt_toolkit import PromptSession

    prompt: PromptSession[str] = PromptSession()
    try:
        return await prompt.prompt_async(f"{question} ", handle_sigint=False)
    except (KeyboardInterrupt, EOFError):
        return None


def _completer(known: Callable[[], Mapping[str, str]]) -> Completer:
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

    class ShellLike(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            for text, label, length in completions(prompt_commands, document.text_before_cursor, known()):
                yield Completion(text, start_position=-length, display=label)

    return ShellLike()
