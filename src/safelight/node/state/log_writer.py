"""A node's log, written by a thread of its own, so that a slow or stopped reader cannot delay the node.

Lines wait in a queue until they can be written; those that find it full are counted instead.

The thread writes to the descriptor, past Python's buffers: the interpreter would wait for them when it ends.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
from collections import deque
from typing import TextIO

CAPACITY = 10_000
"""Lines that wait to be written; some 100 bytes each."""

RETRY = 1.0
"""Seconds until another attempt where writing failed: a full disk may have room again."""


class LogWriter:
    """Lines for one stream. `say` may be called from any thread, and neither raises nor waits."""

    def __init__(self, stream: TextIO | None, prefix: str = "") -> None:
        """Nothing is written where the process was started without the stream: it is None, or not open for writing."""
        self._prefix = prefix
        self._encoding = stream.encoding if stream else ""
        self._descriptor = stream.fileno() if stream else -1
        self._lines: deque[bytes] = deque()
        self._lost = 0
        self._closing = False
        self._error: OSError | None = None
        self._news = threading.Condition()
        self._writer = threading.Thread(target=self._write_all, name="journal", daemon=True)
        if stream:
            self._writer.start()

    def say(self, line: str) -> None:
        """Write a line as soon as possible, after those before it."""
        with self._news:
            if self._descriptor < 0:
                return
            room = CAPACITY if not self._lost else CAPACITY // 2  # one long gap rather than many short ones
            if len(self._lines) >= room:
                self._lost += 1
                return
            self._tell_lost()
            self._lines.append(self._encoded(line))
            self._news.notify()

    def close(self, timeout: float) -> OSError | None:
        """Write what is in the queue, for at most `timeout` seconds. The error, unless the reader closed the log."""
        with self._news:
            self._closing = True
            self._news.notify()
        if self._writer.is_alive():
            self._writer.join(timeout)
        return None if isinstance(self._error, BrokenPipeError) else self._error

    def handler(self) -> logging.Handler:
        """For log records."""
        return _Handler(self)

    def _write_all(self) -> None:
        data = b""
        while data := data or self._next():
            try:
                data = data[os.write(self._descriptor, data) :]
                self._error = None
            except BlockingIOError:  # another process that shares the terminal can have set this
                select.select([], [self._descriptor], [])
            except OSError as error:
                if error.errno == errno.EBADF:
                    self._give_up()
                    return
                self._error = error
                with self._news:
                    if self._news.wait_for(lambda: self._closing, RETRY):
                        return

    def _give_up(self) -> None:
        with self._news:
            self._descriptor = -1
            self._lines.clear()

    def _next(self) -> bytes:
        """What to write at once, empty at the end: no more than a pipe takes without mixing it with others' writes."""
        with self._news:
            self._news.wait_for(lambda: self._lines or self._closing)
            data = b""
            while self._lines and (not data or len(data) + len(self._lines[0]) <= select.PIPE_BUF):
                data += self._lines.popleft()
            if not self._lines:
                self._tell_lost()
            return data

    def _tell_lost(self) -> None:
        """Put a line where lines are missing."""
        if self._lost:
            self._lines.append(self._encoded(f"{self._lost} lines were lost here: nobody read them in time"))
            self._lost = 0

    def _encoded(self, line: str) -> bytes:
        return f"{self._prefix}{line}\n".encode(self._encoding, "replace")


class _Handler(logging.Handler):
    def __init__(self, journal: LogWriter) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        self._journal.say(self.format(record))
