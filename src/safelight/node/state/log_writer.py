"""A node's log, written by a thread of its own, so that a slow or stopped reader cannot delay the node.

Lines wait in a queue until they can be written; those that find it full are counted instead. The thread writes to the
descriptor, past Python's buffers: the interpreter would wait for them when it ends. (`logging.handlers.QueueListener`
does neither: it writes through those buffers, and stopping it waits for its thread without a limit.)
"""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
from collections import deque
from datetime import UTC, datetime
from typing import TextIO

CAPACITY = 10_000
"""Lines that wait to be written; some 100 bytes each."""

RETRY = 1.0
"""Seconds until the next attempt after writing failed: a full disk may have free space again."""


class LogWriter:
    """Lines for one stream. `write` may be called from any thread, and neither raises nor waits."""

    def __init__(self, stream: TextIO | None, prefix: str = "", *, times: bool = False) -> None:
        """`times`: begin each line with its time (RFC 3339, UTC). Nothing is written if the process was started without
        the stream: it is None, or not open for writing.
        """
        self._prefix, self._times = prefix, times
        self._encoding = stream.encoding if stream else ""
        self._descriptor = stream.fileno() if stream else -1
        self._lines: deque[bytes] = deque()
        self._lost = 0
        self._closing = False
        self._error: OSError | None = None
        self._changed = threading.Condition()
        self._writer = threading.Thread(target=self._write_all, name="log", daemon=True)
        if stream:
            self._writer.start()

    def write(self, line: str) -> None:
        """Queue a line."""
        with self._changed:
            if self._descriptor < 0:
                return
            capacity = CAPACITY if not self._lost else CAPACITY // 2  # one long gap rather than many short ones
            if len(self._lines) >= capacity:
                self._lost += 1
                return
            self._report_lost()
            self._lines.append(self._encoded(line))
            self._changed.notify()

    def close(self, timeout: float) -> OSError | None:
        """Write what is in the queue, for at most `timeout` seconds. The error, unless the reader closed the log."""
        with self._changed:
            self._closing = True
            self._changed.notify()
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
                    self._abandon()
                    return
                self._error = error
                with self._changed:
                    if self._changed.wait_for(lambda: self._closing, RETRY):
                        return

    def _abandon(self) -> None:
        with self._changed:
            self._descriptor = -1
            self._lines.clear()

    def _next(self) -> bytes:
        """The lines to write at once: no more bytes than a pipe takes atomically (pipe(7)). Empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closing)
            data = b""
            while self._lines and (not data or len(data) + len(self._lines[0]) <= select.PIPE_BUF):
                data += self._lines.popleft()
            if not self._lines:
                self._report_lost()
            return data

    def _report_lost(self) -> None:
        """Put a line where lines are lost."""
        if self._lost:
            self._lines.append(self._encoded(f"{self._lost} lines were lost here: the reader was too slow"))
            self._lost = 0

    def _encoded(self, line: str) -> bytes:
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z ") if self._times else ""
        return f"{time}{self._prefix}{line}\n".encode(self._encoding, "replace")


class _Handler(logging.Handler):
    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.write(self.format(record))
