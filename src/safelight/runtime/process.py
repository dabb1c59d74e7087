"""What a process can rely on from its first moment: three standard streams, a usable environment, no core dump.

A standard stream may be closed when a program starts (`<&-`, `>&-`, `2>&-`). The next file that is opened then gets its
number, and what is meant for the terminal goes into that file. So what is missing is opened first, on /dev/null and the
wrong way round: reading and writing fail with EBADF, as they do on a closed stream.

Output that cannot be written ends the process, as a signal does: with SystemExit, through its `with` and `finally`
blocks. No `except OSError` on the way, which is there for a network or a file, takes it for its own.
"""

import errno
import io
import os
import re
import resource
import select
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from safelight.errors import reason

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_SIZE = re.compile(r"[1-9][0-9]{0,3}")  # of a terminal, in characters


class OutputLost(SystemExit):
    """Standard output cannot be written; `end` says why."""


def prepare() -> None:
    """To be called first in the main thread: the standard streams, the environment, and the limit of core dumps."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # every command has keys or a token in its memory
    _tidy_environment()
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, mode), True)  # it gets the lowest number that is free: this one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 — it stays open
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _checked(stream, 1 if name == "stdout" else 2))
        elif hasattr(stream, "reconfigure"):  # a test captures it
            stream.reconfigure(errors="replace")


def end(code: int) -> int:
    """The exit code of a process that would end with `code`, once its output is written: 1 instead of 0 if not all is.

    Why standard output was lost is said on standard error, unless its reader has gone (EPIPE).
    """
    lost = []
    for stream in (sys.stdout, sys.stderr):
        with suppress(OutputLost):
            stream.flush()
        if isinstance(raw := getattr(stream, "buffer", None), _Output) and raw.error:
            lost.append(raw.error)
            if stream is sys.stdout and raw.error.errno != errno.EPIPE:
                why = "it is closed" if raw.error.errno == errno.EBADF else reason(raw.error)
                print(f"safelight: cannot write to standard output: {why}", file=sys.stderr)
    return 1 if lost and not code else code


class _Output(io.FileIO):
    """A standard stream's descriptor. It records the first error, and writes nothing after that."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.error: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        while left and self.error is None:
            try:
                written = super().write(left)
            except OSError as error:
                self.error = error
                if self.fileno() == 1:
                    raise OutputLost(1) from None
            else:
                if written is None:  # another process may have made a shared terminal non-blocking
                    select.select([], [self], [])
                else:
                    left = left[written:]
        return size


def _checked(stream: TextIO | None, descriptor: int) -> TextIO:
    """The same stream, but with errors recorded, and with "?" for what its encoding lacks."""
    return io.TextIOWrapper(
        _Output(descriptor),  # unbuffered: the text's own buffer is enough
        encoding=stream.encoding if stream else "utf-8",
        errors="replace",
        line_buffering=isinstance(stream, io.TextIOWrapper) and stream.line_buffering,
        write_through=isinstance(stream, io.TextIOWrapper) and stream.write_through,
    )


def _tidy_environment() -> None:
    """Remove unusable values: sizes that no terminal has, and directories that are not absolute.

    The XDG Base Directory Specification requires that the latter are ignored; such a HOME is useless, too.
    """
    for name in ("COLUMNS", "LINES"):
        if not _SIZE.fullmatch(os.environ.get(name, "1")):
            del os.environ[name]
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        if not os.environ.get(name, "/").startswith("/"):
            del os.environ[name]
