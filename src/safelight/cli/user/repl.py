"""The conversation: a line is read, done, answered. An error is an answer, too; only `quit` and Ctrl-D end it.

On a terminal lines come from prompt_toolkit, with completion and a history. Otherwise they come from standard input,
each is shown as if it had been typed, and the exit code says whether all of them succeeded.
"""

import asyncio
import difflib
import errno
import glob
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from safelight.cli.output.console import ConsoleReporter
from safelight.cli.user.arguments import (
    Decorator,
    decrypt_arguments,
    get_arguments,
    info_arguments,
    ls_arguments,
    rm_arguments,
    upload_arguments,
)
from safelight.cli.user.commands import Commands, Confirm, info
from safelight.client.async_client import AsyncClient
from safelight.client.requests.status import leader_of, survey
from safelight.client.session import Session
from safelight.config import Config, expanded
from safelight.errors import SafelightError, reason
from safelight.names import shown
from safelight.wire.messages import Scheme

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import History
    from prompt_toolkit.input import Input

HELP = """\
upload PATH…     encrypt images into images/          [--scheme classic] [--any] [--no-keep] [--follow-links]
                                                      [--to DIR]
decrypt PATH…    open them again into decrypted/      [--scheme classic] [--to DIR]
ls [PATTERN]     images that the vault keeps          [--json]
get NAME…        decrypt them into decrypted/         [--sealed] [--force] [--to DIR]
rm NAME…         remove them from the vault           [--yes] [--pattern]
info FILE…       what a file says of itself, without a key
status           every node: who leads, what it does and has done
help             this list; help upload says more of upload, and so on
quit, exit       or Ctrl-D; Ctrl-C stops what is running
# …              is a comment
Paths may be quoted, begin with ~, and be patterns such as *.png; NAME may be a pattern, too.
What has exactly this name, or came from a file of it, is meant before any pattern"""

NAMES = ("upload", "decrypt", "ls", "get", "rm", "info", "status", "help", "quit", "exit")
OPTIONS = {
    "upload": ("--scheme", "--any", "--no-keep", "--follow-links", "--to"),
    "decrypt": ("--scheme", "--to"),
    "ls": ("--json",),
    "get": ("--to", "--sealed", "--force"),
    "rm": ("--yes", "--pattern"),
    "info": (),
}
OF_VAULT = ("ls", "get", "rm")


class Repl:
    """One user's conversation. `execute` is all of it that does not depend on where the lines come from."""

    def __init__(
        self, config: Config, session: Session, transcript: ConsoleReporter, confirm: Confirm | None = None
    ) -> None:
        """`confirm` asks the person at the terminal; None: there is none."""
        self.done = False
        self.listed: list[str] = []  # by the last `ls`, for completion
        self._confirm = confirm
        self._config = config
        self._transcript = transcript
        self._commands = Commands(session, transcript)

    async def execute(self, line: str) -> bool:
        """Run one line. False if it failed; the error has been reported."""
        with self._transcript.answer():
            return await self._execute(line)

    async def _execute(self, line: str) -> bool:
        try:
            words = [] if is_comment(line) else split(line)
            return await self._dispatch(words[0], words[1:]) if words else True
        except SafelightError as error:
            self._transcript.failed(str(error))
        except click.exceptions.Exit:  # from --help
            return True
        except click.ClickException as error:
            self._transcript.failed(error.format_message())
        except Exception as error:
            self._transcript.failed(f"this is a bug in Safelight, please report it: {error!r}")
        finally:
            self._transcript.settle()
        return False

    async def _dispatch(self, name: str, words: list[str]) -> bool:
        match name:
            case "upload":
                options = _parse(name, upload_arguments, words)
                return await self._commands.upload(
                    expand(options["paths"]),
                    to=expanded(options["to"]),
                    scheme=Scheme(options["scheme"]),
                    any_type=options["any_type"],
                    no_keep=options["no_keep"],
                    follow_links=options["follow_links"],
                )
            case "decrypt":
                options = _parse(name, decrypt_arguments, words)
                return await self._commands.decrypt(
                    expand(options["paths"]),
                    to=expanded(options["to"]),
                    scheme=Scheme(options["scheme"]),
                )
            case "ls":
                options = _parse(name, ls_arguments, words)
                most = max(20, shutil.get_terminal_size().lines - 5) if self._confirm else None
                self.listed = await self._commands.ls(options["pattern"], as_json=options["as_json"], most=most)
            case "get":
                options = _parse(name, get_arguments, words)
                return await self._commands.get(
                    options["names"],
                    to=options["to"] and expanded(options["to"]),
                    sealed=options["sealed"],
                    force=options["force"],
                )
            case "rm":
                options = _parse(name, rm_arguments, words)
                return await self._commands.rm(
                    options["names"], yes=options["yes"], pattern=options["pattern"], confirm=self._confirm
                )
            case "info":
                return info(expand(_parse(name, info_arguments, words)["paths"]), self._transcript)
            case "help" if words and words[0] in OPTIONS:
                return await self._dispatch(words[0], ["--help"])
            case "status" | "quit" | "exit" if words:
                raise SafelightError(f"{name} takes nothing after it")
            case "status":
                servers = await survey(self._config)
                self._transcript.status(servers)
                return leader_of(servers) is not None
            case "help":
                for line in HELP.splitlines():
                    self._transcript.say(line)
            case "quit" | "exit":
                self.done = True
            case _:
                close = difflib.get_close_matches(name.lower(), NAMES, n=1)
                hint = f"did you mean {close[0]}?" if close else "help lists all there are"
                raise SafelightError(f"there is no command {shown(name)}; {hint}")
        return True


def is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def split(line: str) -> list[str]:
    """The words of a line, quotes and backslashes as in a shell. Raises SafelightError."""
    try:
        return shlex.split(line)
    except ValueError as error:
        what = "a quote is not closed" if "quot" in str(error) else "nothing follows the last backslash"
        raise SafelightError(f"{what}; write a path with spaces as 'my photo.png'") from None


def expand(paths: Sequence[str]) -> list[str]:
    """`~` and patterns, as in a shell; what exists is taken literally.

    Raises SafelightError for no match, and for words that are a file's name only together.
    """
    together = " ".join(paths)
    if len(paths) > 1 and _exists(together) and not all(map(_exists, paths)):
        inside = "/*" if os.path.isdir(os.path.expanduser(together)) else ""
        raise SafelightError(f"a path with spaces needs quotes: {shlex.quote(together.rstrip('/'))}{inside}")
    found: list[str] = []
    for path in paths:
        home = os.path.expanduser(path)
        if not glob.has_magic(home) or _may_exist(home):
            found.append(home)
        elif matches := [match for match in _matches(home) if not os.path.isdir(match)]:
            found += matches
        else:
            raise SafelightError(f"no file matches {shown(path)}")
    return found


def _matches(pattern: str) -> list[str]:
    """The paths that a pattern matches, in order; a part of it that exists as it stands is taken literally.

    Raises SafelightError for a directory that cannot be read: what is in it may be meant.
    """
    found = ["/" if pattern.startswith("/") else ""]
    for part in filter(None, pattern.split("/")):
        found = [os.path.join(folder, name) for folder in found for name in _named(folder, part)]
    return found


def _named(folder: str, part: str) -> list[str]:
    if _may_exist(os.path.join(folder, part)):
        return [part]
    if not glob.has_magic(part):
        return []
    try:
        names = os.listdir(folder or ".")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SafelightError(f"cannot read {shown(folder or '.')}: {reason(error)}") from error
    hidden = part.startswith(".")
    return sorted(name for name in names if fnmatchcase(name, part) and (hidden or not name.startswith(".")))


def _exists(path: str) -> bool:
    return os.path.lexists(os.path.expanduser(path))


def _may_exist(path: str) -> bool:
    """False only if there is no such file: of what cannot be examined, its reader says why."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG  # no file has a name that is too long
    return True


def completions(line: str, images: Sequence[str] = ()) -> Iterator[tuple[str, str, int]]:
    """For the line up to the cursor: (what to insert, what to show, how many characters it replaces).

    `images`: the names of images that are known.
    """
    raw, word, before = _last_word(line)
    if not before:
        yield from ((name + " ", name, len(raw)) for name in NAMES if name.startswith(word))
        return
    if word.startswith("-"):
        options = OPTIONS.get(before[0], ())
        yield from ((option + " ", option, len(raw)) for option in options if option.startswith(word))
    elif before[-1] == "--scheme":
        yield from ((scheme + " ", scheme, len(raw)) for scheme in Scheme if scheme.startswith(word))
    elif before[0] in OF_VAULT and before[-1] != "--to":
        yield from ((shlex.quote(name) + " ", name, len(raw)) for name in images if name.startswith(word))
    elif before[0] in OPTIONS:
        yield from ((text, label, len(raw)) for text, label in _paths(word, directories=before[-1] == "--to"))


def _last_word(line: str) -> tuple[str, str, list[str]]:
    """The word at the cursor as typed (perhaps with an open quote) and as meant, and the words before it."""
    start, quote, escaped = 0, "", False
    for position, character in enumerate(line):
        if escaped:
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character.isspace():
            start = position + 1
    raw = line[start:]
    closed = raw.removesuffix("\\") if escaped else raw
    return raw, "".join(shlex.split(closed + quote)), shlex.split(line[:start])


def _paths(word: str, *, directories: bool) -> Iterator[tuple[str, str]]:
    folder, _, prefix = word.rpartition("/")
    parent = folder + "/" if "/" in word else ""
    try:
        with os.scandir(os.path.expanduser(parent) or ".") as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries if entry.is_dir() or entry.is_file())
    except OSError:
        return
    for name, is_directory in found:
        hidden = name.startswith(".") and not prefix.startswith(".")
        if hidden or not name.startswith(prefix) or (directories and not is_directory):
            continue
        if is_directory:  # the quote stays open: the path goes on
            yield _quoted(parent + name + "/").removesuffix("'"), name + "/"
        else:
            yield _quoted(parent + name) + " ", name


def _quoted(path: str) -> str:
    home, slash, rest = path.partition("/")
    if home.startswith("~") and slash:
        return home + slash + (shlex.quote(rest) if rest else "")
    return shlex.quote(path)


def _parse(name: str, arguments: Decorator, words: list[str]) -> dict[str, Any]:
    command = click.command(name)(arguments(lambda **options: options))
    with command.make_context(name, list(words)) as context:
        return context.params


# -- where the lines come from --


async def converse(config: Config, user: str, transcript: ConsoleReporter) -> bool:
    """The whole conversation of `user`: on a terminal, or with standard input. False if anything failed in the latter.

    Raises InvalidName for the user.
    """
    async with AsyncClient.of(config, user) as client:
        session = client.session
        at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        repl = Repl(config, session, transcript, _confirm if at_terminal else None)
        if at_terminal:
            await _on_terminal(repl, config, user, transcript)
            return True
        return await _through_pipe(repl, user, transcript)


async def _through_pipe(repl: Repl, user: str, transcript: ConsoleReporter) -> bool:
    succeeded = True
    async for line in _standard_input():
        if not line.strip() or is_comment(line):
            continue
        transcript.say(f"{user}> {line}")
        succeeded &= await repl.execute(line)
        if repl.done:
            break
    return succeeded


async def _standard_input() -> AsyncIterator[str]:
    """Read in a daemon thread and without a lock that others want: a read that never returns keeps nobody here.

    Raises SafelightError where there is nothing to read from.
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


async def _on_terminal(repl: Repl, config: Config, user: str, transcript: ConsoleReporter) -> None:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.shortcuts import CompleteStyle

    transcript.say("Type help for the commands; Tab completes them and paths.", "dim")
    prompt: PromptSession[str] = PromptSession(
        history=_history(config.client_dir / f"history-{user}"),
        completer=_completer(lambda: repl.listed),
        complete_style=CompleteStyle.READLINE_LIKE,
        enable_suspend=True,
    )
    # Between two prompts, too, Ctrl-C must be a key and not a signal: a signal would also end the parent process,
    # such as `make`.
    with prompt.input.raw_mode():
        while not repl.done:
            try:
                line = await prompt.prompt_async(f"{user}> ")
            except KeyboardInterrupt:
                continue
            except EOFError:
                break
            await _interruptible(repl.execute(line), transcript, prompt.input)


async def _interruptible(work: Coroutine[Any, Any, bool], transcript: ConsoleReporter, keyboard: "Input") -> None:
    """Do it; Ctrl-C, as a key or as a signal, ends this and not us. What else is typed is kept for the next prompt."""
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
            transcript.failed("stopped by Ctrl-C")
        else:
            task.result()
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


def above_prompt(show: Callable[[], None]) -> None:
    """Print while a prompt may be waiting: it is taken away and drawn again below. For the event loop's thread."""
    from prompt_toolkit.application import get_app_or_none, run_in_terminal

    app = get_app_or_none()
    if app is not None and app.is_running:
        run_in_terminal(show)
    else:
        show()


def _history(file: Path) -> "History":
    """Lines of earlier conversations; nobody else's to read, because paths say a lot."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    try:
        file.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        with open(os.open(file, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600), "rb") as opened:
            os.fchmod(opened.fileno(), 0o600)
    except OSError:  # a read-only home is no reason not to work
        return InMemoryHistory()
    return FileHistory(file)


async def _confirm(question: str) -> bool:
    """Ask in the middle of a command."""
    from prompt_toolkit import PromptSession

    prompt: PromptSession[str] = PromptSession()
    try:
        answer = await prompt.prompt_async(f"{question} [y/N] ", handle_sigint=False)
    except (KeyboardInterrupt, EOFError):
        return False
    return answer.strip().lower() in ("y", "yes")


def _completer(listed: Callable[[], Sequence[str]]) -> "Completer":
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

    class ShellLike(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            for text, label, length in completions(document.text_before_cursor, listed()):
                yield Completion(text, start_position=-length, display=label)

    return ShellLike()
